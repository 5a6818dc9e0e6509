"""Turns: the updates of a fenced store that share a lease and a name run in sequence.

Each `open` ends the section before, so two slow updates at once would repeat each other for ever.

Invariants:
1. Nothing here keeps the state right; the scripts do. Two updates at once, such as those of two stores, cost
   repetitions with growing random pauses between them.
2. No wait is longer than the lease. An update inside the `change` of another update waits for no turn: two such
   updates could wait for each other, and a lease that is renewed has no end.
3. A turn that was dropped ends no later than its lease, also after an exception between any two instructions.
4. After a turn that ended while it waited, the next turn waits for the turn before.
"""

from __future__ import annotations

import contextlib
import threading
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


class ThreadTurn(threading.Event):
    """A turn of a thread, which sets the turn at its end."""

    behind: ThreadTurn | None = None
    """The turn that this turn has waited for until its end, after an exception."""


class Turns(Generic[T]):
    """The last turn of each lease on each name; its owner marks the turn as ended."""

    def __init__(self) -> None:
        self._last: WeakValueDictionary[Hashable, T] = WeakValueDictionary()

    def follow(self, update: Update, name: str, turn: T) -> T | None:
        """Make this turn the last, and return the turn before. An update inside a `change` has no turn before.

        Raises:
            ConfigurationError: An update of this store of the same name under the same lease runs `change`.
        """
        key, outer = update.key, [outer.key for outer in _changing.get() if outer.is_running]
        if key in outer:  # the outer update would begin again and again
            raise ConfigurationError(
                f"the update of {name!r} runs inside its own change; compute the new value there, and write nothing"
            )
        if outer:
            return None
        # Two threads may follow the same turn, because this is no single step: then both repeat their work.
        before = self._last.get(key)
        self._last[key] = turn
        return before

    def give_up(self, update: Update, turn: T, before: T) -> bool:
        """Whether no other turn follows this turn, which waits still. Then the turn before is the last again."""
        is_last = self._last.get(update.key) is turn
        if is_last:
            self._last[update.key] = before
        return is_last


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
