"""The wait queue inside one process: of all threads that wait for the same resources, one thread waits at the nodes.

Without this queue, each waiting thread would be a further client that splits votes at the nodes.

Invariants:
1. First come, first served. A thread has a place only while the thread waits, never while the thread holds a lease.
   A signal handler that waits is before the waiter that it interrupts, which can't move until the handler ends.
2. A thread that has waited long enough may ask the nodes out of turn, and keeps its place.
3. A dropped place leaves the queue, because an exception may happen anywhere. The next thread notices at the end of its
   own wait. The queue needs no lock: each change is one operation on a list.
"""

from __future__ import annotations

import contextlib
import weakref
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Callable

    from redlock._core.commands import Names

_Queue: TypeAlias = "list[weakref.ref[Place]]"


class LocalWaitQueue:
    """The queues of a client, by resources.

    Args:
        new_signal: Makes an object for which the driver waits; its `put(None)` wakes the owner of a place.
        running: Returns the running thread; None where no signal handler can wait.
    """

    def __init__(self, new_signal: Callable[[], Any], running: Callable[[], object] = lambda: None) -> None:
        self._new_signal, self._running = new_signal, running
        self.reset_after_fork()

    def reset_after_fork(self) -> None:
        """In a forked child: the waiting threads belong to the parent."""
        self._queues: dict[Names, _Queue] = {}

    def length(self, names: Names) -> int:
        """The number of threads that wait for these resources."""
        return len(self._queues.get(names, ()))

    def join(self, names: Names) -> Place:
        """A place at the end of the queue."""
        return Place(self._queues, names, self._new_signal(), self._running())


class Place:
    """A thread's place in a queue."""

    def __init__(self, queues: dict[Names, _Queue], names: Names, signal: Any, thread: object) -> None:  # noqa: ANN401 - of the driver
        self._queues, self._names, self.signal, self._thread = queues, names, signal, thread
        # If another thread leaves at this moment, the queue may be empty and removed. Then this place is the first of a
        # separate queue, which costs a split vote at most.
        self._queue = queues.setdefault(names, [])
        self._queue.append(weakref.ref(self, self._queue.remove))

    @property
    def is_first(self) -> bool:
        """Whether the place is at the front, or that of a signal handler which interrupts the waiter there."""
        first = self._first()
        return first is self or (first is not None and first._is_interrupted_by(self))

    def _is_interrupted_by(self, other: Place) -> bool:
        return self._thread is not None and self._thread is other._thread

    def leave(self) -> None:
        """Leave the queue, from any place. A second call does nothing."""
        with contextlib.suppress(ValueError):
            self._queue.remove(weakref.ref(self))
        first = self._first()
        if first is not None:
            first.signal.put(None)
            places = [] if first._thread is None else [reference() for reference in self._queue[1:]]
            for place in places:
                if place is not None and first._is_interrupted_by(place):
                    place.signal.put(None)
        elif self._queues.get(self._names) is self._queue:
            self._queues.pop(self._names, None)

    def _first(self) -> Place | None:
        try:
            return self._queue[0]()
        except IndexError:
            return None
