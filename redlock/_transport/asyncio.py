"""The round driver for asyncio: executes the rounds of many tasks on the connections of an event loop.

`start` and `run` make an `Execution`, which callbacks of the loop carry from round to round: dials if necessary, and
then the command in the outboxes. `LoopSockets` sends the outboxes of all tasks at the end of an iteration of the loop,
and later reads replies into the state machine. After each event `resume` goes on with executions whose rounds are over.

Invariants:
1. Everything happens in callbacks of the loop. Only `run` and `close` have an `await`, so a cancellation can interrupt
   nothing else.
2. A cancelled operation closes its round without an `await`. The command that undoes the operation needs none either.
3. An operation ends in every case: by its result, by its deadline, or because the set of connections was closed.
"""

from __future__ import annotations

import asyncio
from contextvars import Context
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from redlock._clock import now_ms
from redlock._core.commands import Acquire, Round, Wait
from redlock._core.protocol import single
from redlock._transport.connections import NodeConnections
from redlock._transport.loop_sockets import LoopSockets
from redlock.errors import RedlockError

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Sequence

    from redlock._core.protocol import Steps
    from redlock._core.vote_tally import VoteTally
    from redlock._core.votes import RoundResult
    from redlock._transport.codec import Codec
    from redlock._transport.connected_nodes import DialWait
    from redlock._transport.node import Node

A = TypeVar("A")
T = TypeVar("T")

CLOSED = "the client was closed in this event loop"


class LoopConnections:
    """A connection to each node, shared by all tasks of an event loop."""

    def __init__(self, nodes: Sequence[Node], codec: Codec, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.is_closed = False
        self.state = NodeConnections(nodes, codec, nodes[0].timeout_ms, now_ms())
        self.sockets = LoopSockets(nodes, self.state, loop, self.resume)
        self.executions: set[Execution[Any]] = set()
        """The operations that have not ended."""
        self.awaits_dial: dict[Execution[Any], None] = {}
        """The operations with a round that waits for a dial, in their order."""
        self._idle: asyncio.Future[None] | None = None
        """Done when no operation and no reply is missing; None before `close`."""

    def start(self, steps: Steps[T], until_ms: int | None = None) -> Execution[T]:
        """Begin to execute a protocol generator. Its first command goes out in this iteration of the loop.

        The default deadline of its rounds is in two node timeouts.

        Raises:
            RedlockError: The set was closed.
        """
        if self.is_closed:
            raise RedlockError(CLOSED)
        execution = Execution(self, steps, now_ms() + 2 * self.state.timeout_ms if until_ms is None else until_ms)
        try:
            self.executions.add(execution)
            execution.start()
            self.resume()
        except BaseException:
            execution.abort()
            if execution.future.done():
                # The caller gets the error from here, so the future need not report it.
                execution.future.exception()
            raise
        return execution

    async def run(self, steps: Steps[T], until_ms: int | None = None) -> T:
        """Execute a protocol generator and return its result; the arguments are those of `start`."""
        execution = self.start(steps, until_ms)
        try:
            return await execution.future
        except BaseException:
            execution.abort()
            # The frames of the error have the execution, which would keep the error alive.
            del execution.future
            raise

    def ask(self, round_: Round, until_ms: int) -> Coroutine[Any, Any, RoundResult]:
        """Execute a round, until the deadline at most."""
        return self.run(single(round_), until_ms)

    def post(self, round_: Round) -> None:
        """Send a command whose replies are ignored, without an `await`."""
        if not self.is_closed:
            now = now_ms()
            self.state.finish(self.sockets.begin(round_, now), now)
            self.sockets.send_soon(round_.command)
            self.resume()

    def resume(self) -> None:
        """After new bytes, a new round, or the end of a dial or connection: resume the rounds that were waiting."""
        if self.is_closed:
            return
        state = self.state
        if self.awaits_dial:
            # A loop that was blocked calls back for one dial after the other, and must count none of them as overdue.
            self.sockets.adopt_ended(state.all)
            for execution in tuple(self.awaits_dial):
                execution.begin_dialled()
        while state.with_news:
            tallies, state.with_news = state.with_news, []
            for tally in tallies:
                if tally.on_news is not None:
                    tally.on_news(tally)
        if state.to_close:
            self.sockets.close_ended()
        if self._idle is not None and not (self._idle.done() or self.executions or state.is_awaited):
            self._idle.set_result(None)

    async def close(self) -> None:
        """Close the connections, after the nodes have read all commands; waits for the node timeout at most."""
        try:
            self._idle = self.loop.create_future()
            self.sockets.flush()
            await asyncio.wait({self._idle}, timeout=self.state.timeout_ms / 1000)
        finally:
            self.abandon()

    def abandon(self) -> None:
        """Close the connections now, and end all operations with an error."""
        self.is_closed = True
        self.sockets.abandon(CLOSED)
        for execution in list(self.executions):
            if self.loop.is_closed():
                # A closed loop takes no callback of a future any more.
                execution.abort()
            else:
                execution.fail(RedlockError(CLOSED))


class Execution(Generic[T]):
    """A protocol generator that is being executed, round by round.

    A round waits for dials (`_dials` is set), or for replies (`_tally` is set). Otherwise the generator runs, or the
    execution has ended.
    """

    def __init__(self, connections: LoopConnections, steps: Steps[T], until_ms: int) -> None:
        self.future: asyncio.Future[T] = connections.loop.create_future()
        """Gets the result of the generator, or its error."""
        self._connections, self._steps, self._until_ms = connections, steps, until_ms
        self._dials: tuple[Round, DialWait] | None = None
        self._tally: VoteTally | None = None
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Begin to execute the generator."""
        self._go_on(self._resume, None)

    def begin_dialled(self) -> None:
        """Begin the round that waits for dials, if there is one and its wait is over."""
        if self._dials is not None:
            self._go_on(self._begin_dialled, self._dials)

    def _go_on(self, step: Callable[[A], RoundResult | None], argument: A) -> None:
        """Take this step, and then resume the generator as long as a step returns the result of a round."""
        try:
            try:
                result = step(argument)
                while result is not None:
                    result = self._resume(result)
            except StopIteration as stop:
                self._end()
                if not self.future.done():
                    self.future.set_result(stop.value)
            except Exception as error:  # noqa: BLE001 - in a callback of the loop; the awaiting caller gets the error
                self.fail(error)
        except BaseException as error:
            # A signal handler of the application has raised this, perhaps while `fail` was at work.
            self.fail(error)
            raise

    def _resume(self, result: RoundResult | None) -> RoundResult | None:
        """Resume the generator with a result, and begin its next round; returns the result of a round that is over."""
        round_ = next(self._steps) if result is None else self._steps.send(result)
        if round_.wait is not Wait.SENT and not self._connections.state.is_ready(now_ms()):
            return self._dial_first(round_)
        return self._begin_round(round_)

    def _dial_first(self, round_: Round) -> RoundResult | None:
        """Read if necessary, drop useless connections, dial, and then begin the round."""
        state, sockets, now = self._connections.state, self._connections.sockets, now_ms()
        sockets.adopt_ended(state.all)
        if state.needs_read(now):
            sockets.read_all()
        self._dials = round_, state.make_ready(round_.command, now, self._until_ms)
        sockets.close_ended()
        sockets.dial()
        return self._begin_dialled(self._dials)

    def _begin_dialled(self, waiting: tuple[Round, DialWait]) -> RoundResult | None:
        """Begin the round, unless the round has to wait for a dial."""
        self._stop_timer()
        round_, dials = waiting
        if (wait_ms := dials.left_ms(now_ms())) > 0:
            self._connections.awaits_dial[self] = None
            self._timer = self._connections.loop.call_later(wait_ms / 1000, self._connections.resume, context=Context())
            return None
        self._connections.awaits_dial.pop(self, None)
        self._dials, self._until_ms = None, dials.until_ms
        return self._begin_round(round_)

    def _begin_round(self, round_: Round) -> RoundResult | None:
        """Begin the round; returns the result of a round that is over at once."""
        state, sockets = self._connections.state, self._connections.sockets
        tally = sockets.begin(round_, now_ms())
        if tally.is_over:
            sockets.send_soon(round_.command)
            return state.finish(tally, now_ms())
        # In this order, here and in `_end_round`: after an exception in between, `abort` finds what it has to end.
        self._tally, tally.on_news = tally, self._counted
        sockets.send_soon(round_.command, self._start_timer)
        return None

    def _start_timer(self) -> None:
        """The time for the replies begins: other code may have blocked the loop since the begin of the round."""
        tally = self._tally
        if tally is not None:
            self._stop_timer()
            limit_ms = min(self._connections.state.limit_ms(tally), max(0, self._until_ms - tally.sent_ms))
            self._timer = self._connections.loop.call_later(limit_ms / 1000, self._overdue, tally)

    def _overdue(self, tally: VoteTally) -> None:
        """End the round at its deadline, after a last read: the loop may have been blocked until now."""
        try:
            connections = self._connections
            connections.sockets.read_all()
            connections.resume()
            if tally is self._tally:
                connections.state.expire(tally, now_ms())
                self._go_on(self._end_round, tally)
                connections.resume()
        except BaseException:
            # A signal handler of the application has raised this. The round must end all the same.
            self._connections.loop.call_soon(self._overdue, tally)
            raise

    def _counted(self, tally: VoteTally) -> None:
        """Take notice of a vote: go on if the round is over. A round that has ended takes notice of no vote."""
        if tally.is_over:
            self._go_on(self._end_round, tally)

    def _end_round(self, tally: VoteTally) -> RoundResult:
        self._stop_timer()
        tally.on_news = self._tally = None
        if tally.is_lost and type(tally.command) is Acquire:
            # A node whose denial has arrived by now needs no cancel.
            self._connections.sockets.read_all()
        return self._connections.state.finish(tally, now_ms())

    def abort(self) -> None:
        """End without a result. No command of this operation is sent again."""
        if self._tally is not None:
            self._tally.closed, self._tally.on_news, self._tally = True, None, None
        self._dials = None
        self._end()
        self._steps.close()

    def fail(self, error: BaseException) -> None:
        """End with an error; a second call has no effect."""
        if not self.future.done():
            self.future.set_exception(error)
        self.abort()

    def _end(self) -> None:
        self._stop_timer()
        self._connections.executions.discard(self)
        self._connections.awaits_dial.pop(self, None)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
