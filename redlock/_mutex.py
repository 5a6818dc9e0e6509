"""A mutex that no exception can leave locked.

A signal handler can raise an exception between any two instructions, also between the entry to a lock and the block
that would release the lock.

Invariants:
1. The right to enter is an object, the permit. The permit is in the mutex, or belongs to the code that entered.
2. A permit that is dropped instead of returned makes the mutex free again. The callback of a weak reference does that.
   The callback is not Python code, so no exception can interrupt the callback.
3. An exception that is being handled keeps the frames of its traceback alive. So every wait for a mutex is bounded.
"""

from __future__ import annotations

import queue
import weakref
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from typing_extensions import Self

M = TypeVar("M", bound="Mutex")


class _Permit:
    __slots__ = ("__weakref__",)


class Turn(Generic[M]):
    """Exclusive use of a mutex, for a `with` block; the block's value is the mutex."""

    __slots__ = ("_permit", "mutex")

    def __init__(self, mutex: M, permit: _Permit) -> None:
        self.mutex = mutex
        self._permit: _Permit | None = permit

    def __enter__(self) -> M:
        return self.mutex

    def end(self, *_: object) -> None:
        """Return the permit; a second call does nothing, also after an exception in the first."""
        # In this order: an exception between these lines drops the permit, and a second call can't return it twice. A
        # turn that outlives its block must not keep the permit of another thread alive.
        permit, self._permit = self._permit, None
        if permit is not None and self.mutex.issued(permit):
            self.mutex.free.put(permit)

    __exit__ = end


class Mutex:
    """Gives a single turn at a time, to any thread."""

    def __init__(self) -> None:
        self.free: queue.SimpleQueue[_Permit | weakref.ref[_Permit]] = queue.SimpleQueue()
        """The permit while the mutex is free; a dead reference if the permit was dropped."""
        self.free.put(self._new_permit())

    def _new_permit(self) -> _Permit:
        permit = _Permit()
        self._watched = weakref.ref(permit, self.free.put)
        return permit

    def issued(self, permit: _Permit) -> bool:
        """Whether this is the permit of the mutex.

        The garbage collector can end a generator that has a turn. By then the permit counts as dropped.
        """
        return self._watched() is permit

    def turn(self, seconds: float = 0.0) -> Turn[Self] | None:
        """The turn; None if the mutex does not become free within this time."""
        try:
            permit = self.free.get(timeout=seconds) if seconds > 0 else self.free.get_nowait()
        except queue.Empty:
            return None
        return Turn(self, permit if type(permit) is _Permit else self._new_permit())
