"""The wait queue inside one process: of all threads that wait for the same resources, one thread waits at the nodes.

Without this queue each waiting thread would be a further client that splits votes at the nodes. With the queue the
nodes see one waiter for each process.

Invariants:
1. First come, first served. A thread has a place only while the thread waits, never while the thread holds a lease.
2. A thread that has waited long enough may ask the nodes out of turn, and keeps its place.
3. A dropped place leaves the queue, because an exception may happen anywhere. The next thread notices at the end of its
   own wait. The queue needs no lock: each change is one operation on a list.
"""

from __future__ import annotations

import contextlib
import weakref
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from redlock._core.commands import Names

_Queue: TypeAlias = "list[weakref.ref[Place]]"


class LocalWaitQueue:
    """The queues of one client, by resources."""

    def __init__(self) -> None:
        self.reset_after_fork()

    def reset_after_fork(self) -> None:
        """In a forked child: the waiting threads belong to the parent."""
        self._queues: dict[Names, _Queue] = {}

    def has_waiters(self, names: Names) -> bool:
        """Whether a thread waits for these resources at this moment."""
        return bool(self._queues.get(names))

    def length(self, names: Names) -> int:
        """The number of threads that wait for these resources."""
        return len(self._queues.get(names, ()))

    def join(self, names: Names) -> Place:
        """A place at the end of the queue."""
        return Place(self._queues, names)


class Place:
    """A thread's place in a queue.

    Args:
        queues: All queues.
        names: The resources, which select the queue.
    """

    def __init__(self, queues: dict[Names, _Queue], names: Names) -> None:
        self._queues, self._names = queues, names
        self._turn: SimpleQueue[None] = SimpleQueue()
        # If another thread leaves at this moment, the queue may be empty and removed. Then this place is the first of a
        # separate queue, which costs a split vote at most.
        self._queue = queues.setdefault(names, [])
        self._queue.append(weakref.ref(self, self._queue.remove))

    def wait(self, seconds: float) -> bool:
        """Wait for the front of the queue; False if the place is at the front without a wait."""
        if self._first() is self:
            return False
        with contextlib.suppress(Empty):
            self._turn.get(timeout=max(0.0, seconds))
        return True

    def leave(self) -> None:
        """Leave the queue, from any place. A second call does nothing."""
        with contextlib.suppress(ValueError):
            self._queue.remove(weakref.ref(self))
        first = self._first()
        if first is not None:
            first._turn.put(None)  # noqa: SLF001 - of this class
        elif self._queues.get(self._names) is self._queue:
            self._queues.pop(self._names, None)

    def _first(self) -> Place | None:
        try:
            return self._queue[0]()
        except IndexError:
            return None
