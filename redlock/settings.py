"""Settings as plain values, read from a mapping: the environment, or Celery's configuration.

Rules: every setting has one name, the field's; in the environment it is written large with a prefix
(`REDLOCK_TTL`), in Celery's configuration small (`app.conf.redlock_ttl`). A name that begins with the prefix
and is no setting is an error: a misspelt setting must not be a silent default.
"""

from __future__ import annotations

import dataclasses
import difflib
from typing import TYPE_CHECKING, Any, TypeVar

from redlock.client import Redlock
from redlock.errors import ConfigurationError
from redlock.nodes import DEFAULT_NODES

if TYPE_CHECKING:
    from collections.abc import Mapping

T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class Settings:
    """What a `Redlock` client is made from; see there for the meaning of each."""

    nodes: str = ",".join(DEFAULT_NODES)
    ttl: float = 5.0
    max_ttl: float = 10.0
    prefix: str = ""
    node_timeout: float = 0.1

    def client(self) -> Redlock:
        """A client with these settings."""
        return Redlock(
            self.nodes,
            ttl=self.ttl,
            max_ttl=self.max_ttl,
            prefix=self.prefix,
            node_timeout=self.node_timeout,
        )


def read(kind: type[T], source: Mapping[str, Any], prefix: str, base: T | None = None) -> T:
    """The settings of this kind, a dataclass with a default for each field, from a mapping.

    Args:
        kind: The dataclass.
        source: Where to look; names that do not begin with the prefix are ignored.
        prefix: `REDLOCK_` or `redlock_`: its case says how the names are written.
        base: Where to take what the source does not say; the dataclass's defaults otherwise.

    Raises:
        ConfigurationError: A value is of the wrong type, or a name with this prefix is no setting.
    """
    fields = {
        prefix + (field.name.upper() if prefix.isupper() else field.name): field
        for field in dataclasses.fields(kind)  # type: ignore[arg-type]
    }
    given = {name: value for name, value in source.items() if name.startswith(prefix)}
    for name in given:
        if name not in fields:
            near = difflib.get_close_matches(name, fields, n=1)
            hint = f"did you mean {near[0]}?" if near else f"the settings are {', '.join(fields)}"
            raise ConfigurationError(f"{name} is no setting; {hint}")
    values = {fields[name].name: _typed(name, value, fields[name].default) for name, value in given.items()}
    return dataclasses.replace(kind() if base is None else base, **values)  # type: ignore[type-var]


def _typed(name: str, value: object, default: object) -> object:
    if isinstance(default, float):
        if isinstance(value, str):
            try:
                return float(value)
            except ValueError:
                raise ConfigurationError(f"{name} is {value!r}; it must be a number, such as {default:g}") from None
        return value
    if (
        name.lower().endswith("_nodes")
        and isinstance(value, list | tuple)
        and all(isinstance(item, str) for item in value)
    ):
        return ",".join(value)
    if not isinstance(value, str):
        raise ConfigurationError(f"{name} is {type(value).__name__} {value!r:.40}; it must be text")
    return value
