"""The acquire driver for threads: performs the effects of the acquire loop, in the calling thread.

`Lock.__enter__` makes a `Lease`, and `Lease.acquire` gives the generator of `acquisition` to this driver. An attempt
yields `TakeConnections` and one or two rounds, which `ConnectionSet.ask` in `_transport/threads.py` performs; the
effects of a wait follow a refusal. When an attempt is won, the generator calls `Lease._accept_grant`, and the caller
has the lease.

Invariants:
1. An exception in an effect is thrown into the generator, which undoes its attempt and leaves its queue.
2. If an exception prevents that throw, the generator is closed. Then the generator undoes the attempt in
   this process and leaves its queue; no cancel is sent.
3. Every effect except `Round` gives the connections back, so no wait happens with connections in use.
"""

from __future__ import annotations

import sys
import time
from contextlib import suppress
from inspect import GEN_CLOSED, getgeneratorstate
from queue import Empty
from typing import TYPE_CHECKING, Any, TypeVar

from redlock._core.commands import Round
from redlock._locking.effects import AwaitTurn, Borrow, PassOn, Receive, Send, Sleep, TakeConnections
from redlock._transport.pool import AllInUse

if TYPE_CHECKING:
    from redlock._locking.effects import Effect, Effects
    from redlock._locking.waiter_pool import WaiterPool
    from redlock._mutex import Turn
    from redlock._transport.pool import ConnectionPool
    from redlock._transport.threads import ConnectionSet

T = TypeVar("T")


class ThreadsDriver:
    """Performs the effects of one generator; each acquire has a driver of its own."""

    __slots__ = ("_connections", "_pool", "_turn", "_waiters")

    def __init__(self, pool: ConnectionPool, waiters: WaiterPool) -> None:
        self._pool, self._waiters = pool, waiters
        self._turn: Turn[ConnectionSet] | None = None
        self._connections: ConnectionSet | None = None

    def run(self, steps: Effects[T]) -> T:
        """Perform the effects of the generator and return its result."""
        try:
            effect = next(steps)
            while True:
                # After a throw the inner loop goes on with the effect that the generator has yielded then.
                try:
                    while True:
                        effect = steps.send(self._perform(effect))
                except StopIteration:
                    raise
                except BaseException:
                    if getgeneratorstate(steps) == GEN_CLOSED:
                        raise
                    # Without a name: after a second exception here, the name would keep this frame alive, and with
                    # the frame the turn, so that no other thread could use the connections.
                    effect = steps.throw(sys.exc_info()[1])  # type: ignore[arg-type]  # there is one
        except StopIteration as stop:
            result: T = stop.value
            return result
        finally:
            self._give_back()
            steps.close()

    def _give_back(self) -> None:
        """Let other threads use the connections."""
        self._connections = None
        if self._turn is not None:
            self._turn.end()

    def _perform(self, effect: Effect) -> Any:  # noqa: ANN401 - depends on the effect
        if type(effect) is Round and self._connections is not None:
            return self._connections.ask(effect)
        self._give_back()
        if type(effect) is Round:
            return self._pool.unasked(effect)
        if type(effect) is TakeConnections:
            try:
                self._turn = self._pool.connections(until_ms=effect.until_ms)
            except AllInUse:
                return None
            self._connections = self._turn.mutex
            self._connections.set_deadline(effect.until_ms)
            return self._connections
        return self._wait(effect)

    def _wait(self, effect: Effect) -> Any:  # noqa: ANN401 - as above
        match effect:
            case Sleep(seconds):
                time.sleep(seconds)
            case AwaitTurn(place, seconds):
                with suppress(Empty):
                    place.signal.get(timeout=max(0.0, seconds))
            case Borrow(node, seconds):
                return self._waiters.borrow(node, seconds)
            case Send(connection, words, until):
                connection.send(words, until)
            case Receive(connection, until):
                return connection.answer(until)
            case PassOn(_, connection, words):
                self._waiters.pass_on(connection, words)
        return None
