r"""Commands as bytes of the Redis protocol, and replies as votes.

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
import reprlib
from importlib import resources
from typing import TYPE_CHECKING, NamedTuple

from redlock._compat import pack_words
from redlock._core.commands import Acquire, Command, Confirm, Extend, Inspect, Names, Release, Repair
from redlock._core.votes import FENCE_TTL_MS, Kind, Vote, quarantine_ms, silent
from redlock._escaping import statement
from redlock.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable

INTERNAL = "\x01redlock:"
RECORD = f"{INTERNAL}node"
"""The node's record, after the prefix."""
PROBE = f"{INTERNAL}probe"
"""A key, after the prefix, that never exists: `SET ... XX` fails if the node refuses writes, else changes nothing."""


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

LOAD_SCRIPTS: bytes = b"".join(pack_words(("SCRIPT", "LOAD", script.source)) for script in SCRIPTS.values())
"""Commands that load all scripts; the node sends a reply for each."""

_MOST_KNOWN = 8_192
"""The most names whose keys are remembered: an event loop can use thousands of names at a time, in three ways each."""
_FENCE_TTL = str(FENCE_TTL_MS)
_EMPTY_WORD = b"$0\r\n\r\n"


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


@functools.lru_cache(_MOST_KNOWN)
def _keys(prefix: str, names: Names, others: tuple[Callable[[str, str], str], ...]) -> tuple[str, ...]:
    return tuple(key for name in names for key in (prefix + name, *(place(name, prefix) for place in others)))


@functools.lru_cache(_MOST_KNOWN)
def waiting_order(names: Names, nodes: int) -> tuple[int, ...]:
    """The places of all nodes, in the order in which waiters of these resources choose a node to wait at."""
    first = int.from_bytes(hashlib.sha256(names[0].encode()).digest()[:4], "big") % nodes
    return (*range(first, nodes), *range(first))


class Call(NamedTuple):
    """A script with its keys and arguments, without the run_id, the last argument of scripts that admit."""

    script: Script
    keys: tuple[str, ...]
    arguments: tuple[str, ...]


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
        self._record = prefix + RECORD
        self.max_ttl_ms = max_ttl_ms
        self._reserve = str(reserve_ms)
        self.fingerprint = f"nodes={nodes} max_ttl={max_ttl_ms / 1000:.10g}s prefix={prefix!r}"
        self._common = (self.fingerprint, str(quarantine_ms(max_ttl_ms)))

    def script_call(self, command: Command) -> Call:
        """The script of a command, with keys and arguments.

        Raises:
            ConfigurationError: The command asks for a lease longer than `max_ttl`. This check covers every lease,
                because a node that lost its memory abstains only for the longest lease.
        """
        if isinstance(command, _LEASES) and command.ttl_ms > self.max_ttl_ms:
            raise ConfigurationError(f"a lease of {command.ttl_ms} ms is longer than max_ttl, {self.max_ttl_ms} ms")
        script = SCRIPTS[type(command)]
        keys = _keys(self.prefix, command.names, _OTHER_KEYS.get(type(command), (fence_key,)))
        if script.admits:
            keys = (self._record, *keys)
        if isinstance(command, Release):
            return Call(script, keys, (command.token, str(command.wake_ms), self._reserve))
        if isinstance(command, Acquire):
            queue = ("1" if command.woken else "0", str(command.waits_ms))
            words = (str(command.ttl_ms), str(command.proposed), _FENCE_TTL, *queue)
            return Call(script, keys, (*self._common, command.token, *words))
        if isinstance(command, Inspect):
            return Call(script, keys, ())
        own: tuple[str, ...]
        if isinstance(command, Confirm):
            own = (str(command.fence), _FENCE_TTL)
        elif isinstance(command, Extend):
            own = (str(command.ttl_ms), _FENCE_TTL)
        else:
            own = (str(command.ttl_ms), str(command.fence), _FENCE_TTL)
        return Call(script, keys, (*self._common, command.token, *own))

    def wake_keys(self, names: Names) -> list[str]:
        """The keys of the lists on which waiters of these resources block."""
        return [wake_key(name, self.prefix) for name in names]

    def encode(self, command: Command) -> bytes:
        """The bytes of an EVALSHA.

        If the script admits, the last argument is missing: each connection adds the run_id of its node, see
        `run_id_argument`.
        """
        script, keys, arguments = self.script_call(command)
        last = ("",) if script.admits else ()
        packed = pack_words(("EVALSHA", script.sha, str(len(keys)), *keys, *arguments, *last))
        return packed.removesuffix(_EMPTY_WORD) if script.admits else packed


def run_id_argument(run_id: str) -> bytes:
    """The run_id as the last argument of a command."""
    return b"$%d\r\n%s\r\n" % (len(run_id), run_id.encode())


_LONGEST_REASON, _LONGEST_NO_VOTE = 200, 60
_LONGEST_TERMS = 1_200
"""The prefix is part of the fingerprint, and may have 1,024 bytes."""
REJECTION = [3]
"""The first word of a reply in which a node rejects the client's configuration."""
_GRANTED_WORDS = 3
_GRANTED = Kind.GRANTED
_new_tuple = tuple.__new__
_RELEASED = Vote(Kind.GRANTED)
"""The vote for a release of a lock that the node had."""


def decode(reply: object) -> Vote:
    """A node's reply as a vote. A reply with a shape that no script returns counts as SILENT."""
    # Nearly all replies have these two shapes: a shortcut for speed.
    if type(reply) is list and len(reply) == _GRANTED_WORDS:
        kind, time_ms, fence = reply
        if kind == 1 and type(time_ms) is int and type(fence) is int and fence >= 0:
            if not time_ms and not fence:
                return _RELEASED
            # As `Vote(Kind.GRANTED, fence, time_ms=time_ms)`, in half of the time.
            return _new_tuple(Vote, (_GRANTED, fence, "", None, "", False, "", time_ms, False, ""))
    return _by_shape(reply)


def _by_shape(reply: object) -> Vote:
    if isinstance(reply, Exception):
        return silent(explain(str(reply)))
    match reply:
        case [0, int(time_ms), int(fence), bytes() | str() as holder, int(remaining)] if fence >= 0:
            return Vote(Kind.DENIED, fence, _str(holder), remaining if remaining >= 0 else None, time_ms=time_ms)
        case [2, int(time_ms), int(left_ms)]:
            return Vote(Kind.SILENT, remaining_ms=left_ms, reason=_abstains(left_ms), time_ms=time_ms)
        case [3, int(time_ms), bytes() | str() as fingerprint]:
            return disagrees(_str(fingerprint))._replace(time_ms=time_ms)
    return silent(f"answered something that is no vote: {statement(reprlib.repr(reply), _LONGEST_NO_VOTE)}")


def disagrees(fingerprint: str) -> Vote:
    """The vote of a node whose other clients have this configuration fingerprint, escaped and cut for messages."""
    shown = statement(fingerprint, _LONGEST_TERMS)
    return Vote(Kind.SILENT, reason=f"its clients agreed on {shown}", fingerprint=shown)


def _abstains(left_ms: int) -> str:
    return f"new, restarted or emptied: abstains for another {left_ms / 1000:.1f} s"


def _str(value: bytes | str) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else value


_EXPLAINED = {
    "NOAUTH": "wants a password; put it into the node's URL",
    "WRONGPASS": "wrong user name or password",
    "NOPERM": "the user may not run what the lock needs",
    "WRONGTYPE": "a key of another type is at the lock's name; rename the resource or delete that key",
    "LOADING": "still loading its data",
    "BUSY": "busy with a script",
    "MISCONF": "refuses writes because it can't save its snapshot (MISCONF)",
    "NOREPLICAS": "refuses writes because too few replicas are connected (min-replicas-to-write)",
    "OOM": "out of memory (maxmemory)",
    "READONLY": "a replica; lock nodes must be independent masters",
    "MASTERDOWN": "a replica that lost its master; lock nodes must be independent masters",
    "MOVED": "in cluster mode; lock nodes must be independent masters",
    "CROSSSLOT": "in cluster mode; lock nodes must be independent masters",
    "CLUSTERDOWN": "in cluster mode; lock nodes must be independent masters",
    "FENCEAHEAD": (
        "refuses the proposed fencing token, more than an hour ahead of its clock; set the clocks of this machine and "
        "of the node"
    ),
    "FENCESTORED": (
        "has a fencing token for this resource that is more than an hour ahead of its clock; set its clock, or repair "
        "it as the manual says"
    ),
    "DENIED": "in protected mode; set a password, or bind it to loopback",
}


def explain(error: str) -> str:
    """An error reply as a description of the node's problem."""
    code, _, rest = error.lstrip("-").partition(" ")
    # Redis 6.2 puts "ERR Error running script" and more before the error that the script met.
    words = (word.lstrip("-") for word in rest.split())
    inner = next((word for word in words if word in _EXPLAINED), code) if code == "ERR" else code
    return _EXPLAINED.get(inner) or statement(f"{code} {rest}".strip(), _LONGEST_REASON)
