"""Settings as plain values, read from a mapping: the environment, or Celery's configuration.

Rules: every setting has one name, the field's; in the environment it is written large with a prefix
(`REDLOCK_TTL`), in Celery's configuration small (`app.conf.redlock_ttl`). A name that begins with the prefix
and is no setting is an error: a misspelt setting must not be a silent default. In the environment `REDLOCK_TTL_FILE`
names a file that has the value: a password in an address is then in no list of processes and no `docker inspect`.
"""

from __future__ import annotations

import dataclasses
import difflib
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from redlock.client import Redlock
from redlock.errors import ConfigurationError
from redlock.nodes import DEFAULT_NODES

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

T = TypeVar("T")

_TOLD = frozenset({"REDLOCK_FENCE", "REDLOCK_RESOURCE"})
"""What `redlock run` tells the program that it runs; no settings of that program."""

_EVENTS = ("all", "contention", "off")
_FILE = "_FILE"


@dataclasses.dataclass(frozen=True)
class Settings:
    """What a `Redlock` client is made from, and what Celery's workers do beside.

    Attributes:
        nodes: See `Redlock`, as for the next four.
        ttl: See there.
        max_ttl: See there.
        prefix: See there.
        node_timeout: See there.
        events: What workers tell Flower: "all", "contention" (nothing about locks that were free) or "off".
        heartbeat_file: A file that a worker touches every 5 seconds as long as it takes tasks; none if empty.
        metrics_file: Where a worker writes its figures for Prometheus every 5 seconds; nowhere if empty.

    Raises:
        ConfigurationError: `events` is none of these; the others are checked when a client is made.
    """

    nodes: str = ",".join(DEFAULT_NODES)
    ttl: float = 5.0
    max_ttl: float = 10.0
    prefix: str = ""
    node_timeout: float = 0.1
    events: str = "all"
    heartbeat_file: str = ""
    metrics_file: str = ""

    def __post_init__(self) -> None:
        if self.events not in _EVENTS:
            raise ConfigurationError(f"redlock_events is {self.events!r:.40}; it must be 'all', 'contention' or 'off'")

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
        ConfigurationError: A value is of the wrong type, a file can't be read, or a name with this prefix is no
            setting.
    """
    fields = {
        prefix + (field.name.upper() if prefix.isupper() else field.name): field
        for field in dataclasses.fields(kind)  # type: ignore[arg-type]
    }
    given = {name: value for name, value in source.items() if name.startswith(prefix) and name not in _TOLD}
    given = _with_files(given, fields)
    for name in given:
        if name not in fields:
            near = difflib.get_close_matches(name, fields, n=1)
            hint = f"did you mean {near[0]}?" if near else f"the settings are {', '.join(fields)}"
            raise ConfigurationError(f"{name} is no setting; {hint}")
    values = {fields[name].name: _typed(name, value, fields[name].default) for name, value in given.items()}
    return dataclasses.replace(kind() if base is None else base, **values)  # type: ignore[type-var]


def of_conf(conf: Mapping[str, Any]) -> Settings:
    """The settings of a Celery app, from its configuration, else the environment.

    Raises:
        ConfigurationError: One of them is not known or no good.
    """
    ours = {name: conf[name] for name in list(conf) if name.startswith("redlock_")}
    return read(Settings, ours, "redlock_", read(Settings, os.environ, "REDLOCK_"))


def _with_files(given: Mapping[str, Any], fields: Collection[str]) -> dict[str, Any]:
    """With the content of a file where `NAME_FILE` names it; an empty name is none."""
    values = dict(given)
    for file_name in [name for name in given if name not in fields and name.removesuffix(_FILE) in fields]:
        path, name = values.pop(file_name), file_name.removesuffix(_FILE)
        if not path:
            continue
        if name in values:
            raise ConfigurationError(f"{name} and {file_name} are both set; leave one of them out")
        try:
            values[name] = Path(path).read_text(encoding="utf-8").strip()
        except (OSError, ValueError) as error:
            reason = error.strerror.lower() if isinstance(error, OSError) and error.strerror else "it is no text"
            raise ConfigurationError(f"{file_name} names {path!r:.200}, which can't be read: {reason}") from None
    return values


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
