"""Turns: the updates of a fenced store that share a lease and a name run in sequence, first come, first served.

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
from collections import deque
from typing import TYPE_CHECKING, Generic, TypeVar
from weakref import WeakValueDictionary

from redlock import _chance
from redlock._locking.caller_context import package_variable
from redlock.errors import ConfigurationError, LockLost

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterator
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
    """A queue of turns for each lease and name, of which the first runs; kept while an update runs or waits."""

    def __init__(self) -> None:
        self._queues: WeakValueDictionary[Hashable, deque[T]] = WeakValueDictionary()

    def queue(self, update: Update, name: str) -> deque[T]:
        """The queue for this update. An update inside a `change` has its own, and waits for no turn.

        Raises:
            ConfigurationError: An update of this store of the same name under the same lease runs `change`.
        """
        outer = [outer.key for outer in _changing.get() if outer.is_running]
        if update.key in outer:  # the outer update would begin again and again
            raise ConfigurationError(
                f"the update of {name!r} runs inside its own change; compute the new value there, and write nothing"
            )
        # Two threads may each get a queue, because this is no single step: then both repeat their work.
        return deque() if outer else self._queues.setdefault(update.key, deque())


def before(queue: deque[T], turn: T) -> T | None:
    """The turn that this turn waits for: the turn before it in the queue, None for the first."""
    queue = queue.copy()  # another thread may leave the queue between two steps
    place = queue.index(turn)
    return queue[place - 1] if place else None


def leave(queue: deque[T], turn: T) -> None:
    """Take this turn out of the queue, also if an exception has prevented its entry."""
    with contextlib.suppress(ValueError):
        queue.remove(turn)


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
