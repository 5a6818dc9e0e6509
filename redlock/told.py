"""What a Redis server's answers mean.

Rules: pure; an answer of an unexpected shape, or an error, is no news and never an exception.
"""

from __future__ import annotations

from redis.exceptions import ResponseError

from redlock.checks import LONGEST_NAME
from redlock.escaping import is_invisible

OF_KEYS = frozenset({"HMGET", "HSET", "GET", "SET", "DEL", "PTTL", "PEXPIRE", "LLEN", "RPUSH", "BLPOP"})
"""The needed commands that are about a key: a user who may run none of them may not touch the key."""


def is_resource(name: str) -> bool:
    """Whether this can be the name of a resource: what can't is somebody else's key."""
    return bool(name) and not any(map(is_invisible, name)) and len(name.encode()) <= LONGEST_NAME


def missing(refused: object) -> tuple[str, ...]:
    """What this user may not do, as `permitted.lua` answers; nothing where the server can't tell."""
    if isinstance(refused, ResponseError):
        return ("EVAL",) if "EVAL" in str(refused).upper().split("'") else ()
    names = tuple(text(word) for word in refused) if isinstance(refused, list) else ()
    if not OF_KEYS.issubset(names):
        return names
    return (*(name for name in names if name not in OF_KEYS), r"the keys \x01redlock:*")


def fields(info: object) -> dict[str, str]:
    """INFO by name."""
    lines = (line.partition(":") for line in text(info).splitlines())
    return {name: value for name, colon, value in lines if colon}


def setting(answer: object) -> str | None:
    """The value of one setting from CONFIG GET; None if it was not told."""
    return text(answer[1]) if isinstance(answer, list) and len(answer) > 1 else None


def text(word: object) -> str:
    """One word as text; what is not UTF-8 has surrogates in it."""
    return word.decode(errors="surrogateescape") if isinstance(word, bytes) else ""
