"""asyncio's own event loop in virtual time: only its clock, its selector and its wake-up pipe are simulated.

Invariants: the loop of a process runs in a strand. While the strand is parked, no loop is set as running, because the
loops of other processes run in the same thread of the simulator.
"""

from __future__ import annotations

import asyncio
import selectors
from asyncio import selector_events
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager, suppress
from inspect import CORO_CLOSED, getcoroutinestate
from typing import TYPE_CHECKING, Any

from tests.sim import virtual
from tests.sim.sockets import Waiters, time_limit
from tests.sim.world import Killed

if TYPE_CHECKING:
    from tests.sim.world import Machine

_CLOCK_RESOLUTION = 1e-6


class _Pipe:
    """The pipe by which another thread wakes the loop."""

    is_readable = is_writable = False
    on_ready: Callable[[], None] | None = None

    def write(self) -> None:
        self.is_readable = True
        if self.on_ready is not None:
            self.on_ready()

    def drain(self) -> None:
        self.is_readable = False


class _LoopSelector:
    """`selectors.DefaultSelector`, for the strand of a loop."""

    def __init__(self, loop: VirtualLoop) -> None:
        self._loop = loop
        self._keys: dict[Any, selectors.SelectorKey] = {}
        self._waiters = Waiters()

    def get_map(self) -> dict[Any, selectors.SelectorKey]:
        return self._keys

    def get_key(self, sock: Any) -> selectors.SelectorKey:  # noqa: ANN401 - a socket, or the pipe
        return self._keys[sock]

    def register(self, sock: Any, events: int, data: object) -> None:  # noqa: ANN401 - as above
        self._keys[sock] = selectors.SelectorKey(sock, 0, events, data)
        sock.on_ready = self._waiters.wake

    modify = register

    def unregister(self, sock: Any) -> None:  # noqa: ANN401 - as above
        del self._keys[sock]
        sock.on_ready = None

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        with self._loop.paused():
            ready, until = self._ready(), time_limit(timeout)
            while not ready and (until is None or until > self._loop.machine.world.now):
                self._waiters.park(until)
                ready = self._ready()
        return ready

    def _ready(self) -> list[tuple[selectors.SelectorKey, int]]:
        found = []
        for sock, key in self._keys.items():
            events = selectors.EVENT_READ if sock.is_readable else 0
            if key.events & selectors.EVENT_WRITE and sock.is_writable:
                events |= selectors.EVENT_WRITE
            if events & key.events:
                found.append((key, events & key.events))
        return found

    def close(self) -> None:
        self._keys.clear()


class VirtualLoop(selector_events.BaseSelectorEventLoop):
    """The event loop of a simulated process.

    Args:
        machine: The process.
    """

    _run_once: Callable[[], None]
    _add_reader: Callable[..., object]
    _scheduled: list[asyncio.TimerHandle]

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self._pipe: Any = _Pipe()
        self._poll = _LoopSelector(self)
        super().__init__(self._poll)  # type: ignore[arg-type]  # as a selector
        self._clock_resolution = _CLOCK_RESOLUTION
        self.set_debug(False)
        self.set_exception_handler(self._report)

    def time(self) -> float:
        """The steady clock of the process."""
        return virtual.MODULES["time"].monotonic()  # type: ignore[no-any-return]  # seconds

    def _make_self_pipe(self) -> None:
        self._add_reader(self._pipe, self._pipe.drain)

    def _close_self_pipe(self) -> None:
        self._poll.unregister(self._pipe)

    def _ensure_fd_no_transport(self, _: object) -> None:
        """Nothing: there are no transports."""

    def _write_to_self(self) -> None:
        self._pipe.write()

    def _report(self, _: object, context: dict[str, Any]) -> None:
        if self.machine.alive:
            what = f"{context.get('message')}: {context.get('exception')!r}"
            self.machine.world.violation(f"the loop of {self.machine.name} reported {what}")

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Other strands run: no loop and no task is set as running."""
        running = asyncio._get_running_loop()
        task = None if running is None else asyncio.current_task(running)
        if task is not None:
            asyncio._leave_task(self, task)
        asyncio._set_running_loop(None)
        try:
            yield
        finally:
            asyncio._set_running_loop(running)
            if task is not None:
                asyncio._enter_task(self, task)

    def run(self, main: Coroutine[Any, Any, None]) -> None:
        """Run this to its end, in the strand that runs; close the loop also if the process is killed."""
        asyncio._set_running_loop(self)
        try:
            task = self.create_task(main, name="main")
            while not task.done():
                if not self.machine.alive:
                    # The process was killed inside a task, and a task keeps an exception for itself.
                    raise Killed
                self._run_once()
            task.result()
        finally:
            for left in sorted(asyncio.all_tasks(self), key=asyncio.Task.get_name):
                _discard(left)
            asyncio._set_running_loop(None)
            self.close()

    @property
    def leftovers(self) -> list[str]:
        """The remains of the loop: tasks, timers and sockets, without the task that runs."""
        tasks = asyncio.all_tasks(self) - {asyncio.current_task(self)}
        timers = [timer for timer in self._scheduled if not timer.cancelled()]
        sockets = len(self._poll.get_map()) - 1
        return [repr(one) for one in (*tasks, *timers)] + [f"{sockets} sockets"] * bool(sockets)


def _discard(task: Any) -> None:  # noqa: ANN401 - with its private attributes
    """End the coroutine of a process that was killed. Its sockets are closed, so its code reaches no node."""
    work = task.get_coro()
    task._log_destroy_pending = False
    while getcoroutinestate(work) != CORO_CLOSED:
        with suppress(BaseException):
            work.close()
