"""The leases that the running code holds, so that a second acquisition shares a lease or fails instead of deadlocking.

Invariants:
1. A lease belongs to the thread, greenlet or asyncio task that acquired it, in its context and in later copies of this
   context. A copy in another thread or task holds nothing.
2. An expired lease is not held. This module keeps weak references only.
3. Of the leases on a resource only the last can be valid, so no other is known.
"""

from __future__ import annotations

import threading
import weakref
from asyncio import current_task
from asyncio.events import _get_running_loop
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, TypeVar

from redlock.errors import RedlockError

if TYPE_CHECKING:
    from redlock._core.commands import Names
    from redlock._locking.lease_steps import LeaseSteps

L = TypeVar("L", bound="LeaseSteps")


_acquired: ContextVar[tuple[weakref.ref[Any], ...]] = ContextVar("redlock_acquired", default=())
"""The leases that were acquired in this context, or before in the contexts from which it was copied."""
_thread = threading.local()
_last: dict[tuple[int, str], weakref.ref[Any]] = {}
"""The last lease of this process, by client and resource.

A weak dictionary would run callbacks when a lease is dropped, and an exception that a signal handler raises in such a
callback is lost.
"""
_cleanup_size = 10_000


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


def _is_own(lease: LeaseSteps) -> bool:
    """Whether the running code has acquired the lease."""
    return lease._holder is not None and lease._holder() is owner() and weakref.ref(lease) in _acquired.get()


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
    for key in sorted(lease._claims):
        other = _known(key)
        if other is not None and _is_own(other) and _is_valid(other):
            if reentrant and lease._claims <= other._claims:
                shared_lease: L = other
                return shared_lease
            if not forever:
                return lease
            names = ", ".join(sorted(name for _, name in other._claims & lease._claims))
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
    lease = _known((client, names[0]))
    return lease is not None and lease.names == names and _is_valid(lease)


def _known(key: tuple[int, str]) -> Any:  # noqa: ANN401 - a lease of any driver, or None
    reference = _last.get(key)
    return None if reference is None else reference()


def _is_valid(lease: LeaseSteps) -> bool:
    # Not `remaining`, which raises an error for a lease that another thread releases at this moment.
    return not lease.is_lost and lease.is_held


def add(lease: LeaseSteps) -> None:
    """Record that the running code holds the lease."""
    reference, lease._holder = weakref.ref(lease), weakref.ref(owner())
    # Another context may release a lease, and this context keeps its reference until the lease is dropped.
    _acquired.set((*(other for other in _acquired.get() if other() is not None), reference))
    for key in lease._claims:
        _last[key] = reference
    if len(_last) > _cleanup_size:
        _forget_dropped_leases()


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
        if _known(key) is lease:
            _last.pop(key, None)
    acquired, reference = _acquired.get(), weakref.ref(lease)
    if reference in acquired:
        _acquired.set(tuple(other for other in acquired if other is not reference))
