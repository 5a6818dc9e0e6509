"""What a Redis server's answers mean.

Rules: pure; an answer of an unexpected shape, or an error, is no news and never an exception.
"""

from __future__ import annotations

import re

from hiredis import ReplyError

from redlock._escaping import is_invisible
from redlock._validation import LONGEST_NAME

OF_KEYS = frozenset({"HMGET", "HSET", "GET", "SET", "DEL", "PTTL", "PEXPIRE", "LLEN", "RPUSH", "BLPOP"})
"""The needed commands that are about a key: a user who may run none of them may not touch the key."""

_VERSION = re.compile(r"([0-9]{1,4})\.([0-9]{1,4})")
_NUMBER = re.compile(r"[0-9]{1,18}", re.ASCII)


LOOKS = "CONFIG GET"
"""What only a look uses, and works without."""


def is_resource(name: str) -> bool:
    """Whether this can be the name of a resource: what can't is somebody else's key."""
    return bool(name) and not any(map(is_invisible, name)) and len(name.encode()) <= LONGEST_NAME


def missing(refused: object, prefix: str = "") -> tuple[str, ...]:
    """What this user may not do, as `permitted.lua` answers; nothing where the server can't tell."""
    if isinstance(refused, ReplyError):
        return ("EVAL",) if "EVAL" in str(refused).upper().split("'") else ()
    names = tuple(filter(LOOKS.__ne__, map(text, refused))) if isinstance(refused, list) else ()
    if not OF_KEYS.issubset(names):
        return names
    return (*(name for name in names if name not in OF_KEYS), rf"the keys {prefix}\x01redlock:*")


def may_read_settings(refused: object) -> bool:
    """Whether this user may ask for the server's settings, as `permitted.lua` answers; true where it can't tell."""
    return not (isinstance(refused, list) and LOOKS in map(text, refused))


def fields(info: object) -> dict[str, str]:
    """INFO by name."""
    lines = (line.partition(":") for line in text(info).splitlines())
    return {name: value for name, colon, value in lines if colon}


def number(text: str) -> int:
    """A whole number that INFO tells; 0 if it is none."""
    return int(text) if _NUMBER.fullmatch(text) else 0


def version(text: str) -> tuple[int, int] | None:
    """The first two numbers of a server's version; None if they are none."""
    found = _VERSION.match(text)
    return (int(found[1]), int(found[2])) if found else None


def time_us(answer: object) -> int | None:
    """The answer to TIME in microseconds; None if it is none."""
    match answer:
        case [bytes() as seconds, bytes() as micros] if all(map(_NUMBER.fullmatch, (text(seconds), text(micros)))):
            return int(seconds) * 1_000_000 + int(micros)
    return None


def words(answer: object, count: int) -> list[str]:
    """A list of so many words as texts; empty texts where it is anything else."""
    found = answer if isinstance(answer, list) and len(answer) == count else [None] * count
    return [text(word) for word in found]


def scanned(answer: object) -> tuple[bytes, list[str]] | None:
    """The cursor and the keys of an answer to SCAN; None if it is none."""
    match answer:
        case [bytes() as cursor, list() as keys] if cursor.isdigit():
            return cursor, [text(key) for key in keys]
    return None


def rows(answer: object, count: int) -> list[list[object]] | None:
    """What `look.lua` says of so many names; None if it is something else."""
    found = [row for row in answer if isinstance(row, list) and row] if isinstance(answer, list) else []
    return found if len(found) == count else None


def setting(answer: object) -> str | None:
    """The value of one setting from CONFIG GET; None if it was not told."""
    return text(answer[1]) if isinstance(answer, list) and len(answer) > 1 else None


def text(word: object) -> str:
    """One word as text; what is not UTF-8 has surrogates in it."""
    return word.decode(errors="surrogateescape") if isinstance(word, bytes) else ""
