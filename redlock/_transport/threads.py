"""The driver for threads: executes rounds on all nodes in parallel and returns round results.

Invariants:
1. A round costs one exchange with all nodes in parallel and ends when the result is decided. Late replies of slow nodes
   are read before the replies to the next command on the same connection, and do not count.
2. Rounds that are independent of each other share the exchange.
3. An asynchronous release is sent at once, unless this thread usually sends its next round within a millisecond. Then
   the release goes out with the next round, in one piece. If no next round comes, `poll` sends the release.
4. No thread per node: the sockets are multiplexed with `selectors`, which gevent patches too.
"""

from __future__ import annotations

from selectors import EVENT_READ
from typing import TYPE_CHECKING, TypeVar

from redlock import _log
from redlock._clock import now_ms
from redlock._compat import ReplyError
from redlock._core.commands import Acquire, Inspect, Release, Round, Wait
from redlock._core.vote_tally import VoteTally
from redlock._core.votes import UNANSWERED, Kind, Vote, silent, timed_out
from redlock._transport import codec
from redlock._transport.codec import SCRIPTS
from redlock._transport.pending_releases import RELEASE_MS, PendingRelease, PendingReleases

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from redlock._core.protocol import Outcome, Steps
    from redlock._transport.codec import Codec
    from redlock._transport.connection import NodeConnection
    from redlock._transport.node import Node

T = TypeVar("T")

_IDLE_MS = 1_000
_MOST_PENDING = 512
"""The most releases without a reply: their replies fit into the socket's buffer while no thread reads them."""


class NodeConnections(PendingReleases):
    """Rounds on one connection per node, for one thread at a time."""

    def __init__(self, nodes: Sequence[Node], codec: Codec) -> None:
        super().__init__(nodes, codec.fingerprint)
        self.rounds = 0
        """The number of rounds that were sent; a reader that compares two readings sees whether the set is in use."""
        self._codec = codec
        self._used_ms = now_ms()

    def run(self, steps: Steps[T], until_ms: int | None = None) -> T:
        """Execute the rounds of a protocol generator and return its result.

        Args:
            steps: The generator.
            until_ms: The deadline of its last round; default: in two node timeouts.
        """
        self._until_ms = now_ms() + 2 * self._timeout_ms if until_ms is None else until_ms
        return self._finish(steps, self._send_round(next(steps)))

    def run_all(self, generators: Sequence[Steps[T]]) -> list[T]:
        """Execute generators that are independent of each other: their rounds share the exchanges."""
        self._until_ms = now_ms() + 2 * self._timeout_ms
        started: list[tuple[Steps[T], VoteTally]] = []
        results: dict[Steps[T], T] = {}
        try:
            for steps in generators:
                try:
                    started.append((steps, self._send_round(next(steps), hold=True)))
                except StopIteration as stop:
                    results[steps] = stop.value
                self._is_half_done = False
            self._begin()
            self._flush()
            for steps, tally in started:
                results[steps] = self._finish(steps, tally)
        finally:
            for steps, tally in started:
                tally.closed = True
                steps.close()
        return [results[steps] for steps in generators]

    def send_release(self, steps: Steps[Outcome], done: Callable[[Outcome], None]) -> None:
        """Send a release, or hold the release back for a moment, without a wait; `done` gets the outcome later."""
        self._until_ms = now_ms() + 2 * self._timeout_ms
        if len(self._pending) >= _MOST_PENDING:
            # This thread is faster than the nodes. No command may be dropped, so the oldest release is awaited.
            self._begin()
            self._flush()
            self._collect(self._pending[0].tally)
            self._report_outcomes(over=1)
            self._is_half_done = False
        tally = self._send_round(next(steps), hold=self._returns_at_once)
        self._pending.append(PendingRelease(tally, steps, done))
        self._last_release_ms = tally.sent_ms
        if self._held_back_count and self._is_time_to_flush(tally.sent_ms):
            self._flush()
            self._pump(0)
            self._report_outcomes()
        self._is_half_done = False

    def poll(self) -> None:
        """Send the releases that were held back, and read the replies that have arrived."""
        if self._pending:
            self._begin()
            self._flush()
            self._pump(0)
            self._report_outcomes()
            self._is_half_done = False

    def await_releases(self) -> None:
        """Wait until the outcome of every release is known, at most `RELEASE_MS`."""
        if self._pending:
            self._until_ms = now_ms() + RELEASE_MS
            self._begin()
            self._flush()
            while self._pending:
                self._collect(self._pending[0].tally)
                self._report_outcomes(over=1)
            self._is_half_done = False

    def drain(self, until_ms: int) -> None:
        """Read until every node has answered every command, at most until this moment.

        If the connection ends before a node has written its reply, the node drops its unread commands. The release of
        a lock that the node has set may be among these commands.
        """
        self._begin()
        while (wait_ms := until_ms - now_ms()) > 0 and any(connection.is_awaited for connection in self._connections):
            self._pump(wait_ms)
        self._is_half_done = False

    def _begin(self) -> None:
        """Begin an operation; if an exception interrupted the last one, the order of its replies is unknown."""
        if self._is_half_done:
            for connection in self._connections:
                connection.flush()
            self.abandon()
            self._reset()
            self._report_outcomes(over=len(self._pending))
        self._is_half_done = True

    def _finish(self, steps: Steps[T], tally: VoteTally) -> T:
        try:
            while True:
                if tally.wait is not Wait.SENT:
                    self._collect(tally)
                self._used_ms = now_ms()
                if self._was_rejected:
                    self._discard_rejections(tally)
                round_result = tally.close(self._used_ms)
                if self._pending:
                    self._report_outcomes()
                self._is_half_done = False
                tally = self._send_round(steps.send(round_result))
        except StopIteration as stop:
            result: T = stop.value
            return result
        finally:
            # An exception may end the wait: then no command of this round may be sent again after the cancel.
            tally.closed = True

    def _send_round(self, round_: Round, *, hold: bool = False) -> VoteTally:
        """Send the round's command to its nodes."""
        self._begin()
        command = round_.command
        if round_.wait is not Wait.SENT:
            self._make_ready(round_)
        words = self._codec.encode(command)
        self.rounds += 1
        sent_ms = now_ms()
        tally = VoteTally(round_, len(self._connections), sent_ms)
        admits, to = SCRIPTS[type(command)].admits, round_.to
        barred = admits and self._barred
        for connection in self.order(command):
            if to is not None and connection.place not in to:
                tally.cast(connection.place, silent("not asked"))
            elif barred:
                tally.cast(connection.place, self._not_asked(connection))
            elif connection.sock is None or connection.suspect_since_ms is not None or connection.refusal is not None:
                vote = self._send_to_unavailable(
                    connection, tally, words + connection.run_id_argument if admits else words
                )
                tally.cast(connection.place, vote)
            elif hold:
                connection.hold_back(words + connection.run_id_argument if admits else words, tally)
            else:
                connection.send(words + connection.run_id_argument if admits else words, tally)
        self._note_held_back(sent_ms, hold=hold)
        return tally

    def _send_to_unavailable(self, connection: NodeConnection, tally: VoteTally, words: bytes) -> Vote:
        """Send a command to a node that is down, suspect or rejecting, if useful. The round does not wait for it."""
        suspect = connection.suspect_since_ms is not None
        if connection.sock is None or (suspect and isinstance(tally.command, Acquire | Inspect)):
            return silent(connection.reason or connection.node.error)
        if not connection.send(words, tally) or suspect:
            return silent(connection.reason)
        # The node has no vote until it accepts the configuration, which a quorum of the other nodes has accepted.
        return (
            UNANSWERED if connection.refusal is None else connection.refusal._replace(fingerprint="", unanswered=True)
        )

    def _collect(self, tally: VoteTally) -> None:
        limit_ms = self._timeout_ms
        if type(tally.command) is Release:
            limit_ms = min(limit_ms, RELEASE_MS)
        until_ms = min(tally.sent_ms + limit_ms, self._until_ms)
        while not tally.is_over:
            wait_ms = until_ms - now_ms()
            if wait_ms > 0:
                self._pump(wait_ms)
                continue
            # A process that was stopped finds the deadline over and the replies in the sockets. So a last read follows
            # the wait, or all nodes would count as silent. It reads once: a node can send without end.
            self._pump(0)
            if not tally.is_over:
                self._give_up(tally, limit_ms)
                return
        if tally.is_lost and type(tally.command) is Acquire:
            # A node whose denial has arrived by now needs no cancel.
            self._pump(0)

    def _pump(self, wait_ms: int) -> bool:
        """Read the replies that arrive within this time; False if none arrived."""
        self._is_half_done = False
        ready = self._selector.select(wait_ms / 1000)
        self._is_half_done = True
        read_ms = now_ms()
        for key, mask in ready:
            connection: NodeConnection = key.data
            if mask != EVENT_READ:
                connection.write()
            for tally, reply in connection.receive():
                if tally is None:
                    continue
                if (
                    type(reply) is ReplyError
                    and connection.scripts_sent_for is not tally
                    and str(reply).startswith("NOSCRIPT")
                ):
                    self._load_scripts(connection, tally)
                else:
                    self._count(connection, tally, reply, read_ms)
        return bool(ready)

    def _count(self, connection: NodeConnection, tally: VoteTally, reply: object, read_ms: int) -> None:
        if tally.closed:
            # Too late for its round, but news of the configuration counts.
            late = codec.refusal(reply) if connection.agreed else codec.decode(reply)
            if late is not None and late.time_ms:
                self._note_fingerprint(connection, late)
            return
        vote = codec.decode(reply)
        if vote.fence > tally.most_fence:
            vote = self._if_plausible(connection, vote)
        tally.cast(connection.place, self._counted_once(connection, tally, vote) if connection.duplicates else vote)
        if vote.time_ms:
            if vote.kind is Kind.SILENT or not connection.agreed:
                self._note_fingerprint(connection, vote)
            connection.node.watch(vote.time_ms, tally.sent_ms, read_ms)

    def _load_scripts(self, connection: NodeConnection, tally: VoteTally) -> None:
        """Load all scripts again, so that a cancel finds its script too; then repeat the command once."""
        connection.scripts_sent_for = tally
        connection.load_scripts()
        if not tally.closed:
            words = self._codec.encode(tally.command)
            if not connection.send(
                words + connection.run_id_argument if SCRIPTS[type(tally.command)].admits else words, tally
            ):
                tally.record_silence(connection.place, connection.reason)

    def _give_up(self, tally: VoteTally, limit_ms: int) -> None:
        """End the round at its deadline. A node is suspect only after a full node timeout: a release ends earlier."""
        reason, now = f"no answer within {limit_ms} ms", now_ms()
        for connection in self._connections:
            if tally.votes[connection.place].unanswered:
                tally.cast(connection.place, timed_out(reason))
                if now - tally.sent_ms >= self._timeout_ms:
                    connection.reason, connection.suspect_since_ms = reason, now
                    _log.warning("node-silent", node=connection.node.label, reason=reason)

    def _make_ready(self, round_: Round) -> None:
        """Read late replies if necessary, drop useless connections, and dial."""
        unavailable = [
            one for one in self._connections if one.sock is None or one.suspect_since_ms is not None or one.refusal
        ]
        self._barred = False
        idle = now_ms() - self._used_ms > _IDLE_MS
        if not (unavailable or idle):
            return
        suspects = [connection for connection in unavailable if connection.suspect_since_ms is not None]
        if idle or any(connection.sock is not None for connection in unavailable):
            self._pump(0)
        self._connect(round_.command, suspects)
