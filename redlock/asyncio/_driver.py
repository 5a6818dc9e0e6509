"""The acquire driver for asyncio: performs the effects of the acquire loop in the running task.

The round driver, `_transport/asyncio.py`, carries out each `Round`.

Invariants:
1. A cancellation is thrown into the generator, which undoes its attempt and leaves its queue. None of the effects that
   follow suspends the task, so a cancellation delays nothing and leaves nothing behind. These effects are a `Round`
   that is only sent, `Receive` without a deadline, and `PassOn`.
2. The task is not suspended between a won round and the return to the caller.
3. A limited number of tasks is at the nodes at a time, and no waiting task.
"""

from __future__ import annotations

import asyncio
import contextlib
from inspect import GEN_CLOSED, getgeneratorstate
from typing import TYPE_CHECKING, Any, TypeVar

from redlock._clock import monotonic, now_ms
from redlock._core.commands import Round, Wait
from redlock._core.vote_tally import unasked
from redlock._locking.effects import AwaitTurn, Borrow, PassOn, Receive, Send, Sleep, TakeConnections
from redlock._transport.socket_errors import NoReply

if TYPE_CHECKING:
    from collections.abc import Generator

    from redlock._core.commands import Names
    from redlock._core.votes import RoundResult
    from redlock._locking.effects import Effect, Effects
    from redlock.asyncio._loop_parts import LoopParts

_NO_PLACE = "not asked: the other tasks of this event loop did not leave the nodes in time"

T = TypeVar("T")


class LoopDriver:
    """Performs the effects of one generator; each acquire has a driver of its own.

    Args:
        parts: The parts of the running loop.
        names: The resources.
    """

    def __init__(self, parts: LoopParts, names: Names) -> None:
        self._parts, self._names = parts, names
        self._until_ms = 0
        self._is_admitted = False
        """Whether the window has let this task to the nodes."""
        self._at_the_nodes = contextlib.ExitStack()
        """Ends the stay of this task at the nodes, or its wait for the window."""

    async def run(self, steps: Effects[T]) -> T:
        """Perform the effects of a generator and return its result."""
        try:
            effect = next(steps)
            while True:
                # After a throw the inner loop goes on with the effect that the generator has yielded then.
                try:
                    while True:
                        effect = steps.send(await self._perform(effect))
                except StopIteration:
                    raise
                except BaseException as exc:
                    if getgeneratorstate(steps) == GEN_CLOSED:
                        raise
                    effect = steps.throw(exc)
        except StopIteration as stop:
            result: T = stop.value
            return result
        finally:
            self._at_the_nodes.close()
            steps.close()

    async def _perform(self, effect: Effect) -> Any:  # noqa: ANN401 - depends on the effect
        if type(effect) is Round:
            if effect.wait is Wait.SENT:
                # An undo command: no code waits for its votes, and a task that is cancelled must not be suspended.
                self._parts.connections.post(effect)
                return None
            if not self._is_admitted:
                return unasked(effect, len(self._parts.connections.state.all), now_ms(), _NO_PLACE)
            return await self._parts.connections.run(_result_of(effect), self._until_ms)
        self._at_the_nodes.close()
        self._is_admitted = False
        if type(effect) is TakeConnections:
            return await self._take(effect.until_ms)
        return await self._wait(effect)

    async def _take(self, until_ms: int | None) -> object:
        parts = self._parts
        self._at_the_nodes.enter_context(parts.attempt(self._names))
        self._is_admitted = await parts.window.enter(None if until_ms is None else max(0, until_ms - now_ms()) / 1000)
        if self._is_admitted:
            self._at_the_nodes.callback(parts.window.leave)
        self._until_ms = now_ms() + 2 * parts.connections.timeout_ms if until_ms is None else until_ms
        return parts.connections

    async def _wait(self, effect: Effect) -> Any:  # noqa: ANN401 - as above
        match effect:
            case Sleep(seconds):
                await asyncio.sleep(seconds)
            case AwaitTurn(place, seconds):
                await place.signal.wait(seconds)
            case Borrow(node, seconds):
                return await self._parts.waiters.borrow(node, seconds)
            case Send(connection, words, _):
                # Without the deadline: a request is sent whole at once, or the connection has failed.
                connection.send(words)
            case Receive(connection, until):
                if until is not None:
                    await connection.wait(max(0.0, until - monotonic()))
                if not connection.has_answer:
                    raise NoReply("no answer in time")
                return connection.answer()
            case PassOn(node, connection, words):
                self._parts.waiters.pass_on(node, connection, words)
        return None


def _result_of(round_: Round) -> Generator[Round, RoundResult, RoundResult]:
    return (yield round_)
