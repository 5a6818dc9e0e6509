"""Turns: the updates of a fenced store that share a lease and a name run one after the other.

Each `open` ends the section before, so two slow updates at once would repeat each other for ever.

Invariants:
1. Nothing here keeps the state right; the scripts do. Two updates at once, such as those of two stores, cost
   repetitions with growing random pauses between them.
2. No wait is longer than the lease.
3. A turn that was dropped ends no later than its lease, also after an exception between any two instructions.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Generic, TypeVar
from weakref import WeakValueDictionary

from redlock import _chance
from redlock.errors import LockLost

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterator

    from redlock.fencing._leases import StoreLease

T = TypeVar("T")

_FIRST_SECONDS, _LONGEST_SECONDS = 0.01, 10.0


class Turns(Generic[T]):
    """The last turn of each lease on each name; its owner marks the turn as ended."""

    def __init__(self) -> None:
        self._last: WeakValueDictionary[Hashable, T] = WeakValueDictionary()

    def follow(self, key: Hashable, turn: T) -> T | None:
        """Make this turn the last one, and return the turn before."""
        # Two threads may follow the same turn, because this is no single step: then both repeat their work.
        before = self._last.get(key)
        self._last[key] = turn
        return before


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
        most = min(2 * most, _LONGEST_SECONDS)
