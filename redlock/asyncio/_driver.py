"""The acquire driver for asyncio: performs the effects of the acquire loop in the running task.

An acquire goes the way of `_locking/driver.py`. `LoopConnections.ask` in `_transport/asyncio.py` performs its rounds.

Invariants:
1. A cancellation is thrown into the generator, which undoes its attempt and leaves its queue. None of the effects that
   follow suspends the task, so a cancellation delays nothing and leaves nothing behind. These effects are a `Round`
   that is only sent, `Receive` without a deadline, and `PassOn`.
2. The task is not suspended between a won round and the return to the caller.
3. A limited number of tasks is at the nodes at a time, and no waiting task.
"""

from __future__ import annotations

import asyncio
from inspect import GEN_CLOSED, getgeneratorstate
from typing import TYPE_CHECKING, Any, TypeVar

from redlock._clock import monotonic, now_ms
from redlock._core.commands import Round, Wait
from redlock._core.vote_tally import unasked
from redlock._locking.effects import AwaitTurn, Borrow, PassOn, Receive, Send, Sleep, TakeConnections

if TYPE_CHECKING:
    from redlock._core.commands import Names
    from redlock._locking.effects import Effect, Effects
    from redlock._transport.asyncio import LoopConnections
    from redlock.asyncio._waiters import LoopWaiters

_MOST_ATTEMPTS = 64
"""The most acquires that are at the nodes at a time: more would only wait there, and count as silent nodes."""
_NO_PLACE = "not asked: the other tasks of this event loop did not leave the nodes in time"

T = TypeVar("T")


class Window:
    """Lets a limited number of attempts to the nodes at a time, in the order of their arrival.

    An exception of a signal handler can strike at any instruction. So the window knows each attempt, instead of a
    number of free places, and `leave` is right for an attempt in each state.
    """

    def __init__(self, places: int = _MOST_ATTEMPTS) -> None:
        self._places = places
        self._inside: set[object] = set()
        self._waiting: dict[object, asyncio.Future[None]] = {}
        self.attempts: dict[Names, set[object]] = {}
        """The attempts for these resources that are at the nodes or wait for a place. Newer tasks queue behind them."""

    async def enter(self, attempt: object, names: Names, seconds: float | None = None) -> bool:
        """Wait for a place, at most this long. The caller calls `leave` in each case."""
        self.attempts.setdefault(names, set()).add(attempt)
        if len(self._inside) < self._places:
            self._inside.add(attempt)
            return True
        turn = self._waiting[attempt] = asyncio.get_running_loop().create_future()
        await asyncio.wait({turn}, timeout=seconds)
        return turn.done()

    def leave(self, attempt: object, names: Names) -> None:
        """Give the place to the next attempt, or wait no more; does nothing for an attempt that has left."""
        attempts = self.attempts.get(names, set())
        attempts.discard(attempt)
        if not attempts:
            self.attempts.pop(names, None)
        self._waiting.pop(attempt, None)
        self._inside.discard(attempt)
        while self._waiting:
            following, turn = next(iter(self._waiting.items()))
            # An exception can have interrupted another `leave` after the place was given and before the turn was told.
            if following not in self._inside and len(self._inside) >= self._places:
                break
            self._inside.add(following)
            if not turn.done():
                turn.set_result(None)
            del self._waiting[following]


class LoopDriver:
    """Performs the effects of one generator; each acquire has a driver of its own."""

    def __init__(self, connections: LoopConnections, waiters: LoopWaiters, window: Window, names: Names) -> None:
        self._connections, self._waiters, self._window, self._names = connections, waiters, window, names
        self._until_ms = 0
        self._is_at_nodes = False
        """Whether the window has let this task to the nodes."""

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
            self.leave_nodes()
            steps.close()

    def leave_nodes(self) -> None:
        """Leave the window, if this attempt is in it."""
        self._is_at_nodes = False
        self._window.leave(self, self._names)

    async def _perform(self, effect: Effect) -> Any:  # noqa: ANN401 - depends on the effect
        if type(effect) is Round:
            if effect.wait is Wait.SENT:
                # An undo command: no code waits for its votes, and a task that is cancelled must not be suspended.
                self._connections.post(effect)
                return None
            if not self._is_at_nodes:
                return unasked(effect, len(self._connections.state.all), now_ms(), _NO_PLACE)
            return await self._connections.ask(effect, self._until_ms)
        self.leave_nodes()
        if type(effect) is TakeConnections:
            return await self._take(effect.until_ms)
        return await self._wait(effect)

    async def _take(self, until_ms: int | None) -> object:
        seconds = None if until_ms is None else max(0, until_ms - now_ms()) / 1000
        self._is_at_nodes = await self._window.enter(self, self._names, seconds)
        self._until_ms = now_ms() + 2 * self._connections.state.timeout_ms if until_ms is None else until_ms
        return self._connections

    async def _wait(self, effect: Effect) -> Any:  # noqa: ANN401 - as above
        match effect:
            case Sleep(seconds):
                await asyncio.sleep(seconds)
            case AwaitTurn(place, seconds):
                await self._waiters.wait_for(place.signal, seconds)
            case Borrow(node, seconds):
                return await self._waiters.borrow(node, seconds)
            case Send(connection, words, _):
                # Without the deadline: a request is sent whole at once, or the connection has failed.
                connection.send(words)
            case Receive(connection, until):
                if until is not None:
                    await self._waiters.wait_for(connection, until - monotonic())
                return connection.answer()
            case PassOn(node, connection, words):
                self._waiters.pass_on(node, connection, words)
        return None
