"""The leases that the running code holds, so that a second acquisition shares a lease or fails instead of deadlocking.

Invariants:
1. A lease belongs to the thread, greenlet or asyncio task that acquired it. A copy of its context in another thread or
   task holds nothing.
2. An expired lease is not held. This module keeps weak references only.
3. The leases of a context are a linked stack. The stack is searched only if the process holds a lease on the same
   resource, and a release in the opposite order has constant cost.
"""

from __future__ import annotations

import threading
import weakref
from asyncio import current_task
from asyncio.events import _get_running_loop
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

from redlock.errors import RedlockError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from redlock._core.commands import Names
    from redlock._locking.lease_steps import LeaseSteps

_Stack: TypeAlias = "tuple[weakref.ref[LeaseSteps], object, _Stack, int] | None"
"""The last lease, its owner, the stack below, and the number of leases until the next compaction."""
L = TypeVar("L", bound="LeaseSteps")

_stack: ContextVar[_Stack] = ContextVar("redlock_held", default=None)
_thread = threading.local()
_last: dict[tuple[int, str], weakref.ref[Any]] = {}
"""The last lease of this process, by client and resource.

A weak dictionary would run callbacks when a lease is dropped, and an exception that a signal handler raises in such a
callback is lost.
"""
_cleanup_size = 10_000
_LEAST_BETWEEN_COMPACTIONS = 64


class _Thread:
    """A thread or greenlet."""


def owner() -> object:
    """The running asyncio task; without a task the thread, or the greenlet if threads are greenlets."""
    global _thread  # noqa: PLW0603 - gevent or eventlet can replace the class after this import
    if not isinstance(_thread, threading.local):
        _thread = threading.local()
    if _get_running_loop() is not None and (task := current_task()) is not None:
        return task
    try:
        return _thread.owner
    except AttributeError:
        # An object, not a thread number: the numbers of ended threads are used again.
        _thread.owner = _Thread()
        return _thread.owner


def _held() -> Iterator[Any]:
    stack, own = _stack.get(), owner()
    while stack is not None:
        reference, lease_owner, stack, _ = stack
        lease = reference()
        if lease is not None and lease_owner is own and lease.is_held:
            yield lease


def claim(lease: L, *, reentrant: bool, forever: bool = True) -> L:
    """The lease to acquire: the new lease, or the lease that the running code holds on the same resources already.

    Args:
        lease: The new lease.
        reentrant: Whether a lease can be shared.
        forever: Whether the caller would wait without a limit.

    Raises:
        RedlockError: The running code would wait for itself without a limit.
    """
    if _last.keys().isdisjoint(lease._claims):
        return lease
    for other in _held():
        shared = other._claims & lease._claims
        if shared and _is_valid(other):
            if reentrant and lease._claims <= other._claims:
                shared_lease: L = other
                return shared_lease
            if not forever:
                return lease
            names = ", ".join(sorted(name for _, name in shared))
            raise RedlockError(
                f"lock {names!r} is held by this very context; it would wait for itself. "
                + (
                    "Take all resources that are needed with the outer lock"
                    if reentrant
                    else "Release it first, or take both with reentrant=True"
                ),
                names,
            )
    return lease


def is_held_here(client: int, names: Names) -> bool:
    """Whether any code of this process holds a lease of this client on exactly these names."""
    reference = _last.get((client, names[0]))
    lease = None if reference is None else reference()
    return lease is not None and lease.names == names and _is_valid(lease)


def _is_valid(lease: LeaseSteps) -> bool:
    # Not `remaining`, which raises an error for a lease that another thread releases at this moment.
    return not lease.is_lost and lease.is_held


def add(lease: LeaseSteps) -> None:
    """Record that the running code holds the lease."""
    reference = weakref.ref(lease)
    for key in lease._claims:
        _last[key] = reference
    below = _stack.get()
    while below is not None and not _is_held(below[0]):
        below = below[2]
    left = below[3] - 1 if below is not None else _LEAST_BETWEEN_COMPACTIONS
    if left <= 0:
        below, left = _compacted(below)
    _stack.set((reference, owner(), below, left))
    if len(_last) > _cleanup_size:
        _forget_dropped_leases()


def _is_held(reference: weakref.ref[LeaseSteps]) -> bool:
    lease = reference()
    return lease is not None and lease.is_held


def _compacted(stack: _Stack) -> tuple[_Stack, int]:
    """The stack without ended leases, and the number of leases until the next compaction."""
    held = []
    while stack is not None:
        if _is_held(stack[0]):
            held.append(stack)
        stack = stack[2]
    left = max(_LEAST_BETWEEN_COMPACTIONS, len(held))
    for reference, owner, *_ in reversed(held):
        stack = (reference, owner, stack, left)
    return stack, left


def _forget_dropped_leases() -> None:
    """Remove the entries of leases that were dropped without a release."""
    global _cleanup_size  # noqa: PLW0603 - so that the cleanup stays rare in a large process
    for key, reference in list(_last.items()):
        if reference() is None:
            _last.pop(key, None)
    _cleanup_size = max(_cleanup_size, 2 * len(_last))


def remove(lease: LeaseSteps) -> None:
    """Record that the running code no longer holds the lease."""
    for key in lease._claims:
        known = _last.get(key)
        if known is not None and known() is lease:
            _last.pop(key, None)
    above, stack = [], _stack.get()
    while stack is not None and stack[0]() is not lease:
        above.append(stack)
        stack = stack[2]
    if stack is None:
        return
    below = stack[2]
    for reference, owner, _, left in reversed(above):
        below = (reference, owner, below, left)
    _stack.set(below)
