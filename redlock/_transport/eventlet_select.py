"""`select.select` under eventlet.

With eventlet's own function each ready socket wakes the greenlet, also after the function has returned. So a second
ready socket ends a later wait of the greenlet, such as a sleep in the body of a task.

Invariants:
1. The greenlet is woken once, and only inside the function.
2. The result has all sockets that are ready. With a single one, a node that sends without end could be found before
   all other nodes each time.
"""

from __future__ import annotations

import select
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["select_sockets"]


def select_sockets(data: Iterable[int], room: Iterable[int], seconds: float) -> tuple[list[int], list[int]]:
    """Wait at most this long; returns the descriptors with data and with room."""
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
        self._end_timer: Any = None
        self._with_data: list[int] = []
        self._with_room: list[int] = []

    def run(self, data: Iterable[int], room: Iterable[int], seconds: float) -> tuple[list[int], list[int]]:
        hub, listeners = self._hub, []
        limit = hub.schedule_call_global(seconds, self._end)
        try:
            for kind, descriptors, found in ((hub.READ, data, self._has_data), (hub.WRITE, room, self._has_room)):
                for descriptor in descriptors:
                    listeners.append(hub.add(kind, descriptor, found, self._fail, _mark_as_closed))  # noqa: PERF401 - those before an error are removed
            hub.switch()
            return self._with_data, self._with_room
        finally:
            self._is_waiting = False
            for listener in listeners:
                hub.remove(listener)
            limit.cancel()
            if self._end_timer is not None:
                self._end_timer.cancel()

    def _has_data(self, descriptor: int) -> None:
        self._with_data.append(descriptor)
        self._end()

    def _has_room(self, descriptor: int) -> None:
        self._with_room.append(descriptor)
        self._end()

    def _end(self) -> None:
        # The hub calls back for all ready sockets before the next timer. After the end of the time the hub looks at the
        # sockets once more, also if the wait is for zero seconds.
        if self._end_timer is None:
            self._end_timer = self._hub.schedule_call_global(0, self._greenlet.switch)

    def _fail(self, error: BaseException) -> None:
        """Another greenlet has closed a socket of this wait, and its descriptor has a new owner."""
        if self._is_waiting:
            self._greenlet.throw(error)


def _mark_as_closed() -> None:
    """For eventlet; a descriptor alone has no such mark."""
