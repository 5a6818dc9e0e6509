"""Probes one lock node: its state, and the locks on it. Changes nothing on the node, and uses SCAN, never KEYS."""

from __future__ import annotations

import dataclasses
import re
import time
from typing import TYPE_CHECKING, TypeVar

from hiredis import ReplyError

from redlock._clock import now_ms, wall_us
from redlock._core.votes import quarantine_ms, silent
from redlock._transport import codec as wire
from redlock._transport import node_info
from redlock._transport.exchange import Exchange, pack
from redlock._transport.node import ERRORS, NO_REDIS, Node, ShutOut, UnsuitableNode, describe_failure, refuse

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from redlock._core.votes import Vote

_T = TypeVar("_T")
_PERMITTED = wire.Script.load("permitted")
_LOOK = wire.Script.load("look")
_SCAN_COUNT = 1_000
_NAMES_AT_ONCE = 250


@dataclasses.dataclass(frozen=True)
class NodeState:
    """What one node tells about itself; plain values, times in seconds, sizes in bytes.

    Attributes:
        label: `host:port`, `host:port/db` or a socket's path.
        reachable: Whether it answers, and lets us in.
        reason: Why it casts no vote at this moment, be it that it is unreachable or unfit, that clients disagree or
            that it abstains; empty if it votes.
        version: Of the server.
        role: `master` or `slave`.
        mode: `standalone`, `cluster` or `sentinel`.
        run_id: Which server process it is; two nodes with the same one are the same server.
        fingerprint: What its clients agreed on; empty if it has had none since it started.
        abstains: For how long it still casts no vote because it is new or has lost its memory; 0 if it votes.
        clock_offset: Its wall clock less ours; None if unknown.
        clock_error: By how much the offset can be wrong either way.
        eviction: Its `maxmemory-policy`.
        max_memory: 0 without a limit.
        used_memory: How much it has in use.
        aof: Whether it writes an append-only file.
        fsync: When that file is forced to the disk: `always`, `everysec`, `no`; empty if it won't tell.
        rdb: When it saves snapshots, in the words of its configuration; empty for never, None if it won't tell.
        missing: What the lock needs and this user may not do; empty also where the server can't tell (before 7.0).
        blocked: How many clients wait on it in a blocking read.
        unlisted: Why its locks are not listed, or not all; empty if all are.
        complete: Whether it can have forgotten no lock of these clients: False in quarantine, for a server that can't
            be a lock node, and where other clients agreed on something else.
    """

    label: str
    reachable: bool = False
    reason: str = ""
    version: str = ""
    role: str = ""
    mode: str = ""
    run_id: str = ""
    fingerprint: str = ""
    abstains: float = 0.0
    clock_offset: float | None = None
    clock_error: float = 0.0
    eviction: str = ""
    max_memory: int = 0
    used_memory: int = 0
    aof: bool = False
    fsync: str = ""
    rdb: str | None = None
    missing: tuple[str, ...] = ()
    blocked: int = 0
    unlisted: str = ""
    complete: bool = True

    @property
    def votes(self) -> bool:
        """Whether it casts votes at this moment."""
        return not self.reason

    @property
    def reports(self) -> bool:
        """Whether its list of locks is complete, so that it counts for what is held and what is not."""
        return self.reachable and self.complete and not self.unlisted

    def clock_note(self, limit: float) -> str:
        """How far its clock is from ours, in words; empty if it is known to less than `limit` seconds."""
        offset = self.clock_offset or 0.0
        apart = abs(offset) - self.clock_error
        if apart <= limit:
            return ""
        return f"its clock is {apart:.1f} s {'ahead of' if offset > 0 else 'behind'} this machine's"


class _Visited(Node):
    """A node that is looked at even where it can't be a lock node."""

    unfit = ""

    def _greet(self, exchange: Exchange, until: float) -> tuple[str, str]:
        try:
            return super()._greet(exchange, until)
        except ShutOut:
            raise
        except UnsuitableNode as exc:
            self.unfit = describe_failure(exc, self.timeout_ms)
            return "", ""


class NodeProbe:
    """A visit to one node: `meet` it, `find` the names on it, `read` what it has at the names that all are asked for.

    Args:
        url: Its address.
        timeout_ms: For how long each of its answers, and its list of names, is waited for.
        codec: How clients speak to it.
        max_ttl_ms: The longest lease that any client takes.

    Raises:
        ConfigurationError: The address is no good.
    """

    def __init__(self, url: str, timeout_ms: int, codec: wire.Codec, max_ttl_ms: int) -> None:
        self.node = _Visited(url, timeout_ms, codec.prefix)
        self.state = NodeState(self.node.label, reason=f"no answer within {timeout_ms} ms")
        self.names: set[str] = set()
        self.more = False
        """Whether it has more names than were listed."""
        self.votes: dict[str, Vote] = {}
        self.waited: set[str] = set()
        """Names at which somebody was denied since the lock was taken, and may still wait."""
        self._codec = codec
        self._quarantine_ms = quarantine_ms(max_ttl_ms)
        self._exchange: Exchange | None = None

    def meet(self) -> None:
        """Connect, and read what it tells about itself."""
        try:
            self._exchange = self.node.connect(self._seconds, admin=True).exchange
            self._introduce()
        except (*ERRORS, UnsuitableNode) as exc:
            self.node.error = describe_failure(exc, self.node.timeout_ms)
            self.state = NodeState(self.node.label, reason=self.node.error)
            self.close()

    def find(self, prefix: str, most: int) -> None:
        """List the names of what can be locks, at most about so many."""
        if self._is_fit():
            self._try(lambda: self._find(prefix, most))

    def _is_fit(self) -> bool:
        return self._exchange is not None and self.state.role == "master" and self.state.mode == "standalone"

    def read(self, prefix: str, names: Sequence[str]) -> None:
        """Read what it has at these names."""
        if self._is_fit():
            self._try(lambda: self._read(prefix, names))

    def close(self) -> None:
        """Close the connection."""
        exchange, self._exchange = self._exchange, None
        if exchange is not None:
            exchange.close()

    def vote(self, name: str) -> Vote:
        """What it has at a name, as a vote."""
        return self.votes.get(name) or silent(self.state.unlisted or self.state.reason or "not asked")

    def _try(self, work: Callable[[], None]) -> None:
        try:
            work()
        except UnsuitableNode as exc:
            self.state = dataclasses.replace(self.state, unlisted=str(exc))
        except ERRORS as exc:
            self.state = dataclasses.replace(self.state, unlisted=describe_failure(exc, self.node.timeout_ms))
            # Its answers could come later, and be taken for those to the next question.
            self.close()

    def ask(self, *commands: Sequence[str | bytes]) -> list[object]:
        """The answers to these commands; error replies are among them."""
        if self._exchange is None:
            raise ConnectionAbortedError("the look is over")
        words = b"".join(pack(*command) for command in commands)
        return self._exchange.ask(words, len(commands), time.monotonic() + self._seconds)

    @property
    def _seconds(self) -> float:
        return self.node.timeout_ms / 1000

    def _introduce(self) -> None:
        prefix = self._codec.prefix
        before_us = wall_us()
        clock, refused = self.ask(("TIME",), ("EVAL", _PERMITTED.source, "0", prefix + wire.RECORD))
        after_us = wall_us()
        info, record, written, *kept = self.ask(
            ("INFO",),
            ("HMGET", prefix + wire.RECORD, "run_id", "since", "fingerprint", "quarantine"),
            ("SET", prefix + wire.PROBE, "", "XX"),
            # Without that condition, each look of a worker would enter the server's log of refusals.
            *(("CONFIG", "GET", name) for name in ("appendfsync", "save") if node_info.may_read_settings(refused)),
        )
        fsync, rdb = kept or (None, None)
        said = node_info.fields(info)
        now_us = node_info.time_us(clock)
        state = NodeState(
            self.node.label,
            reachable=True,
            version=said.get("redis_version", ""),
            role=said.get("role", ""),
            mode=said.get("redis_mode", ""),
            run_id=said.get("run_id", ""),
            clock_offset=None if now_us is None else (now_us - (before_us + after_us) // 2) / 1e6,
            clock_error=(after_us - before_us) / 2e6,
            eviction=said.get("maxmemory_policy", ""),
            max_memory=node_info.number(said.get("maxmemory", "")),
            used_memory=node_info.number(said.get("used_memory", "")),
            aof=said.get("aof_enabled") == "1",
            fsync=node_info.setting(fsync) or "",
            rdb=node_info.setting(rdb),
            missing=node_info.missing(refused, prefix),
            blocked=node_info.number(said.get("blocked_clients", "")),
        )
        self.state = self._admitted(state, record, now_us, written)

    def _admitted(self, state: NodeState, record: object, now_us: int | None, written: object) -> NodeState:
        """With what its record says, and its answer to a write that changes nothing: whether it may vote."""
        run_id, since, fingerprint, asked = node_info.words(record, 4)
        known = run_id == state.run_id
        fingerprint = fingerprint if known else ""
        abstains_ms = self._quarantine_ms
        if known and since and now_us is not None:
            age_ms = now_us // 1000 - node_info.number(since)
            abstains_ms = max(0, max(self._quarantine_ms, node_info.number(asked)) - max(0, age_ms))
        reason = self.node.unfit
        # Who waits goes past a node that can't be a lock node, as past one that can't be reached.
        self.node.error = reason
        denied = wire.explain("NOPERM")
        if state.missing and reason in {"", denied}:
            reason = f"{denied}: {', '.join(state.missing)}"
        disagrees = fingerprint not in {"", self._codec.fingerprint}
        if not reason and disagrees:
            reason = wire.disagrees(fingerprint).reason
        if not reason and abstains_ms:
            reason = f"new, restarted or emptied: abstains for another {abstains_ms / 1000:.1f} s"
        # Without the right to write a key, nothing is known of what the node would say to clients that have it.
        if not reason and isinstance(written, ReplyError) and (refuses := wire.explain(str(written))) != denied:
            reason = refuses
        complete = self.node.unfit in {"", denied} and not disagrees and not abstains_ms
        return dataclasses.replace(
            state, fingerprint=fingerprint, abstains=abstains_ms / 1000, reason=reason, complete=complete
        )

    def _find(self, prefix: str, most: int) -> None:
        pattern = re.sub(r"([\\*?\[\]])", r"\\\1", prefix) + "*" if prefix else "[^\x01]*"
        until_ms = now_ms() + self.node.timeout_ms
        cursor = b"0"
        while True:
            (answer,) = self.ask(
                ("SCAN", cursor, "MATCH", pattern, "COUNT", str(_SCAN_COUNT), "TYPE", "string"),
            )
            cursor, keys = _checked(node_info.scanned(answer), answer)
            names = (key.removeprefix(prefix) for key in keys)
            self.names.update(name for name in names if node_info.is_resource(name))
            if cursor == b"0":
                return
            if len(self.names) > most or now_ms() > until_ms:
                # A node with very many keys is not read to the end.
                self.more = True
                return

    def _read(self, prefix: str, names: Sequence[str]) -> None:
        for first in range(0, len(names), _NAMES_AT_ONCE):
            some = names[first : first + _NAMES_AT_ONCE]
            beside = (wire.fence_key, wire.queue_key)
            keys = [key for name in some for key in (prefix + name, *(place(name, prefix) for place in beside))]
            (answer,) = self.ask(("EVAL", _LOOK.source, str(len(keys)), *keys))
            for name, (*vote, waited) in zip(some, _checked(node_info.rows(answer, len(some)), answer), strict=True):
                self.votes[name] = wire.decode(vote)
                if waited:
                    self.waited.add(name)


def _checked(read: _T | None, answer: object) -> _T:
    """What was read of an answer.

    Raises:
        UnsuitableNode: It is an error, or not what the command answers.
    """
    refuse(answer)
    if read is None:
        raise UnsuitableNode(NO_REDIS)
    return read
