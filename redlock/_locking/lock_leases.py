"""The leases of a `Lock` object: which of them the end of a block means, and which a call such as `release`.

Invariants:
1. The end of a block means the lease of this block, also after the lease has ended. The block of another thread,
   greenlet or task keeps its valid lease.
2. Other code may end a block only if the code that entered has no block here. A block in a generator belongs to its
   frame, because another thread or task can run its end, in any order. A coroutine has its task, and its frame may be
   that of a wrapper, which ends long before the block.
"""

from __future__ import annotations

import inspect
import sys
import weakref
from asyncio import Task
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from redlock._locking import held_leases

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import CodeType

    from redlock._locking.lease_steps import LeaseSteps

L = TypeVar("L", bound="LeaseSteps")

_GENERATOR = inspect.CO_GENERATOR | inspect.CO_ASYNC_GENERATOR
_MOST_RELEASED = 1_000
"""Code can enter a block, release the lease, and never end the block."""


class Caller(NamedTuple):
    """The code that acquires a lease or ends a block.

    Attributes:
        owner: The thread, greenlet or task.
        frame: The frame of a generator. Its number, because the frame keeps all its variables.
    """

    owner: weakref.ref[object]
    frame: tuple[int, CodeType] | None

    @classmethod
    def of_acquire(cls) -> Caller:
        """The running code, which acquires a lease without a block."""
        return cls(weakref.ref(held_leases.owner()), None)

    @classmethod
    def of_block(cls, depth: int) -> Caller:
        """The code whose block begins or ends, so many frames above the caller of this method."""
        owner = weakref.ref(held_leases.owner())
        try:
            frame = sys._getframe(depth + 1)
        except ValueError:
            # A thread or greenlet began with a method of the lock.
            return cls(owner, None)
        code = frame.f_code
        return cls(owner, (id(frame), code) if code.co_flags & _GENERATOR else None)

    def has_entered(self, lease: LeaseSteps) -> bool:
        """Whether this frame entered the block of the lease; of other frames, whether this thread or task did."""
        entered = lease._caller
        return entered.frame == self.frame and (self.frame is not None or entered.owner == self.owner)


def add(leases: list[L], lease: L) -> None:
    """Add an acquired lease, and drop ended leases; the end of a block looks for the lease of the block."""
    known = leases.copy()
    if not known:
        leases.append(lease)
        return
    over = [old for old in known if not old._is_block and (not old.is_held or old.is_lost)]
    ended = [old for old in over if not _is_awaited(old)]
    released = [old for old in known if old._is_block and old._is_released]
    for old in (*ended, *released[:-_MOST_RELEASED]):
        remove(leases, old)
    leases.append(lease)


def _is_awaited(lease: LeaseSteps) -> bool:
    """Whether the release of this lease was cancelled, and another task, which runs still, can repeat the release."""
    if not lease._is_releasing:
        return False
    here = held_leases.owner()
    tasks = [one() for one in (lease._caller.owner, lease._releaser) if one is not None]
    return any(isinstance(task, Task) and not task.done() and task is not here for task in tasks)


def remove(leases: list[L], lease: L) -> None:
    """Remove a lease, which another thread may have removed."""
    try:  # noqa: SIM105 - for speed
        leases.remove(lease)
    except ValueError:
        pass


def of_block(leases: list[L], caller: Caller) -> L | None:
    """The lease of the block that the caller ends."""
    blocks = [lease for lease in leases.copy() if lease._is_block]
    if len(blocks) == 1:
        # For speed: an open block keeps its lease here, so the only block is the one that ends.
        return blocks[0]
    here = [lease for lease in blocks if caller.has_entered(lease)]
    own = [lease for lease in blocks if lease._caller.owner == caller.owner]
    ended = [lease for lease in blocks if not lease.is_held or lease.is_lost]
    return next(reversed(here or own or ended or blocks), None)


def of_call(leases: list[L], is_held: Callable[[L], bool], *, acquired_first: bool = False) -> L | None:
    """The lease that was acquired last and is held; the leases of this thread or task come first.

    Inside a block whose lease has ended, the call does not mean the block of another thread or task.

    Args:
        leases: The leases of the `Lock`.
        is_held: Whether the lease can be used.
        acquired_first: Whether leases of `acquire` come before those of blocks.
    """
    known = leases.copy()
    if len(known) == 1:
        # As below, for speed.
        (lease,) = known
        return lease if is_held(lease) and not lease._is_released else None
    # A lease of `acquire` that can only be released once more counts for no other call.
    known = [lease for lease in known if is_held(lease) or lease._is_block or not lease._is_releasing]
    owner = weakref.ref(held_leases.owner())
    own = [lease for lease in known if owner in (lease._caller.owner, lease._releaser)]
    others = [lease for lease in known if lease not in own and not (own and lease._is_block)]
    for group in (own, [lease for lease in others if not lease._is_releasing], others):
        held = [lease for lease in group if is_held(lease) and not lease._is_released]
        acquired = [lease for lease in held if acquired_first and not lease._is_block]
        if held:
            return (acquired or held)[-1]
    return None
