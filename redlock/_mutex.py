"""A mutex that no exception can leave locked.

A signal handler can raise an exception between any two instructions, also between the entry to a lock and the block
that would release the lock.

Invariants:
1. The right to enter is an object, the permit. The permit is in its queue, or belongs to the code that entered.
2. A permit that is dropped instead of returned ends its queue for ever, and the mutex goes on with a new queue. A queue
   has its permit before any thread knows the queue. So no exception can take the last permit away.
3. An exception that is being handled keeps the frames of its traceback alive. So every wait for a mutex is bounded.
"""

from __future__ import annotations

import queue
import weakref
from typing import TYPE_CHECKING, Generic, TypeVar

from redlock._clock import monotonic

if TYPE_CHECKING:
    from typing_extensions import Self

M = TypeVar("M", bound="Mutex")


class _Permit:
    __slots__ = ("__weakref__",)


class _PermitQueue:
    """The permit while the mutex is free."""

    __slots__ = ("__weakref__", "_successors", "free", "watched")

    def __init__(self) -> None:
        permit = _Permit()
        self.free: queue.SimpleQueue[object] = queue.SimpleQueue()
        """The permit, or anything else once the permit was dropped: that wakes a waiting thread."""
        # The callback is not Python code, so no exception can interrupt the callback.
        self.watched = weakref.ref(permit, self.free.put)
        self._successors: list[_PermitQueue] = []
        self.free.put(permit)

    def successor(self) -> _PermitQueue:
        """The queue after the end of this queue, the same for every thread."""
        self._successors.append(_PermitQueue())
        return self._successors[0]


class Turn(Generic[M]):
    """Exclusive use of a mutex, for a `with` block; the block's value is the mutex."""

    __slots__ = ("_permit", "_permits", "mutex")

    def __init__(self, mutex: M, permits: _PermitQueue, permit: _Permit) -> None:
        self.mutex, self._permits = mutex, permits
        self._permit: _Permit | None = permit

    def __enter__(self) -> M:
        return self.mutex

    def end(self, *_: object) -> None:
        """Return the permit; a second call does nothing, also after an exception in the first."""
        # In this order: an exception between these lines drops the permit, and a second call can't return it twice. A
        # turn that outlives its block must not keep the permit of another thread alive.
        permit, self._permit = self._permit, None
        # The garbage collector can end a generator that has a turn. By then the permit counts as dropped.
        if permit is not None and self._permits.watched() is permit:
            self._permits.free.put(permit)

    __exit__ = end


class Mutex:
    """Gives a single turn at a time, to any thread."""

    def __init__(self) -> None:
        self._permits = _PermitQueue()
        """May be a queue that has ended. Its successors lead to the current queue."""

    def turn(self, seconds: float = 0.0) -> Turn[Self] | None:
        """The turn; None if the mutex does not become free within this time."""
        until = monotonic() + seconds if seconds > 0 else 0.0
        while True:
            permits = self._permits
            # Wakes this thread if the permit is dropped: an exception can strike another thread that has just woken.
            _waker = weakref.ref(permits.watched() or permits, permits.free.put) if seconds > 0 else None
            if permits.watched() is not None:
                try:
                    permit = permits.free.get(timeout=seconds) if seconds > 0 else permits.free.get_nowait()
                except queue.Empty:
                    return None
                if type(permit) is _Permit:
                    return Turn(self, permits, permit)
            # The permit was dropped. The next thread that waits for it wakes too.
            permits.free.put(None)
            self._permits = permits.successor()
            seconds = until - monotonic()
