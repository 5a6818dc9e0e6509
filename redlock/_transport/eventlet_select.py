"""`select.select` under eventlet.

With eventlet's own function each ready socket wakes the greenlet, also after the function has returned. So a second
ready socket ends a later wait of the greenlet, such as a sleep in the body of a task.

Invariants: the greenlet is woken once, and only inside the function.
"""

from __future__ import annotations

import select
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["select_sockets"]


def select_sockets(data: Iterable[int], room: Iterable[int], seconds: float) -> tuple[list[int], list[int]]:
    """Wait at most this long; returns descriptors with data and with room. Under eventlet, a single socket is found."""
    green: Any = sys.modules.get("eventlet.green.select")
    if green is None or select.select is not green.select:
        return select.select(data, room, [], seconds)[:2]
    return _Wait().run(data, room, seconds)


class _Wait:
    """A wait of the current greenlet, with the hub of eventlet."""

    def __init__(self) -> None:
        from eventlet import getcurrent, hubs  # noqa: PLC0415 - present, since it has replaced `select.select`

        self._hub, self._greenlet = hubs.get_hub(), getcurrent()
        self._is_waiting = True
        self._timers: list[Any] = []

    def run(self, data: Iterable[int], room: Iterable[int], seconds: float) -> tuple[list[int], list[int]]:
        hub, listeners = self._hub, []
        self._timers.append(hub.schedule_call_global(seconds, self._end))
        try:
            for kind, descriptors, found in ((hub.READ, data, self._has_data), (hub.WRITE, room, self._has_room)):
                for descriptor in descriptors:
                    listeners.append(hub.add(kind, descriptor, found, self._fail, _mark_as_closed))  # noqa: PERF401 - those before an error are removed
            ready: tuple[list[int], list[int]] = hub.switch()
            return ready
        finally:
            self._is_waiting = False
            for listener in listeners:
                hub.remove(listener)
            for timer in self._timers:
                timer.cancel()

    def _has_data(self, descriptor: int) -> None:
        self._wake([descriptor], [])

    def _has_room(self, descriptor: int) -> None:
        self._wake([], [descriptor])

    def _end(self) -> None:
        # The hub looks at the sockets once before the end, also if the wait is for zero seconds.
        self._timers.append(self._hub.schedule_call_global(0, self._wake, [], []))

    def _wake(self, has_data: list[int], has_room: list[int]) -> None:
        if self._is_waiting:
            self._is_waiting = False
            self._greenlet.switch((has_data, has_room))

    def _fail(self, error: BaseException) -> None:
        """Another greenlet has closed a socket of this wait, and its descriptor has a new owner."""
        if self._is_waiting:
            self._is_waiting = False
            self._greenlet.throw(error)


def _mark_as_closed() -> None:
    """For eventlet; a descriptor alone has no such mark."""
