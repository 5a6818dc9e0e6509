"""Background threads of a client: a thread that sleeps until work is due, and threads for callbacks.

Invariants:
1. A thread starts with the first work, so after a fork, and is a daemon.
2. Other threads only append to a queue and read a number, so an exception from a signal handler leaves nothing locked.
3. No exception ends a thread for good: the exception is logged, and the thread goes on or starts again.
"""

from __future__ import annotations

import functools
import inspect
import queue
import threading
from typing import TYPE_CHECKING

from redlock import _log, _threads
from redlock._clock import now_ms
from redlock._mutex import Mutex
from redlock.errors import NoThread

if TYPE_CHECKING:
    from collections.abc import Callable

    from redlock._mutex import Turn

_NEVER = 1 << 62
_IDLE_SECONDS = 60.0
_TROUBLE_SECONDS = 0.05
_MOST_CALLBACKS = 8


class Background:
    """A thread that sleeps until work is due or another thread wakes it.

    Args:
        name: The thread's name.
        work: Does the work that is due. Returns the seconds until more work is due; None if no work is planned.
    """

    def __init__(self, name: str, work: Callable[[], float | None]) -> None:
        self._name = name
        self._work = work
        self._running = threading.Lock()
        """Held by the running thread, and by no other thread."""
        self._bell: queue.SimpleQueue[None] = queue.SimpleQueue()
        self._wakes_ms = _NEVER
        """When the thread works again without a wake-up."""
        self._stopped = False

    def wake(self, due_ms: int) -> None:
        """Announce work at this time: starts the thread, or wakes a thread that would sleep longer."""
        self._stopped = False
        if self._running.locked():
            if due_ms < self._wakes_ms and self._bell.empty():
                self._bell.put(None)
            if self._running.locked():
                return
            # The thread has ended meanwhile, and may not have heard the bell.
        _threads.start(self._run, self._name)

    def stop(self) -> None:
        """End the thread soon, without waiting for it."""
        self._stopped = True
        self._bell.put(None)

    def _run(self) -> None:
        # Run again if work came after the last check: then `wake` rang the bell and started no other thread.
        while self._running.acquire(blocking=False):
            try:
                # gevent or eventlet may have replaced the class. A lost ring is harmless: work comes before sleep.
                self._bell = queue.SimpleQueue()
                self._until_idle()
            finally:
                self._wakes_ms = _NEVER
                self._running.release()
            if self._stopped or self._bell.empty():
                return

    def _until_idle(self) -> None:
        while not self._stopped:
            seconds = self._do_work()
            if seconds is not None:
                self._wakes_ms = now_ms() + int(seconds * 1000)
            rung = self._sleep(_IDLE_SECONDS if seconds is None else seconds)
            self._wakes_ms = _NEVER
            if seconds is None and not rung:
                return

    def _do_work(self) -> float | None:
        try:
            return self._work()
        except BaseException as error:  # noqa: BLE001 - a log handler or a callback may raise anything; other work must go on
            _log.failure("thread-failed", error, name=self._name)
            return _TROUBLE_SECONDS

    def _sleep(self, seconds: float) -> bool:
        try:
            if seconds > 0:
                self._bell.get(timeout=seconds)
            else:
                self._bell.get_nowait()
        except queue.Empty:
            return False
        return True


class Callbacks:
    """Calls functions of the application in separate threads, a few at a time. A slow function delays nothing else."""

    def __init__(self) -> None:
        self._waiting: queue.SimpleQueue[tuple[str, Callable[[], object]]] = queue.SimpleQueue()
        self._places = [Mutex() for _ in range(_MOST_CALLBACKS)]
        """Each running thread has the turn of a place."""

    def call(self, resource: str, function: Callable[[], object]) -> None:
        """Call this function soon, which may block and may raise any exception; the log names the resource then."""
        self._waiting.put((resource, function))
        turn = self._free_place()
        if turn is not None:
            try:
                _threads.start_for_application(functools.partial(self._run, turn), "redlock-on-lost")
            except NoThread as error:
                turn.end()
                # The caller has its own error to raise. The next call tries again, for this function too.
                _log.failure("on-lost-failed", error, resource=resource)

    def _free_place(self) -> Turn[Mutex] | None:
        return next((turn for place in self._places if (turn := place.turn())), None)

    def _run(self, turn: Turn[Mutex] | None) -> None:
        while turn is not None:
            with turn:
                self._call_all()
            # A callback that came after the last check found all places taken.
            turn = None if self._waiting.empty() else self._free_place()

    def _call_all(self) -> None:
        while True:
            try:
                resource, function = self._waiting.get_nowait()
            except queue.Empty:
                return
            try:
                result = function()
                if inspect.iscoroutine(result):
                    result.close()
                    raise TypeError("on_lost returned a coroutine, which no event loop runs; use a plain function")
            except BaseException as error:  # noqa: BLE001 - the application's code may raise anything, also SystemExit
                _log.failure("on-lost-failed", error, resource=resource)
            # The variable would keep the lease alive.
            del function
