"""A mutex that no exception can leave locked.

A signal handler can raise an exception between any two instructions, also between the entry to a lock and the block
that would release it.

Invariants:
1. The right to enter is an object, the permit. It lies in the mutex, or it belongs to the code that entered.
2. A permit that is dropped instead of given back makes the mutex free again. The callback of a weak reference does
   that; it is no Python code, so no exception can interrupt it.
3. An exception that is being handled keeps the frames alive that it came through. So every wait for a mutex is bounded.
"""

from __future__ import annotations

import weakref
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from typing_extensions import Self

M = TypeVar("M", bound="Mutex")


class _Permit:
    __slots__ = ("__weakref__",)


class Turn(Generic[M]):
    """The time for which the code that entered has a mutex to itself: a `with` block, whose value is the mutex."""

    __slots__ = ("_mutex", "_permit")

    def __init__(self, mutex: M, permit: _Permit) -> None:
        self._mutex = mutex
        self._permit: _Permit | None = permit

    def __enter__(self) -> M:
        return self._mutex

    def __exit__(self, *_: object) -> None:
        self.end()

    def end(self) -> None:
        """Let the next one enter; again is no error."""
        permit = self._permit
        if permit is not None:
            self._mutex.free.put(permit)
            # A turn that outlives its block must not keep a permit alive that others use by now.
            self._permit = None


class Mutex:
    """Lets one turn at a time be taken, from any thread."""

    __slots__ = ("_watched", "free")

    def __init__(self) -> None:
        self.free: SimpleQueue[_Permit | weakref.ref[_Permit]] = SimpleQueue()
        """The permit while nobody has the turn; the dead reference to it where it was dropped."""
        self.free.put(self._new_permit())

    def _new_permit(self) -> _Permit:
        permit = _Permit()
        self._watched = weakref.ref(permit, self.free.put)
        return permit

    def turn(self, seconds: float = 0.0) -> Turn[Self] | None:
        """The turn; None if it does not become free within this time."""
        try:
            permit = self.free.get(timeout=seconds) if seconds > 0 else self.free.get_nowait()
        except Empty:
            return None
        return Turn(self, permit if type(permit) is _Permit else self._new_permit())
