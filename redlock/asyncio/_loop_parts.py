"""The shared parts of a client: for each event loop its connections, its wait queue and its background tasks.

Invariants:
1. Two loops share the health of the nodes, the fences that were seen, and the event log: values without I/O. A lease, a
   wait and a task belong to a single loop.
2. Every task of `on_lost` is known to the client until its end, and every `close` in its loop waits for the task.
   Inside such a task, `close` waits only for the other tasks of the parts that it closes itself. So no two such tasks
   wait for each other.
3. The parts of a loop that was closed without `close` are dropped when the client is used in another loop.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from redlock import _log
from redlock._core import protocol
from redlock._locking.caller_context import package_variable
from redlock._locking.client_context import ClientContext
from redlock._locking.wait_registry import WaitRegistry
from redlock._transport.asyncio import LoopConnections
from redlock.asyncio._driver import Window
from redlock.asyncio._renewal import LoopRenewal
from redlock.asyncio._waiters import LoopWaiters
from redlock.holder import holder_of

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextvars import Context, ContextVar

    from redlock._locking.client_context import ClientOptions
    from redlock.holder import LockHolder


_CALLBACK_SECONDS = 5.0
"""The time for which the end of a stopped loop waits for callbacks."""
_callbacks: ContextVar[tuple[asyncio.Task[Any] | None, ...]] = package_variable("redlock_on_lost_tasks", ())
"""The tasks of `on_lost` in which this code runs, or whose context its task has inherited."""


class LoopParts:
    """The parts of a client that belong to a single event loop."""

    def __init__(self, context: LoopContext) -> None:
        self.loop = asyncio.get_running_loop()
        self.connections = LoopConnections(context.nodes, context.codec, self.loop)
        self.window = Window()
        self.waiters = LoopWaiters(context.nodes, context.codec, self.window.attempts, id(context))
        self.waits = WaitRegistry(self.waiters)
        self.renewal = LoopRenewal(self.connections)
        self.callbacks: set[asyncio.Future[None]] = set()
        """The tasks of `on_lost` that have not ended."""
        self._unfinished = context.unfinished

    def call(self, resource: str, function: Callable[[], object], context: Context) -> None:
        """Call a function of the application soon, in a task of its own, which awaits a coroutine function.

        The task has a copy of this context.
        """
        # Not by `create_task`: an eager task would call the function now. Python 3.10 has no argument for the context.
        task = context.run(asyncio.Task, _call(resource, function), loop=self.loop)
        for tasks in (self.callbacks, self._unfinished):
            task.add_done_callback(tasks.discard)
            tasks.add(task)

    async def close(self) -> None:
        """Stop renewal, wait for releases, and close the connections."""
        closing: asyncio.Future[None] = self.loop.create_future()
        try:
            self._unfinished.add(closing)
            self.renewal.close()
            self.waits.publisher.close()
            await self.connections.close()
        finally:
            self._unfinished.discard(closing)
            closing.cancel()
            self.abandon()
            self.waiters.wake_all()

    def abandon(self) -> None:
        """Close the connections now, and report no more waits."""
        self.waits.publisher.close()
        self.connections.abandon()
        self.waiters.close()


async def _call(resource: str, function: Callable[[], object]) -> None:
    token = _callbacks.set((asyncio.current_task(),))
    try:
        result = function()
        if asyncio.iscoroutine(result):
            await result
    except Exception as error:  # noqa: BLE001 - `on_lost` is code of the application; nothing awaits this task
        _log.failure("on-lost-failed", error, resource=resource)
    finally:
        # Otherwise the context of the task would hold the task.
        _callbacks.reset(token)


class LoopContext(ClientContext):
    """The shared parts of a client."""

    def __init__(self, options: ClientOptions) -> None:
        super().__init__(options)
        self._parts: dict[asyncio.AbstractEventLoop, LoopParts] = {}
        self.unfinished: set[asyncio.Future[None]] = set()
        """The tasks of `on_lost` that have not ended, and a future for each close of connections that is under way."""

    def parts(self) -> LoopParts:
        """The parts of the running loop.

        Raises:
            RuntimeError: No event loop runs.
        """
        loop = asyncio.get_running_loop()
        try:
            return self._parts[loop]
        except KeyError:
            self._drop_closed_loops()
            parts = self._parts[loop] = LoopParts(self)
            return parts

    async def holder(self, resource: str) -> LockHolder | None:
        """See `Redlock.holder`."""
        return holder_of(self.nodes, resource, await self.parts().connections.run(protocol.inspect(resource)))

    async def close(self, seconds: float | None = None) -> None:
        """Close the parts of the running loop, and wait for its callbacks, which are cancelled after this time."""
        self._drop_closed_loops()
        loop, inside, own = asyncio.get_running_loop(), _callbacks.get(), list[LoopParts]()
        left_out: set[asyncio.Future[None] | None] = set(inside)
        while True:
            # Again after each wait: a callback may have used the client, which makes new parts.
            parts = self._parts.pop(loop, None)
            if parts is not None:
                try:
                    await parts.close()
                finally:
                    if not self._parts:
                        self._note_close()
                own.append(parts)
            tasks = set().union(*(one.callbacks for one in own)) if inside else self._unfinished_in(loop)
            others = tasks - left_out
            if not others:
                return
            _, late = await asyncio.wait(others, timeout=seconds)
            if late:
                for task in late:
                    task.cancel()
                await asyncio.wait(late, timeout=seconds)
                left_out |= late

    def _unfinished_in(self, loop: asyncio.AbstractEventLoop) -> set[asyncio.Future[None]]:
        # Loops in other threads change the set meanwhile.
        return {future for future in list(self.unfinished) if future.get_loop() is loop}

    def _drop_closed_loops(self) -> None:
        for loop in [loop for loop in list(self._parts) if loop.is_closed()]:
            # Loops in several threads can do this at the same time.
            parts = self._parts.pop(loop, None)
            if parts is not None:
                parts.abandon()
        # A closed loop ends no task any more.
        self.unfinished.difference_update([one for one in list(self.unfinished) if one.get_loop().is_closed()])

    def close_stopped_loops(self, seconds: float = _CALLBACK_SECONDS) -> None:
        """Close the parts of loops that do not run, from outside of a loop. Callbacks are cancelled after this time."""
        self._drop_closed_loops()
        for loop in {*list(self._parts), *(future.get_loop() for future in list(self.unfinished))}:
            if not loop.is_running():
                loop.run_until_complete(self.close(seconds))

    def reset_after_fork(self) -> None:
        """In a forked child: the loops of the parent do not run here."""
        parts, self._parts = self._parts, {}
        self.unfinished = set()
        for of_loop in parts.values():
            # They go on in the parent.
            of_loop.connections.executions.clear()
            of_loop.abandon()
