"""Turns: the updates of a fenced store that share a lease and a name run in sequence.

Each `open` ends the section before, so two slow updates at once would repeat each other for ever.

Invariants:
1. Nothing here keeps the state right; the scripts do. Two updates at once, such as those of two stores, cost
   repetitions with growing random pauses between them.
2. No wait is longer than the lease. An update inside the `change` of another update waits for no turn: two such
   updates could wait for each other, and a lease that is renewed has no end.
3. A turn that was dropped ends no later than its lease, also after an exception between any two instructions.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Generic, TypeVar
from weakref import WeakValueDictionary

from redlock import _chance
from redlock._locking.caller_context import package_variable
from redlock.errors import ConfigurationError, LockLost

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterator
    from contextvars import ContextVar

    from redlock.fencing._leases import StoreLease

T = TypeVar("T")

_FIRST_SECONDS, _LONGEST_SECONDS = 0.01, 10.0


class Update:
    """An update of a store; a task or thread that has inherited the context of its `change` can outlive the update.

    Args:
        key: The store, the name and the lease.
    """

    is_running = True

    def __init__(self, key: Hashable) -> None:
        self.key = key

    @contextlib.contextmanager
    def changing(self) -> Iterator[None]:
        """Run `change` inside this."""
        before = _changing.get()
        _changing.set((*before, self))
        try:
            yield
        finally:
            _changing.set(before)


_changing: ContextVar[tuple[Update, ...]] = package_variable("redlock_store_updates", ())
"""The updates whose `change` runs here, or in the context that was copied from there."""


class Turns(Generic[T]):
    """An object for each lease and name, by which updates take turns; kept while an update runs or waits.

    Args:
        new: Makes such an object: a mutex for threads, or for tasks the set of the turn that runs.
    """

    def __init__(self, new: Callable[[], T]) -> None:
        self._new = new
        self._kept: WeakValueDictionary[Hashable, T] = WeakValueDictionary()

    def of(self, update: Update, name: str) -> T:
        """The object for this update. An update inside a `change` has its own, and waits for no turn.

        Raises:
            ConfigurationError: An update of this store of the same name under the same lease runs `change`.
        """
        outer = [outer.key for outer in _changing.get() if outer.is_running]
        if update.key in outer:  # the outer update would begin again and again
            raise ConfigurationError(
                f"the update of {name!r} runs inside its own change; compute the new value there, and write nothing"
            )
        # Two threads may each get an object, because this is no single step: then both repeat their work.
        return self._new() if outer else self._kept.setdefault(update.key, self._new())


def left(name: str, lease: StoreLease) -> float:
    """The seconds that an update may wait at a time.

    Raises:
        LockLost: The lease is over.
        NotHeld: The lease was released.
    """
    seconds = lease.remaining()
    if seconds <= 0:
        raise LockLost(name, "the lease ended while other operations of the same lease changed the value")
    return min(seconds, _LONGEST_SECONDS)


def pauses(name: str, lease: StoreLease) -> Iterator[float]:
    """The seconds to wait before each repetition: random, and longer each time.

    Raises:
        LockLost: The lease is over.
        NotHeld: The lease was released.
    """
    most = _FIRST_SECONDS
    while True:
        yield _chance.fraction() * min(most, left(name, lease))
        most *= 2
