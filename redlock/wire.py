r"""Commands as the bytes that Redis reads, and replies as votes.

Rules of this file: it knows the scripts, the names of the keys and the shape of the replies, and nothing of
sockets or clocks. Names and tokens travel as KEYS and ARGV only, never formatted into Lua.

Keys of a resource `r` on each node, with the client's prefix `p`:
    p + r                            the lock itself, so that any other Redlock client and ours exclude each other
    \x01redlock:fence: + p + r       the largest fencing token that this node has given or seen
Control characters are refused in resource names, so no resource can collide with the second.
"""

from __future__ import annotations

import hashlib
from importlib import resources
from typing import NamedTuple

import hiredis

from redlock.model import (
    FENCE_TTL_MS,
    Acquire,
    Command,
    Confirm,
    Extend,
    Inspect,
    Kind,
    Release,
    Vote,
    silent,
)

INTERNAL = "\x01redlock:"


class Script(NamedTuple):
    """A Lua script as Redis names it."""

    source: bytes
    sha: bytes

    @classmethod
    def load(cls, name: str) -> Script:
        """Read `scripts/<name>.lua` from the package."""
        source = (resources.files("redlock") / "scripts" / f"{name}.lua").read_bytes()
        return cls(source, hashlib.sha1(source, usedforsecurity=False).hexdigest().encode())


SCRIPTS: dict[type[Command], Script] = {
    kind: Script.load(kind.__name__.lower()) for kind in (Acquire, Confirm, Extend, Release, Inspect)
}

_FENCE_TTL = str(FENCE_TTL_MS)


def fence_key(lock_key: str) -> str:
    """Where a node keeps the fence of a lock."""
    return f"{INTERNAL}fence:{lock_key}"


def encode(command: Command, prefix: str = "", *, by_source: bool = False) -> bytes:
    """The bytes of one EVALSHA, or of the EVAL that teaches a node the script that it has lost."""
    key = prefix + command.resource
    script = SCRIPTS[type(command)]
    verb: tuple[str | bytes, ...] = (b"EVAL", script.source) if by_source else (b"EVALSHA", script.sha)
    words: tuple[str | bytes, ...]
    if isinstance(command, Acquire):
        fence = fence_key(key)
        words = ("2", key, fence, command.token, str(command.ttl_ms), str(command.proposed), _FENCE_TTL)
    elif isinstance(command, Release):
        words = ("1", key, command.token)
    elif isinstance(command, Extend):
        words = ("2", key, fence_key(key), command.token, str(command.ttl_ms), _FENCE_TTL)
    elif isinstance(command, Confirm):
        words = ("2", key, fence_key(key), command.token, str(command.fence), _FENCE_TTL)
    else:
        words = ("2", key, fence_key(key))
    packed: bytes = hiredis.pack_command(verb + words)  # type: ignore[arg-type]  # its stub means one word
    return packed


def decode(reply: object) -> Vote:
    """A node's reply as a vote. What is not one of the shapes that the scripts give is no vote."""
    if isinstance(reply, list) and len(reply) >= 2:  # noqa: PLR2004 - {granted, fence, ...}
        granted, fence, *rest = reply
        if granted == 1:
            return Vote(Kind.GRANTED, fence)
        holder = rest[0].decode(errors="replace") if rest else ""
        remaining = rest[1] if len(rest) > 1 and rest[1] >= 0 else None
        return Vote(Kind.DENIED, fence, holder, remaining)
    if isinstance(reply, Exception):
        return silent(explain(str(reply)))
    return silent(f"answered something that is no vote: {reply!r:.60}")


_EXPLAINED = {
    "NOAUTH": "wants a password; put it into the node's URL",
    "WRONGPASS": "wrong user name or password",
    "NOPERM": "the user may not run what the lock needs",
    "WRONGTYPE": "a key of another type is at the lock's name; rename the resource or delete that key",
    "LOADING": "still loading its data",
    "BUSY": "busy with a script",
    "MISCONF": "refuses writes because it can't save its snapshot (MISCONF)",
    "OOM": "out of memory (maxmemory)",
    "READONLY": "a replica; lock nodes must be independent masters",
    "MASTERDOWN": "a replica that lost its master; lock nodes must be independent masters",
    "MOVED": "in cluster mode; lock nodes must be independent masters",
    "CROSSSLOT": "in cluster mode; lock nodes must be independent masters",
    "CLUSTERDOWN": "in cluster mode; lock nodes must be independent masters",
    "DENIED": "in protected mode; set a password, or bind it to loopback",
}


def explain(error: str) -> str:
    """An error reply in words that say what is wrong with the node."""
    code, _, rest = error.lstrip("-").partition(" ")
    return _EXPLAINED.get(code, f"{code} {rest}".strip()[:200])
