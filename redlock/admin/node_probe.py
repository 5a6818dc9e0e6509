"""Probes a lock node: its state, and the locks on this node.

Invariants:
1. A probe changes nothing on the node.
2. A probe uses SCAN, and never KEYS.
"""

from __future__ import annotations

import dataclasses
import re
import time
from typing import TYPE_CHECKING, TypeVar

from redlock._clock import now_ms, wall_us
from redlock._core.votes import quarantine_ms, silent
from redlock._locking import wait_report
from redlock._transport import codec as wire
from redlock._transport import decoder, node_info
from redlock._transport.codec import pack
from redlock._transport.node import ERRORS, FORBIDDEN, NO_REDIS, Node, ShutOut, UnsuitableNode, describe_failure, refuse
from redlock._transport.reply_reader import ReplyError
from redlock.admin.node_state import NodeState

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from redlock._core.votes import Vote
    from redlock._transport.exchange import Exchange

_T = TypeVar("_T")
_PERMITTED = wire.Script.load("permitted")
_HOLDERS = wire.Script.load("holders")
_SETTINGS = ("appendfsync", "save")
_SCAN_COUNT = 1_000
_NAMES_AT_ONCE = 250


class _ProbedNode(Node):
    """A node that accepts a probe even where the server is no suitable lock node."""

    unsuitable = ""

    def _greet(self, exchange: Exchange, until: float) -> tuple[str, str]:
        try:
            return super()._greet(exchange, until)
        except ShutOut:
            raise
        except UnsuitableNode as exc:
            self.unsuitable = describe_failure(exc, self.timeout_ms)
            return "", ""


class NodeProbe:
    """A probe of a node: `connect`, `find` the names on the node, `read` the locks at given names, `read_waits`.

    Args:
        url: The node's address.
        timeout_ms: Milliseconds to wait for each answer, and for the whole list of names.
        codec: The codec of the clients.

    Raises:
        ConfigurationError: The address is invalid.
    """

    def __init__(self, url: str, timeout_ms: int, codec: wire.Codec) -> None:
        self.node = _ProbedNode(url, timeout_ms, codec.prefix)
        self.state = NodeState(self.node.label, reason=f"no answer within {timeout_ms} ms")
        self.names: set[str] = set()
        self.more = False
        """Whether the node has more names than listed."""
        self.votes: dict[str, Vote] = {}
        self.waited: set[str] = set()
        """Names for which the current lock denied a client, which may still wait."""
        self.waits: set[tuple[str, str, float]] = set()
        """The reported waits: resource, owner label and start of each."""
        self._codec = codec
        self._quarantine_ms = quarantine_ms(codec.max_ttl_ms)
        self._exchange: Exchange | None = None

    def connect(self) -> None:
        """Connect to the node and read its state."""
        try:
            self._exchange = self.node.connect(self._seconds, admin=True)
            self._read_state()
        except (*ERRORS, UnsuitableNode) as exc:
            self.node.error = describe_failure(exc, self.node.timeout_ms)
            self.state = NodeState(self.node.label, reason=self.node.error)
            self.close()

    def find(self, most: int) -> None:
        """List about `most` names that can be locks."""
        self._try(lambda: self._find(most))

    def read(self, names: Sequence[str]) -> None:
        """Read the locks at these names."""
        self._try(lambda: self._read(names))

    def read_waits(self) -> None:
        """Read the waits that processes report on this node; none where the user may not read them."""
        prefix = self._codec.prefix
        try:
            (answer,) = self._ask(wait_report.read_command(prefix))
        except (*ERRORS, UnsuitableNode):
            # The connection may be in the middle of a reply, and this request is the last.
            self.close()
        else:
            self.waits = wait_report.decode(answer, prefix)

    def close(self) -> None:
        """Close the connection."""
        exchange, self._exchange = self._exchange, None
        if exchange is not None:
            exchange.close()

    def vote(self, name: str) -> Vote:
        """Return the node's vote for a name."""
        return self.votes.get(name) or silent(self.state.unlisted or self.state.reason or "not asked")

    def _try(self, work: Callable[[], None]) -> None:
        """Read from a node that can be a lock node; after a failure, the list of its locks is not complete."""
        if self._exchange is None or self.state.role != "master" or self.state.mode not in {"", "standalone"}:
            return
        try:
            work()
        except UnsuitableNode as exc:
            self.state = dataclasses.replace(self.state, unlisted=str(exc))
        except ERRORS as exc:
            self.state = dataclasses.replace(self.state, unlisted=describe_failure(exc, self.node.timeout_ms))
            # A late answer would be taken for the answer to the next request.
            self.close()

    def _ask(self, *commands: Sequence[str | bytes]) -> list[object]:
        """Return the replies to these commands, error replies included."""
        if self._exchange is None:
            raise ConnectionAbortedError("the probe is closed")
        words = b"".join(pack(*command) for command in commands)
        return self._exchange.ask(words, len(commands), time.monotonic() + self._seconds)

    @property
    def _seconds(self) -> float:
        return self.node.timeout_ms / 1000

    def _read_state(self) -> None:
        prefix = self._codec.prefix
        before_us = wall_us()
        clock, refused = self._ask(("TIME",), ("EVAL", _PERMITTED.source, "0", prefix + wire.RECORD))
        after_us = wall_us()
        # Without this choice, each probe of a worker would be in the server's log of refused commands.
        chosen = node_info.probe_commands(refused)
        sections = ["server", "replication", *(name[5:] for name in chosen if name.startswith("INFO "))]
        settings = _SETTINGS if "CONFIG GET" in chosen else ()
        record, written, *answers = self._ask(
            ("HMGET", prefix + wire.RECORD, "run_id", "since", "fingerprint", "quarantine"),
            ("SET", prefix + wire.PROBE, "", "XX"),
            # Each section alone: a managed service can forbid a section, and a server before 7.0 takes one at a time.
            *(("INFO", name) for name in sections),
            *(("CONFIG", "GET", name) for name in settings),
        )
        infos, kept = answers[: len(sections)], answers[len(sections) :] or [None] * len(_SETTINGS)
        fields = {name: value for info in infos for name, value in node_info.fields(info).items()}
        fsync, rdb = map(node_info.setting, kept)
        now_us = node_info.time_us(clock)
        state = NodeState(
            self.node.label,
            reachable=True,
            version=node_info.server(fields),
            role=node_info.shown(fields, "role"),
            mode=node_info.mode(fields),
            run_id=node_info.shown(fields, "run_id"),
            clock_offset=None if now_us is None else (now_us - (before_us + after_us) // 2) / 1e6,
            clock_error=(after_us - before_us) / 2e6,
            eviction=node_info.shown(fields, "maxmemory_policy"),
            max_memory=node_info.number(fields.get("maxmemory", "")),
            used_memory=node_info.number(fields.get("used_memory", "")),
            aof=fields["aof_enabled"] == "1" if "aof_enabled" in fields else None,
            fsync=fsync or "",
            rdb=rdb,
            missing=node_info.missing(refused, prefix),
            unreported=node_info.unreported(refused, fields, (fsync, rdb)),
            blocked=node_info.number(fields.get("blocked_clients", "")),
        )
        self.state = self._with_reason(state, record, now_us, written)

    def _with_reason(self, state: NodeState, record: object, now_us: int | None, written: object) -> NodeState:
        """Add the reason for which the node has no vote: from its record, and from a write that changes nothing."""
        run_id, since, fingerprint, quarantine = node_info.words(record, 4)
        known = run_id == state.run_id
        fingerprint = fingerprint if known else ""
        abstains_ms = self._quarantine_ms
        if known and since and now_us is not None:
            age_ms = now_us // 1000 - node_info.number(since)
            abstains_ms = max(0, max(self._quarantine_ms, node_info.number(quarantine)) - max(0, age_ms))
        reason = self.node.unsuitable
        # Waiters skip a node with an error: an unsuitable server counts as an unreachable node.
        self.node.error = reason
        denied = decoder.explain("NOPERM")
        if state.missing and reason in {"", denied}:
            reason = f"{denied}: {', '.join(state.missing)}"
        disagrees = fingerprint not in {"", self._codec.fingerprint}
        if disagrees:
            vote = decoder.disagrees(fingerprint)
            fingerprint, reason = vote.fingerprint, reason or vote.reason
        if not reason and abstains_ms:
            reason = decoder.abstains(abstains_ms)
        # A user without the permission to write can't learn the answer that the node gives to clients.
        if not reason and isinstance(written, ReplyError) and (refuses := decoder.explain(str(written))) != denied:
            reason = refuses
        complete = self.node.unsuitable in {"", denied} and not disagrees and not abstains_ms
        return dataclasses.replace(
            state, fingerprint=fingerprint, abstains=abstains_ms / 1000, reason=reason, complete=complete
        )

    def _find(self, most: int) -> None:
        prefix = self._codec.prefix
        pattern = re.sub(r"([\\*?\[\]])", r"\\\1", prefix) + "*" if prefix else "[^\x01]*"
        until_ms = now_ms() + self.node.timeout_ms
        cursor = b"0"
        while True:
            (answer,) = self._ask(
                ("SCAN", cursor, "MATCH", pattern, "COUNT", str(_SCAN_COUNT), "TYPE", "string"),
            )
            if isinstance(answer, ReplyError) and str(answer).startswith(FORBIDDEN):
                raise UnsuitableNode("SCAN is forbidden, or was renamed")
            cursor, keys = _checked(node_info.scanned(answer), answer)
            names = (key.removeprefix(prefix) for key in keys)
            self.names.update(name for name in names if node_info.is_resource(name))
            if cursor == b"0":
                return
            if len(self.names) > most:
                self.more = True
                return
            if now_ms() > until_ms:
                # Too many other keys, perhaps of another project: a held lock can be among the rest.
                self.more = True
                unlisted = f"too many keys to read all within {self.node.timeout_ms} ms"
                self.state = dataclasses.replace(self.state, unlisted=unlisted)
                return

    def _read(self, names: Sequence[str]) -> None:
        prefix = self._codec.prefix
        for first in range(0, len(names), _NAMES_AT_ONCE):
            batch = names[first : first + _NAMES_AT_ONCE]
            keys = [
                key
                for name in batch
                for key in (prefix + name, wire.fence_key(name, prefix), wire.queue_key(name, prefix))
            ]
            (answer,) = self._ask(("EVAL", _HOLDERS.source, str(len(keys)), *keys))
            for name, (*vote, waited) in zip(batch, _checked(node_info.rows(answer, len(batch)), answer), strict=True):
                self.votes[name] = decoder.decode(vote)
                if waited:
                    self.waited.add(name)


def _checked(parsed: _T | None, answer: object) -> _T:
    """Return the parsed answer.

    Raises:
        UnsuitableNode: The answer is an error, or has another shape than the command's answers.
    """
    refuse(answer)
    if parsed is None:
        raise UnsuitableNode(NO_REDIS)
    return parsed
