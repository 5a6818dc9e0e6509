r"""Commands as bytes of the Redis protocol.

Keys on each node, for a resource `r` and the client's prefix `p`:
    p + r                            the lock, so that all Redlock clients exclude each other
    p + \x01redlock:fence: + r       the largest fencing token that this node has issued or seen
    p + \x01redlock:wake: + r        a list with at most one wake-up, on which waiters block
    p + \x01redlock:queue: + r       "waited for" after a denial, "reserved" for a woken waiter
    p + \x01redlock:waits: + period  reports of waiting processes, for operators (see `wait_report`)
    p + \x01redlock:node             the node's record: server, first contact, configuration fingerprint

Invariants:
1. No sockets and no clock.
2. Names and tokens travel as KEYS and ARGV only, never formatted into Lua.
3. Names and prefixes have no control characters, so no resource can collide with the other keys.
4. All keys begin with the prefix, so an ACL can confine a project to its keys. Projects with different prefixes may
   have different configurations.
"""

from __future__ import annotations

import functools
import hashlib
from importlib import resources
from typing import TYPE_CHECKING, NamedTuple

from redlock._core.commands import Acquire, Command, Confirm, Extend, Inspect, Names, Release, Repair
from redlock._core.votes import FENCE_TTL_MS, quarantine_ms
from redlock.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable

INTERNAL = "\x01redlock:"
RECORD = f"{INTERNAL}node"
"""The node's record, after the prefix."""
PROBE = f"{INTERNAL}probe"
"""A key, after the prefix, that never exists: `SET ... XX` fails if the node refuses writes, else changes nothing."""


def pack(*words: str | bytes) -> bytes:
    """A command in the Redis protocol."""
    return b"*%d\r\n%b" % (len(words), _packed(words))


def _packed(words: tuple[str | bytes, ...]) -> bytes:
    """The words of a command, without their number."""
    encoded = [word if isinstance(word, bytes) else word.encode() for word in words]
    return b"".join([b"$%d\r\n%b\r\n" % (len(word), word) for word in encoded])


class Script(NamedTuple):
    """A Lua script and its name in Redis.

    Attributes:
        source: The text.
        sha: Its SHA-1, the name for EVALSHA.
        admits: Whether the script first checks in the node's record whether the node may vote.
    """

    source: bytes
    sha: bytes
    admits: bool

    @classmethod
    def load(cls, name: str, *, admits: bool = False) -> Script:
        """Read a script from the package; `admits` if the reply counts as a vote."""
        source = b"".join(map(script_part, script_parts(name, admits=admits)))
        return cls(source, hashlib.sha1(source, usedforsecurity=False).hexdigest().encode(), admits)


def script_parts(name: str, *, admits: bool) -> tuple[str, ...]:
    """The parts of a script, in order: each is `scripts/<part>.lua`."""
    return ("shown", "admit", name) if admits else ("shown", name)


def script_part(part: str) -> bytes:
    """The text of one part."""
    return (resources.files("redlock._transport") / "scripts" / f"{part}.lua").read_bytes()


SCRIPTS: dict[type[Command], Script] = {
    Acquire: Script.load("acquire", admits=True),
    Confirm: Script.load("confirm", admits=True),
    Extend: Script.load("extend", admits=True),
    Repair: Script.load("repair", admits=True),
    Release: Script.load("release"),
    Inspect: Script.load("inspect"),
}

_LEASES = (Acquire, Extend, Repair)
"""The commands that set the TTL of a lease."""

LOAD_SCRIPTS: bytes = b"".join(pack("SCRIPT", "LOAD", script.source) for script in SCRIPTS.values())
"""Commands that load all scripts; the node sends a reply for each."""

_MOST_KNOWN = 8_192
"""The most names whose keys are remembered: an event loop can use thousands of names at a time, in three ways each."""
_FENCE_TTL = str(FENCE_TTL_MS)


def fence_key(name: str, prefix: str = "") -> str:
    """The key of a lock's fence."""
    return f"{prefix}{INTERNAL}fence:{name}"


def wake_key(name: str, prefix: str = "") -> str:
    """The key of the list on which the waiters of a lock block."""
    return f"{prefix}{INTERNAL}wake:{name}"


def queue_key(name: str, prefix: str = "") -> str:
    """The key that says whether a lock has waiters."""
    return f"{prefix}{INTERNAL}queue:{name}"


def operation_key(state_key: str, op_id: str) -> str:
    """The key under which a fenced store keeps the result of an operation.

    No state key has a control character, so the first control character ends the state key. No two operations share a
    key, and no operation has the key of a state.
    """
    return f"{state_key}\x01done:{op_id}"


_OTHER_KEYS: dict[type[Command], tuple[Callable[[str, str], str], ...]] = {
    Acquire: (fence_key, queue_key),
    Release: (wake_key, queue_key),
}
"""The other keys of a command, beside the lock; the default is the fence."""


def _keys(kind: type[Command], names: Names, prefix: str) -> tuple[str, ...]:
    others = _OTHER_KEYS.get(kind, (fence_key,))
    keys = (key for name in names for key in (prefix + name, *(place(name, prefix) for place in others)))
    return (prefix + RECORD, *keys) if SCRIPTS[kind].admits else tuple(keys)


@functools.lru_cache(_MOST_KNOWN)
def _head(kind: type[Command], names: Names, prefix: str, common: tuple[str, ...], more: int) -> bytes:
    """The first words of a command, before `more` others: the same for each command of a kind on these resources."""
    script, keys = SCRIPTS[kind], _keys(kind, names, prefix)
    words: tuple[str | bytes, ...] = ("EVALSHA", script.sha, str(len(keys)), *keys, *common)
    return b"*%d\r\n%b" % (len(words) + more, _packed(words))


@functools.lru_cache(_MOST_KNOWN)
def waiting_order(names: Names, nodes: int) -> tuple[int, ...]:
    """The places of all nodes, in the order in which waiters of these resources choose a node to wait at."""
    first = int.from_bytes(hashlib.sha256(names[0].encode()).digest()[:4], "big") % nodes
    return (*range(first, nodes), *range(first))


class Codec:
    """Encodes the commands of a client, with its prefix and its configuration fingerprint.

    Args:
        nodes: The number of nodes.
        prefix: The text before every resource name.
        max_ttl_ms: The longest lease of any client.
        reserve_ms: How long a released lock is reserved for the woken waiter, in milliseconds.
    """

    def __init__(self, nodes: int, prefix: str, max_ttl_ms: int, reserve_ms: int = 50) -> None:
        self.prefix = prefix
        self.max_ttl_ms = max_ttl_ms
        self._reserve = str(reserve_ms)
        self.fingerprint = f"nodes={nodes} max_ttl={max_ttl_ms / 1000:.10g}s prefix={prefix!r}"
        self._configuration = (self.fingerprint, str(quarantine_ms(max_ttl_ms)))
        """The first arguments of a script that admits."""

    def _own_arguments(self, command: Command) -> tuple[str, ...]:
        if isinstance(command, _LEASES) and command.ttl_ms > self.max_ttl_ms:
            raise ConfigurationError(f"a lease of {command.ttl_ms} ms is longer than max_ttl, {self.max_ttl_ms} ms")
        if isinstance(command, Acquire):
            queue = ("1" if command.woken else "0", str(command.waits_ms))
            return (command.token, str(command.ttl_ms), str(command.proposed), _FENCE_TTL, *queue)
        if isinstance(command, Release):
            return (command.token, str(command.wake_ms), self._reserve)
        if isinstance(command, Inspect):
            return ()
        if isinstance(command, Confirm):
            return (command.token, str(command.fence), _FENCE_TTL)
        if isinstance(command, Extend):
            return (command.token, str(command.ttl_ms), _FENCE_TTL)
        return (command.token, str(command.ttl_ms), str(command.fence), _FENCE_TTL)

    def wake_keys(self, names: Names) -> list[str]:
        """The keys of the lists on which waiters of these resources block."""
        return [wake_key(name, self.prefix) for name in names]

    def encode(self, command: Command) -> bytes:
        """The bytes of an EVALSHA.

        If the script admits, the last argument is missing: each connection adds the run_id of its node, see
        `run_id_argument`.

        Raises:
            ConfigurationError: The command asks for a lease longer than `max_ttl`. This check covers every lease,
                because a node that lost its memory abstains only for the longest lease.
        """
        kind, own = type(command), self._own_arguments(command)
        admits = SCRIPTS[kind].admits
        common = self._configuration if admits else ()
        head = _head(kind, command.names, self.prefix, common, len(own) + admits)  # type: ignore[arg-type]  # hashable
        text = "".join([f"${len(word)}\r\n{word}\r\n" for word in own])
        # As `_packed`, in half of the time; lengths count bytes.
        return head + (text.encode() if text.isascii() else _packed(own))


def run_id_argument(run_id: str) -> bytes:
    """The run_id as the last argument of a command."""
    return b"$%d\r\n%s\r\n" % (len(run_id), run_id.encode())
