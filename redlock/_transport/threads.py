"""The round driver for threads: executes rounds on all nodes in parallel and returns round results.

Invariants:
1. A set is used by one thread at a time, the thread that has the turn.
2. A round costs one exchange with all nodes in parallel and ends when the result is decided. Rounds that are
   independent of each other share the exchange.
3. An exception can interrupt any instruction (time limits, SystemExit from a signal). An interrupted wait does no harm.
   Anywhere else all connections are dropped, because the order of their replies is unknown; a cancel is sent before.
   They stay open for at least a node timeout, until a round that dials or an interruption closes them. The end of the
   client closes them as soon as every node has replied.
"""

from __future__ import annotations

import math
from contextlib import suppress
from typing import TYPE_CHECKING, TypeVar

from redlock._clock import monotonic, now_ms
from redlock._core import protocol
from redlock._core.commands import Acquire, Release, Wait
from redlock._mutex import Mutex
from redlock._transport.connections import RELEASE_MS, NodeConnections
from redlock._transport.pending_releases import MOST_PENDING, PendingRelease, PendingReleases
from redlock._transport.sockets import Sockets
from redlock.errors import NoThread

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from redlock._core.commands import Command, Round
    from redlock._core.protocol import Outcome, Steps
    from redlock._core.vote_tally import VoteTally
    from redlock._core.votes import RoundResult
    from redlock._transport.codec import Codec
    from redlock._transport.exchange import Exchange
    from redlock._transport.node import Node

T = TypeVar("T")


class ConnectionSet(Mutex):
    """A connection to each node, for one thread at a time.

    Where sockets refuse bytes of a round, `watch` lets another thread call `poll` until the set is settled.
    """

    def __init__(self, nodes: Sequence[Node], codec: Codec, watch: Callable[[ConnectionSet], object]) -> None:
        super().__init__()
        self._nodes, self._codec, self._watch = nodes, codec, watch
        self._timeout_ms = nodes[0].timeout_ms
        self.rounds = 0
        """The number of rounds that were sent; a reader that compares two readings sees whether the set is in use."""
        self._until_ms = 0
        """The deadline of the rounds that are being executed."""
        self._late_ms = 0
        """How long the last send took: this process may have stood still. The rounds get this time back."""
        self._is_half_done = False
        """Whether an operation is being executed, and is not in one of its waits. If the next operation finds True, an
        exception has interrupted this one, and all connections are dropped."""
        self._dropped: list[tuple[int, Exchange]] = []
        """Interrupted connections with the time of their last command, which the node may not have read yet."""
        self._reset()

    def _reset(self) -> None:
        self.state = NodeConnections(self._nodes, self._codec, self._timeout_ms, now_ms())
        self._sockets = Sockets(self._nodes, self.state)
        self.releases = PendingReleases()

    def set_deadline(self, until_ms: int | None) -> None:
        """Set the deadline of the next rounds; None for two node timeouts from now."""
        self._until_ms = now_ms() + 2 * self._timeout_ms if until_ms is None else until_ms

    def run(self, steps: Steps[T]) -> T:
        """Execute the rounds of a protocol generator, in two node timeouts, and return its result."""
        self.set_deadline(None)
        return protocol.run(steps, self.ask)

    def ask(self, round_: Round) -> RoundResult:
        """Execute a round, until the deadline at most."""
        return self._finish_round(self._send_round(round_, now_ms()))

    def run_all(self, generators: Sequence[Steps[T]]) -> list[T]:
        """Execute generators that are independent of each other: their rounds share the exchanges."""
        self.set_deadline(None)
        started: list[tuple[Steps[T], VoteTally]] = []
        results: dict[Steps[T], T] = {}
        try:
            for steps in generators:
                try:
                    started.append((steps, self._send_round(next(steps), now_ms(), hold=True)))
                except StopIteration as stop:
                    results[steps] = stop.value
                # Otherwise the next `_send_round` would find this one interrupted.
                self._is_half_done = False
            self._start_operation()
            self._flush(started[0][1].sent_ms if started else now_ms())
            for steps, tally in started:
                results[steps] = protocol.run(steps, self.ask, self._finish_round(tally))
        finally:
            for steps, tally in started:
                tally.closed = True
                steps.close()
        return [results[steps] for steps in generators]

    def send_release(self, steps: Steps[Outcome], done: Callable[[Outcome], None]) -> None:
        """Send a release, or hold the release back for a moment, without a wait; `done` gets the outcome later."""
        now = now_ms()
        self.set_deadline(None)
        if len(self.releases) >= MOST_PENDING:
            # This thread is faster than the nodes. No command may be dropped, so the oldest release is awaited.
            self._start_operation()
            self._flush(now)
            now = self._collect(self.releases[0].tally)
            self.releases.report(now, over=1)
            self._is_half_done = False
        held = self.releases.returns_at_once
        tally = self._send_round(next(steps), now, hold=held)
        self.releases.note_release(PendingRelease(tally, steps, done), held=held)
        if self.releases.is_time_to_flush(tally.sent_ms):
            self._flush(tally.sent_ms)
            self.releases.report(self._pump(0))
        self._is_half_done = False

    @property
    def is_settled(self) -> bool:
        """Whether every asynchronous release has an outcome, and no unsent byte can still matter.

        The nodes have forgotten every lease of this set after the longest TTL.
        """
        return not self.releases and (not self.state.unsent or now_ms() > self._until_ms + self._codec.max_ttl_ms)

    def poll(self) -> None:
        """Send the bytes that were held back or did not fit into a socket, and read the replies that have arrived."""
        if not self.is_settled:
            self._start_operation()
            self._flush(now_ms())
            self.releases.report(self._pump(0))
            self._is_half_done = False

    def await_releases(self) -> None:
        """Wait until the outcome of every release is known, at most `RELEASE_MS`."""
        if self.releases:
            self._start_operation()
            now = now_ms()
            self._until_ms = now + RELEASE_MS
            self._flush(now)
            while self.releases:
                self.releases.report(self._collect(self.releases[0].tally), over=1)
            self._is_half_done = False

    def drain(self, until_ms: int) -> None:
        """Read until every node has answered every command, at most until this moment.

        If the connection ends before a node has written its reply, the node drops its unread commands. The release of
        a lock that the node has set may be among these commands.
        """
        self._start_operation()
        for _, exchange in self._dropped:
            exchange.await_end(monotonic() + (until_ms - now_ms()) / 1000)
        while (wait_ms := until_ms - now_ms()) > 0 and self.state.is_awaited:
            self._pump(wait_ms)
        self._is_half_done = False

    def _start_operation(self, round_: Round | None = None) -> None:
        """Begin an operation, with this round; if an exception interrupted the last one, drop all connections.

        They get a last command before: the releases that were held back, and a cancel. Their replies do not matter.
        """
        if self._is_half_done:
            releases = self.releases
            self.state.drop_requests()
            if round_ is not None and round_.wait is Wait.SENT and type(round_.command) is Release:
                self.state.begin(round_, now_ms())
            self._sockets.write(self.state.all)
            self._drop()
            self._reset()
            releases.report(now_ms(), over=len(releases))
        self._is_half_done = True

    def _finish_round(self, tally: VoteTally) -> RoundResult:
        try:
            now = now_ms() if tally.wait is Wait.SENT else self._collect(tally)
            result = self.state.finish(tally, now)
            if self.releases:
                self.releases.report(now)
            self._is_half_done = False
            return result
        finally:
            # An exception may end the wait: then no command of this round may be sent again after the cancel.
            tally.closed = True
            if self._sockets.has_refused:
                self._sockets.has_refused = False
                # Without a thread, the next round sends the rest.
                with suppress(NoThread):
                    self._watch(self)

    def _send_round(self, round_: Round, now: int, *, hold: bool = False) -> VoteTally:
        """Send the round's command to its nodes; `now` is the clock, read before."""
        # After an interruption this sends the round, a cancel, on the old connections. The new connections are not
        # dialled for a cancel, so nothing goes out twice.
        self._start_operation(round_)
        state, command = self.state, round_.command
        if round_.wait is not Wait.SENT and not state.is_ready(now):
            self._make_ready(command)
            now = now_ms()
        self.rounds += 1
        tally = state.begin(round_, now)
        self.releases.note_round(now, hold=hold)
        if hold:
            state.hold_back()
        else:
            self._sockets.write(state.order(command))
            self._late_ms = now_ms() - now
        return tally

    def _make_ready(self, command: Command) -> None:
        """Read late replies, drop useless connections, and dial."""
        state, now = self.state, now_ms()
        self._close_dropped(now - self._timeout_ms)
        if state.needs_read(now):
            self._pump(0)
        dials = state.make_ready(command, now, self._until_ms)
        self._sockets.close_ended()
        self._sockets.dial()
        while (wait_ms := dials.left_ms(now_ms())) > 0:
            self._is_half_done = False
            self._sockets.await_dial(wait_ms)
            self._is_half_done = True
            self._sockets.dial()
        self._until_ms = dials.until_ms
        self._sockets.dial()

    def _flush(self, now: int) -> None:
        self.releases.flush(now)
        self._sockets.write(self.state.all)
        self._late_ms = now_ms() - now

    def _collect(self, tally: VoteTally) -> int:
        """Read until the round is over or its time is; returns the clock after the last read."""
        limit_ms = self.state.limit_ms(tally)
        until_ms = min(tally.sent_ms + limit_ms, self._until_ms) + self._late_ms
        now = now_ms()
        while not tally.is_over:
            if until_ms > now:
                now = self._pump(until_ms - now)
                continue
            # A process that was stopped finds the deadline over and the replies in the sockets. So a last read follows
            # the wait, or all nodes would count as silent. A single read is enough, and a node can send without end.
            now = self._pump(0)
            if not tally.is_over:
                self.state.expire(tally, now)
                return now
        if tally.is_lost and type(tally.command) is Acquire:
            # A node whose denial has arrived by now needs no cancel.
            now = self._pump(0)
        return now

    def _pump(self, wait_ms: int) -> int:
        """Read the bytes that arrive within this time; returns the clock after the read."""
        self._is_half_done = False
        ready = self._sockets.wait(wait_ms)
        self._is_half_done = True
        return self._sockets.receive(ready)

    def _drop(self) -> None:
        """Use the connections no more, and close them later.

        A node that can't write a reply ends the connection, and drops its unread commands: a cancel may be among these.
        """
        now, left = now_ms(), self._sockets.leave("interrupted in the middle of a command")
        for exchange in left:
            exchange.end_sending()
        self._dropped += [(now, exchange) for exchange in left]
        self._close_dropped(now - self._timeout_ms)

    def _close_dropped(self, before_ms: float) -> None:
        while self._dropped and self._dropped[0][0] < before_ms:
            self._dropped[0][1].close()
            del self._dropped[0]

    def abandon(self) -> None:
        """Close all connections. A thread that has waited for its turn meanwhile dials anew."""
        self._close_dropped(math.inf)
        self._sockets.abandon()
        self._reset()
