"""Reads settings from a mapping: the environment, a command line, or Celery's configuration.

Invariants:
1. Every setting has the name of its field. In the environment the name has capitals and a prefix (`REDLOCK_TTL`);
   `redlock.celery.conf` has the forms in Celery's configuration.
2. An unknown name with the prefix is an error: a misspelled setting must not be a silent default. Variables that a
   container platform sets for a service named `redlock` are ignored.
3. `NAME_FILE` names a file with the value of `NAME`, so that neither a list of processes nor `docker inspect` shows a
   password.
4. No message repeats a value that may hold a password.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import os
import re
import sys
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from redlock import _setting_files, _validation
from redlock._masking import HIDDEN, quoted
from redlock._transport import address
from redlock._transport.node import DEFAULT_NODES
from redlock.client import Redlock
from redlock.errors import ConfigurationError

__all__ = ["Settings", "read", "resolve"]

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

T = TypeVar("T")

ENVIRONMENT = "REDLOCK_"
"""The prefix of the settings in the environment."""

SECRETS = tuple(f"REDLOCK_{name}" for name in ("NODES_FILE", "USERNAME", "USERNAME_FILE", "PASSWORD", "PASSWORD_FILE"))
"""The variables with credentials of the nodes, beside `REDLOCK_NODES`."""

_SET_BY_RUN = frozenset({"REDLOCK_FENCE", "REDLOCK_RESOURCE"})
"""The variables that `redlock run` sets for its program; they are not settings."""

_KUBERNETES = re.compile(
    r"[A-Z0-9_]+_(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT(_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)?)"
)
"""The variables that Kubernetes sets for a service: `REDLOCK_SERVICE_HOST`, `REDLOCK_PORT_6379_TCP_ADDR`."""

IN_CONF = " in app.conf"
_IN_ENVIRONMENT = " in the environment"
EXPOSED = (
    "an address in app.conf holds a password, which Flower and `celery inspect conf` show; "
    "set redlock_username and redlock_password, or REDLOCK_NODES_FILE"
)
"""The warning for `Settings.exposed`, with the remedy."""

_EVENTS = ("all", "contention", "off")
_FILE = "_file"
_SECRET = frozenset({"nodes", "username", "password"})
"""No message repeats the values of these settings."""
_SEPARATOR = re.compile(r"[,\s]")


@dataclasses.dataclass(frozen=True, repr=False)
class Settings:
    """The settings of a `Redlock` client and of Celery workers.

    Attributes:
        nodes: The addresses as one text with commas; see `Redlock`.
        ttl: The length of a lease in seconds; see `Redlock`.
        max_ttl: The longest lease in seconds; see `Redlock`.
        prefix: Put before every key; see `Redlock`.
        node_timeout: Seconds after which a node without a reply counts as silent; see `Redlock`.
        events: The events that workers send to Flower: "all", "contention" (no events of free locks) or "off".
        heartbeat_file: A file that a worker touches every 5 seconds while the worker accepts tasks; empty for no file.
        metrics_file: A file to which a worker writes its metrics for Prometheus every 5 seconds; empty for no file.
            The name ends in `.prom`, because node_exporter reads no others.
        username: The user for each node without a password in its address; empty for no user.
        password: The password of that user; empty for no password.
        origins: The source of each setting that is not a default, for messages; not a setting.

    Raises:
        ConfigurationError: `events`, `prefix` or the name of a file is invalid. The client checks the other settings.
    """

    nodes: str = ",".join(DEFAULT_NODES)
    ttl: float = 5.0
    max_ttl: float = 10.0
    prefix: str = ""
    node_timeout: float = 0.1
    events: str = "all"
    heartbeat_file: str = ""
    metrics_file: str = ""
    username: str = ""
    password: str = dataclasses.field(default="", metadata={"is_password": True})
    origins: Mapping[str, str] = dataclasses.field(default_factory=dict, compare=False, metadata={"is_setting": False})

    def __post_init__(self) -> None:
        _validation.choice("redlock_events", self.events, _EVENTS)
        _validation.prefix(self.prefix)
        _validation.file_name("redlock_heartbeat_file", self.heartbeat_file)
        _validation.file_name("redlock_metrics_file", self.metrics_file, ".prom")

    def __repr__(self) -> str:
        return f"Settings({', '.join(f'{name}={value!r}' for name, value in self.shown().items())})"

    @property
    @_validation.private
    def addresses(self) -> list[str]:
        """The addresses of the nodes with user and password; secret.

        Raises:
            ConfigurationError: An address is invalid.
        """
        nodes = _validation.node_list(self.nodes)
        return [address.with_credentials(node, self.username, self.password) for node in nodes]

    def shown(self) -> dict[str, object]:
        """All settings by name, without passwords."""
        values = {field.name: getattr(self, field.name) for field in _fields(Settings)}
        values["nodes"] = ",".join(_shown_node(node) for node in _validation.split(self.nodes))
        return values | {"password": HIDDEN if self.password else ""}

    @property
    def exposed(self) -> bool:
        """Whether the configuration of a Celery app holds an address with a password."""
        if not self.origins.get("nodes", "").lower().endswith(f"nodes{IN_CONF}"):
            return False
        return any(address.has_password(node) for node in _validation.node_list(self.nodes))

    def client(self) -> Redlock:
        """A client with these settings."""
        origins = {name: self.origins.get(name, "") for name in ("ttl", "max_ttl", "node_timeout")}
        files = {name: origin.split()[0] for name, origin in origins.items() if f"{name}_file" in origin.lower()}
        return _setting_files.unshown(
            files,
            lambda: Redlock(
                self.addresses, ttl=self.ttl, max_ttl=self.max_ttl, prefix=self.prefix, node_timeout=self.node_timeout
            ),
        )


class SettingEntry(NamedTuple):
    """A setting in the user's spelling.

    Attributes:
        name: The whole name, for messages.
        head: The part before the name of the field: `REDLOCK_`, `CELERY_REDLOCK_`, `--`.
        value: The value.
        where: The place, to append to the name: ` in the environment`.
    """

    name: str
    head: str
    value: object
    where: str = ""

    @property
    def key(self) -> str:
        """The name of the field in small letters; a name in mixed case stays, and matches no field."""
        rest = self.name[len(self.head) :].replace("-", "_")
        return rest.lower() if rest in {rest.lower(), rest.upper()} else rest

    def like(self, field: str) -> str:
        """The name of another field, in the spelling of this entry."""
        return self.head + (field.upper() if self.head.isupper() else field)


@_validation.private
def read(
    kind: type[T],
    source: Mapping[str, Any],
    prefix: str,
    base: T | None = None,
    options: Mapping[str, object] | None = None,
) -> T:
    """The settings of this kind, a dataclass with a default for each field, from a mapping.

    Args:
        kind: The dataclass.
        source: The mapping; names without the prefix are ignored.
        prefix: `REDLOCK_` or `redlock_`; the names have the case of the prefix.
        base: Settings for the fields that the source does not have; default: the defaults of the dataclass.
        options: Settings from a command line, by field; they override the source.

    Raises:
        ConfigurationError: A value is of the wrong type, a file cannot be read, or a name with this prefix is not a
            setting.
    """
    given = {} if options is None else options
    entries = [
        SettingEntry(name, prefix, value, _IN_ENVIRONMENT) for name, value in source.items() if _is_ours(name, prefix)
    ]
    # An option also overrides a file that the environment names.
    entries = [entry for entry in entries if not {entry.key, entry.key.removesuffix(_FILE)} & given.keys()]
    entries += [SettingEntry(f"--{name.replace('_', '-')}", "--", value) for name, value in given.items()]
    return resolve(kind, entries, base)


def resolve(kind: type[T], entries: Iterable[SettingEntry], base: T | None = None) -> T:
    """The settings of this kind from the user's entries.

    Raises:
        ConfigurationError: As for `read`, or a setting has two entries.
    """
    fields = {field.name: field for field in _fields(kind)}
    given: dict[str, SettingEntry] = {}
    for entry in entries:
        name = entry.key if entry.key in fields else entry.key.removesuffix(_FILE)
        if name not in fields:
            names = [entry.like(field) for field in fields]
            near = difflib.get_close_matches(entry.like(entry.key.lower()), names, n=1)
            hint = f"did you mean {near[0]}?" if near else f"the settings are {', '.join(names)}"
            raise ConfigurationError(f"{entry.name} is no setting; {hint}")
        if name != entry.key and not entry.value:
            continue
        if name in given:
            both = sorted((given[name].name, entry.name), key=len)
            raise ConfigurationError(f"{both[0]} and {both[1]} are both set; leave one of them out")
        given[name] = entry
    values = {name: _value(entry, fields[name]) for name, entry in given.items()}
    files = {name: entry.name for name, entry in given.items() if name != entry.key and name not in _SECRET}
    base = kind() if base is None else base
    if isinstance(base, Settings):
        values["origins"] = {**base.origins, **{name: entry.name + entry.where for name, entry in given.items()}}
    return _setting_files.unshown(files, functools.partial(dataclasses.replace, base, **values))  # type: ignore[type-var]


def _fields(kind: type) -> list[dataclasses.Field[Any]]:
    return [field for field in dataclasses.fields(kind) if field.metadata.get("is_setting", True)]


def _is_ours(name: str, prefix: str) -> bool:
    return name.startswith(prefix) and not (name in _SET_BY_RUN or _KUBERNETES.fullmatch(name))


def _shown_node(url: str) -> str:
    try:
        return address.label(address.parse(url))
    except ConfigurationError:
        return "(no address)"


def _value(entry: SettingEntry, field: dataclasses.Field[Any]) -> Any:  # noqa: ANN401 - of any setting
    """The value of an entry, or the content of the file that the entry names."""
    value = _plain(entry.value)
    if entry.key == field.name:
        return _typed(entry.name, field.name, value, field.default)
    text = _setting_files.content(entry.name, value, is_password=field.metadata.get("is_password", False))
    return _setting_files.unshown({field.name: entry.name}, lambda: _typed(field.name, field.name, text, field.default))


def _plain(value: object) -> object:
    """The value of a lazy object of Django (`gettext_lazy`, `SimpleLazyObject`); any other value unchanged."""
    lazy = sys.modules.get("django.utils.functional")
    if lazy is None:
        return value
    if isinstance(value, lazy.LazyObject):
        # `__reduce__` is the only public access to the object inside.
        value = value.__reduce__()[1][0]
    return str(value) if isinstance(value, lazy.Promise) else value


def _typed(name: str, field: str, value: object, default: object) -> object:
    if isinstance(default, float):
        return _number(name, value, default)
    if isinstance(value, os.PathLike) and field.endswith(_FILE):
        value = os.fspath(value)
    if field == "nodes" and isinstance(value, list | tuple):
        return _joined(name, [_plain(item) for item in value])
    if isinstance(value, str):
        return str(value)
    if field in _SECRET:
        right = "a list of addresses, or one text with commas between them" if field == "nodes" else "text"
        raise ConfigurationError(f"{name} is {type(value).__name__}; it must be {right}")
    raise ConfigurationError(f"{name} is {type(value).__name__} {quoted(value, 40)}; it must be text")


def _number(name: str, value: object, default: float) -> object:
    if not isinstance(value, str):
        return value
    try:
        return float(value)
    except ValueError:
        pass
    # Outside the handler, because the handler's error repeats the value.
    raise ConfigurationError(f"{name} is {quoted(value)}; it must be a number, such as {default:g}")


def _joined(name: str, nodes: list[object]) -> str:
    for node in nodes:
        if not isinstance(node, str):
            raise ConfigurationError(
                f"{name} is a list that contains {type(node).__name__}; each address must be text (str)"
            )
    # In a list, a comma or a blank belongs to the address.
    escaped = (_SEPARATOR.sub(lambda found: f"%{ord(found[0]):02X}", str(node).strip()) for node in nodes)
    return ",".join(escaped)
