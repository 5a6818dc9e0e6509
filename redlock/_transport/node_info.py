"""Parsers for INFO, CONFIG and ACL replies.

Invariants:
1. Malformed and error replies count as missing data and never raise.
2. Values and names of commands have a limited length, whatever the server sends.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from redlock._escaping import is_invisible, statement
from redlock._transport.reply_reader import ReplyError
from redlock._validation import LONGEST_NAME

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

KEY_COMMANDS = frozenset({"HMGET", "HSET", "GET", "SET", "DEL", "PTTL", "PEXPIRE", "LLEN", "RPUSH", "BLPOP"})
"""The required commands that use a key: a user without permission for all of them has no access to the key."""

_VERSION = re.compile(r"([0-9]{1,4})\.([0-9]{1,4})")
_NUMBER = re.compile(r"[0-9]{1,18}", re.ASCII)
_OLDEST = (6, 2)
_LONGEST_VALUE = 200
"""The most characters of a value: messages, tables and pages repeat values, and a reply can have a megabyte."""


SECTIONS = {
    "server": "run_id",
    "replication": "role",
    "memory": "maxmemory_policy",
    "persistence": "aof_enabled",
    "clients": "blocked_clients",
}
"""The sections of INFO that a node probe reads, each with a field that it always has."""
PROBE_COMMANDS = ("CONFIG GET", "SCAN", "INFO memory", "INFO persistence", "INFO clients")
"""The commands that only a node probe uses; the lock and the probe work without them."""
_CHECKED = {*KEY_COMMANDS, *PROBE_COMMANDS, "EVALSHA", "EVAL", "SCRIPT LOAD", "TIME", "INFO server", "INFO replication"}
"""The commands that `permitted.lua` can name."""


def is_resource(name: str) -> bool:
    """Whether this text can be a resource name. Other keys belong to other applications."""
    return bool(name) and not any(map(is_invisible, name)) and len(name.encode()) <= LONGEST_NAME


def missing(refused: object, prefix: str = "") -> tuple[str, ...]:
    """The missing permissions of this user, from the reply of `permitted.lua`; empty if the server can't tell."""
    if isinstance(refused, ReplyError):
        return ("EVAL",) if "EVAL" in str(refused).upper().split("'") else ()
    names = tuple(name for name in _refused(refused) if name not in PROBE_COMMANDS)
    if not KEY_COMMANDS.issubset(names):
        return names
    return (*(name for name in names if name not in KEY_COMMANDS), rf"the keys {prefix}\x01redlock:*")


def _refused(answer: object) -> list[str]:
    # A node can send any number of any words, and messages name these.
    words = map(text, answer) if isinstance(answer, list) else ()
    return list(dict.fromkeys(word for word in words if word in _CHECKED))


def probe_commands(refused: object) -> list[str]:
    """The commands of a probe that this user may run, from the reply of `permitted.lua`; all if unknown."""
    return [name for name in PROBE_COMMANDS if name not in _refused(refused)]


def unreported(refused: object, info: dict[str, str], settings: Sequence[str | None]) -> tuple[str, ...]:
    """The commands of a probe that give no answer here: forbidden, unknown, or without the expected fields.

    Args:
        refused: The reply of `permitted.lua`.
        info: The fields of all sections of INFO.
        settings: The settings that CONFIG GET returned.
    """
    silent = {f"INFO {section}" for section, name in SECTIONS.items() if name not in info}
    if None in settings:
        silent.add("CONFIG GET")
    if "SCAN" in _refused(refused):
        silent.add("SCAN")
    return tuple(name for name in PROBE_COMMANDS if name in silent)


def fields(info: object) -> dict[str, str]:
    """The fields of an INFO reply by name."""
    lines = (line.partition(":") for line in text(info).splitlines())
    return {name: value[:_LONGEST_VALUE] for name, colon, value in lines if colon}


def mode(info: Mapping[str, str]) -> str:
    """`standalone`, `cluster` or `sentinel`; empty if missing. Valkey names the field `server_mode`."""
    return shown(info, "redis_mode") or shown(info, "server_mode")


_VALKEY = "Valkey "
_LONGEST_SERVER = 40


def server(info: dict[str, str]) -> str:
    """The version of a Redis, such as `8.2.3`, or of a Valkey, such as `Valkey 9.1.2`.

    Valkey reports in `redis_version` the Redis with which it is compatible. The text is escaped and short, whatever the
    server sends.
    """
    valkey = info.get("valkey_version", "")
    return statement(f"{_VALKEY}{valkey}" if valkey else info.get("redis_version", ""), _LONGEST_SERVER)


def product(server: str) -> str:
    """The result of `server` for a sentence: `Redis 8.2.3`, `Valkey 9.1.2`."""
    return server if server.startswith(_VALKEY) else f"Redis {server}".rstrip()


def number(text: str) -> int:
    """A whole number from INFO; 0 if the text is no number."""
    return int(text) if _NUMBER.fullmatch(text) else 0


def version(text: str) -> tuple[int, int] | None:
    """The major and minor version of a server; None if the text is no version."""
    found = _VERSION.match(text.removeprefix(_VALKEY))
    return (int(found[1]), int(found[2])) if found else None


def is_too_old(text: str) -> bool:
    """Whether a server lacks commands of the lock. A service that hides its version counts as a later version."""
    found = version(text)
    return found is not None and found < _OLDEST


def time_us(answer: object) -> int | None:
    """The reply to TIME in microseconds; None if malformed."""
    match answer:
        case [bytes() as seconds, bytes() as micros] if all(map(_NUMBER.fullmatch, (text(seconds), text(micros)))):
            return int(seconds) * 1_000_000 + int(micros)
    return None


def words(answer: object, count: int) -> list[str]:
    """A list of `count` words as texts; empty texts if malformed."""
    found = answer if isinstance(answer, list) and len(answer) == count else [None] * count
    return [text(word) for word in found]


def scanned(answer: object) -> tuple[bytes, list[str]] | None:
    """The cursor and the keys of a reply to SCAN; None if malformed."""
    match answer:
        case [bytes() as cursor, list() as keys] if cursor.isdigit():
            return cursor, [text(key) for key in keys]
    return None


def rows(answer: object, count: int) -> list[list[object]] | None:
    """The reply of `holders.lua` for `count` names; None if malformed."""
    found = [row for row in answer if isinstance(row, list) and row] if isinstance(answer, list) else []
    return found if len(found) == count else None


def setting(answer: object) -> str | None:
    """The value of a setting from CONFIG GET, short and escaped; None if missing."""
    return statement(text(answer[1]), _LONGEST_VALUE) if isinstance(answer, list) and len(answer) > 1 else None


def shown(info: Mapping[str, str], name: str) -> str:
    """A field of INFO, short and escaped; empty if missing."""
    return statement(info.get(name, ""), _LONGEST_VALUE)


def text(word: object) -> str:
    """A word as text; bytes that are not UTF-8 become surrogates."""
    return word.decode(errors="surrogateescape") if isinstance(word, bytes) else ""
