"""The health of a node as this process sees it: known failures, other clients' settings, and jumps of its clock.

Invariants: no I/O and no clock; time is an argument. All connections of the process to a node share its health.
"""

from __future__ import annotations

from redlock import _log
from redlock._core.clock_jump import ClockJumpDetector

_RETRY_FIRST_MS, _RETRY_LAST_MS = 100, 1_000
_REFUSED_MS = 10_000
"""How long waiters avoid a node that took their connection and then failed: each try can cost two log lines."""
_DIAL, _WAIT = "dial", "wait"
_WATCH_MS = 100
_AGAIN_MS = 1_000
"""The shortest time between two log lines of a kind. A node can give another reason, time or configuration in each
reply, or the name of another server at each dial, or refuse every second dial."""


class NodeHealth:
    """The known failures of a node.

    Args:
        label: The name of the node in messages, without a password.
    """

    def __init__(self, label: str) -> None:
        self.label = label
        self.error = ""
        """The reason why the node is down; empty while the node is up."""
        self.is_unused = False
        """Whether the client was closed, and has begun no round with a dial since. A dial or a wait that ends then logs
        nothing."""
        self.clock = ClockJumpDetector()
        self.watch_from_ms = 0
        """When the node's clock is due for the next comparison: comparing every reply costs time and tells no more."""
        self._other_fingerprint = ""
        self._same_as = ""
        self._told_error = ""
        self._failures = 0
        self._next_ms: dict[str, int] = {}
        """The earliest time of the next log line of each event, of the next dial, and of the next try of a waiter."""

    def watch(self, time_ms: int, sent_ms: int, done_ms: int) -> None:
        """Compare the node's time with earlier replies, and report a clock that jumped."""
        self.watch_from_ms = done_ms + _WATCH_MS
        jump_ms = self.clock.observe(time_ms, sent_ms, done_ms)
        if jump_ms:
            self.watch_from_ms = done_ms + _AGAIN_MS
            _log.warning("clock-jump", node=self.label, by_ms=jump_ms, jumps=self.clock.jumps)

    def rejects(self, fingerprint: str, now_ms: int) -> None:
        """Record the configuration fingerprint of the node's other clients; empty if the node accepts this client."""
        if fingerprint and fingerprint != self._other_fingerprint:
            if not self._is_line_due("node-disagrees", now_ms):
                return
            _log.warning("node-disagrees", node=self.label, fingerprint=fingerprint)
        self._other_fingerprint = fingerprint

    def is_same_as(self, label: str, now_ms: int) -> None:
        """Report that another address, with this label, leads to the same server."""
        if label != self._same_as and self._is_line_due("node-duplicate", now_ms):
            self._same_as = label
            _log.warning("node-duplicate", node=self.label, same_as=label)

    def is_silent(self, reason: str, now_ms: int) -> None:
        """Report that a round has timed out; many rounds of a process can end at the same time."""
        if self._is_line_due("node-silent", now_ms):
            _log.warning("node-silent", node=self.label, reason=reason)

    def refuses_late(self, reason: str, now_ms: int) -> None:
        """Report that the node casts no vote, after the other nodes have decided the round."""
        emit = _log.info if self._is_line_due("vote-missing", now_ms) else _log.count
        emit("vote-missing", missing={self.label: reason})

    def mark_up(self) -> None:
        """Record a successful dial."""
        if self._told_error and not self.is_unused:
            _log.info("node-up", node=self.label)
            self._told_error = ""
        self.error, self._failures = "", 0

    def mark_down(self, error: str, now_ms: int) -> None:
        """Record a failed dial: no round waits for the node until a dial succeeds."""
        if error != self._told_error and self._is_line_due("node-down", now_ms):
            self._told_error = error
            _log.warning("node-down", node=self.label, reason=error)
        self._failures += 1
        pause_ms = min(_RETRY_FIRST_MS << min(self._failures - 1, 10), _RETRY_LAST_MS)
        self.error = error
        self._next_ms[_DIAL], self._next_ms[_WAIT] = now_ms + pause_ms, now_ms + _RETRY_LAST_MS

    def refuse_wait(self, error: str, now_ms: int) -> None:
        """Record that a waiter got a connection, and then no wait."""
        self.mark_down(error, now_ms)
        self._next_ms[_WAIT] = now_ms + _REFUSED_MS

    def _is_line_due(self, event: str, now_ms: int) -> bool:
        """Whether a line of this event may be logged now; if so, the next may follow after a pause."""
        return not self.is_unused and self._takes_turn(event, now_ms, _AGAIN_MS)

    def _takes_turn(self, kind: str, now_ms: int, pause_ms: int) -> bool:
        """Whether this is due now. A True reserves the turn: the next is due after the pause."""
        is_due = now_ms >= self._next_ms.get(kind, 0)
        if is_due:
            self._next_ms[kind] = now_ms + pause_ms
        return is_due

    def may_dial(self, now_ms: int) -> bool:
        """Whether a dial is due. A True reserves the turn, so that a single thread dials a node that is down."""
        self.is_unused = False
        return not self.error or self._takes_turn(_DIAL, now_ms, _RETRY_LAST_MS)

    def may_wait(self, now_ms: int) -> bool:
        """Whether a waiter may use the node. A True reserves the turn at a node that is down, for a single waiter.

        Rounds dial a node only where their own connection has ended. So after a failure of a waiter's connection alone,
        no other dial would ever find the node up.
        """
        return not self.error or self._takes_turn(_WAIT, now_ms, _RETRY_LAST_MS)
