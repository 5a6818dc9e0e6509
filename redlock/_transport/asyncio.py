"""The round driver for asyncio: executes the rounds of many tasks on the connections of an event loop.

Invariants:
1. Everything happens in callbacks of the loop. Only `run` and `close` have an `await`, so a cancellation can interrupt
   nothing else.
2. A cancelled operation closes its round without an `await`. The command that undoes the operation needs none either.
3. An operation ends in every case: by its result, by its deadline, or because the set of connections was closed.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Generic, TypeVar

from redlock._clock import now_ms
from redlock._core.commands import Acquire, Round, Wait
from redlock._transport.loop_sockets import CLOSED, FlushObserver, LoopSockets
from redlock.errors import RedlockError

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence

    from redlock._core.protocol import Steps
    from redlock._core.vote_tally import VoteTally
    from redlock._core.votes import RoundResult
    from redlock._transport.codec import Codec
    from redlock._transport.connected_nodes import DialWait
    from redlock._transport.node import Node

T = TypeVar("T")


class LoopConnections(LoopSockets):
    """A connection to each node, shared by all tasks of an event loop.

    Args:
        nodes: The nodes, in their order.
        codec: Encodes the commands.
        loop: The running event loop.
    """

    def __init__(self, nodes: Sequence[Node], codec: Codec, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(nodes, codec, loop)
        self.executions: set[Execution[object]] = set()
        """The operations that have not ended."""
        self._idle: asyncio.Future[None] | None = None
        """Done when no operation and no reply is missing; None before `close`."""

    def start(self, steps: Steps[T], until_ms: int | None = None) -> Execution[T]:
        """Begin to execute a protocol generator. Its first command goes out in this turn of the loop.

        Args:
            steps: The generator.
            until_ms: The deadline of its rounds; default: in two node timeouts.

        Raises:
            RedlockError: The set was closed.
        """
        if self.is_closed:
            raise RedlockError(CLOSED)
        execution = Execution(self, steps, now_ms() + 2 * self.timeout_ms if until_ms is None else until_ms)
        execution.start()
        self.settle()
        return execution

    async def run(self, steps: Steps[T], until_ms: int | None = None) -> T:
        """Execute a protocol generator and return its result.

        Args:
            steps: The generator.
            until_ms: The deadline of its rounds; default: in two node timeouts.
        """
        execution = self.start(steps, until_ms)
        try:
            return await execution.future
        except BaseException:
            execution.abort()
            raise

    def post(self, round_: Round) -> None:
        """Send a command whose replies are ignored."""
        if not self.is_closed:
            self.start(_only(round_._replace(wait=Wait.SENT)))

    async def close(self) -> None:
        """Close the connections, after the nodes have read all commands; waits for the node timeout at most."""
        try:
            self._idle = self.loop.create_future()
            self.flush()
            await asyncio.wait({self._idle}, timeout=self.timeout_ms / 1000)
        finally:
            self.abandon()

    def settle(self) -> None:
        """See `LoopSockets`; also tells `close` when nothing is missing any more."""
        super().settle()
        if self._idle is not None and not (self._idle.done() or self.executions or self.state.is_awaited):
            self._idle.set_result(None)

    def abandon(self, *, forked: bool = False) -> None:
        """Close the connections now, and end all operations with an error."""
        super().abandon(forked=forked)
        if forked:
            return
        for execution in list(self.executions):
            if self.loop.is_closed():
                # A closed loop takes no callback of a future any more.
                execution.abort()
            else:
                execution.fail(RedlockError(CLOSED))


class Execution(FlushObserver, Generic[T]):
    """A protocol generator that is being executed, round by round.

    A round waits for dials (`_round` and `_dials` are set), or for replies (`_tally` is set). Otherwise the generator
    runs, or the execution has ended.

    Args:
        connections: The connections of the loop.
        steps: The generator.
        until_ms: The deadline of its rounds.
    """

    def __init__(self, connections: LoopConnections, steps: Steps[T], until_ms: int) -> None:
        self.future: asyncio.Future[T] = connections.loop.create_future()
        """Gets the result of the generator, or its error."""
        self._connections, self._steps, self._until_ms = connections, steps, until_ms
        self._round: Round | None = None
        """The round that waits for a dial."""
        self._dials: DialWait | None = None
        self._tally: VoteTally | None = None
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Begin the first round."""
        self._connections.executions.add(self)  # type: ignore[arg-type]  # its result is of no interest there
        self._advance(None)

    def _advance(self, result: RoundResult | None, round_: Round | None = None) -> None:
        """Begin this round, or resume the generator with a result, and go on until a round has to wait."""
        try:
            while True:
                if round_ is None:
                    round_ = next(self._steps) if result is None else self._steps.send(result)
                    if round_.wait is not Wait.SENT and not self._connections.state.is_ready(now_ms()):
                        self._round = round_
                        self._dials = self._connections.make_ready(round_.command, self._until_ms)
                        self._begin_when_dialled()
                        return
                result, round_ = self._begin(round_), None
                if result is None:
                    return
        except StopIteration as stop:
            self._end()
            if not self.future.done():
                self.future.set_result(stop.value)
        except Exception as error:  # noqa: BLE001 - in a callback of the loop; the awaiting caller gets the error
            self.fail(error)

    def _begin_when_dialled(self) -> None:
        """Begin the round, unless the round has to wait for a dial."""
        round_, dials, connections = self._round, self._dials, self._connections
        if round_ is None or dials is None:
            return
        self._stop_timer()
        wait_ms = dials.left_ms(now_ms())
        if wait_ms > 0:
            connections.awaits_dial[self] = self._begin_when_dialled
            self._timer = connections.loop.call_later(wait_ms / 1000, self._stop_awaiting_dials)
            return
        connections.awaits_dial.pop(self, None)
        self._round, self._dials, self._until_ms = None, None, dials.until_ms
        self._advance(None, round_)

    def _stop_awaiting_dials(self) -> None:
        self._begin_when_dialled()
        self._connections.settle()

    def _begin(self, round_: Round) -> RoundResult | None:
        """Begin the round; returns the result of a round that is over at once."""
        state = self._connections.state
        tally = state.begin(round_, now_ms())
        self.flushed_ms = None
        self._connections.send_soon(self, round_.command)
        if tally.is_over:
            return state.finish(tally, now_ms())
        tally.waiter, self._tally = self._counted, tally
        self._watch(self._limit_ms(tally))
        return None

    def _limit_ms(self, tally: VoteTally) -> int:
        """How long the nodes have for their replies after the send."""
        return min(self._connections.state.limit_ms(tally), max(0, self._until_ms - tally.sent_ms))

    def _watch(self, wait_ms: int) -> None:
        self._timer = self._connections.loop.call_later(wait_ms / 1000, self._overdue)

    def _overdue(self) -> None:
        """End the round at its deadline, after a last read: the loop may have been blocked until now."""
        tally, connections = self._tally, self._connections
        if tally is None:
            return
        now = now_ms()
        wait_ms = (now if self.flushed_ms is None else self.flushed_ms) + self._limit_ms(tally) - now
        if wait_ms > 0:
            self._watch(wait_ms)
            return
        connections.read_all()
        connections.settle()
        if tally is self._tally:
            connections.state.expire(tally, now_ms())
            self._finish(tally)
            connections.settle()

    def _counted(self, tally: VoteTally) -> None:
        """Take notice of a vote: go on if the round is over. A round that has ended takes notice of no vote."""
        if tally.is_over:
            self._finish(tally)

    def _finish(self, tally: VoteTally) -> None:
        self._stop_timer()
        self._tally = tally.waiter = None
        if tally.is_lost and type(tally.command) is Acquire:
            # A node whose denial has arrived by now needs no cancel.
            self._connections.read_all()
        self._advance(self._connections.state.finish(tally, now_ms()))

    def abort(self) -> None:
        """End without a result. No command of this operation is sent again."""
        if self._tally is not None:
            self._tally.closed, self._tally.waiter, self._tally = True, None, None
        self._round = self._dials = None
        self._end()
        self._steps.close()

    def fail(self, error: Exception) -> None:
        """End with an error."""
        self.abort()
        if not self.future.done():
            self.future.set_exception(error)

    def _end(self) -> None:
        self._stop_timer()
        self._connections.executions.discard(self)
        self._connections.awaits_dial.pop(self, None)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def _only(round_: Round) -> Generator[Round, RoundResult, None]:
    yield round_
