"""The leases that the running code holds, so that a second acquisition shares a lease or fails instead of deadlocking.

Invariants:
1. A lease belongs to the thread, greenlet or asyncio task that acquired it, in its context and in later copies of this
   context. A copy in another thread or task holds nothing.
2. An expired lease is not held. This module keeps weak references only.
3. Of the leases on a resource only the last can be valid, so no other is known.
4. The leases of a context are a linked list, from the newest on, and contexts share tails. A pair of `add` and `remove`
   of the newest lease takes constant time. Each ended lease leaves its list at some time, so no list grows for ever.
"""

from __future__ import annotations

import threading
import weakref
from asyncio import current_task
from asyncio.events import _get_running_loop
from collections import deque
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, TypeVar

from redlock.errors import RedlockError

if TYPE_CHECKING:
    from redlock._core.commands import Names
    from redlock._locking.lease_steps import LeaseSteps

L = TypeVar("L", bound="LeaseSteps")


class Holding(weakref.ref[Any]):
    """A lease in the context that acquired it, until `remove`, or until the lease is dropped.

    Attributes:
        owner: The thread, greenlet or task.
        below: The lease that was acquired before in this context, or in a context that was copied.
    """

    owner: weakref.ref[object]
    # A default, because an interrupted `add` can leave such a holding in `_dropped`.
    below: Holding | None = None


_newest: ContextVar[Holding | None] = ContextVar("redlock_newest", default=None)
"""The lease that was acquired last in this context, or before in the contexts that were copied."""
_dropped: deque[Any] = deque()
"""The holdings of dropped leases; the next `add` takes them out of their lists."""
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
    """The running asyncio task; without a task the thread."""
    if _get_running_loop() is not None and (task := current_task()) is not None:
        return task
    return thread()


def thread() -> object:
    """The running thread, or the greenlet if threads are greenlets."""
    global _thread  # noqa: PLW0603 - gevent or eventlet can replace the class after this import
    if not isinstance(_thread, threading.local):
        _thread = threading.local()
    try:
        return _thread.owner
    except AttributeError:
        # An object, not a thread number: the numbers of ended threads are used again.
        _thread.owner = _Thread()
        return _thread.owner


def _is_own(lease: LeaseSteps) -> bool:
    """Whether the running code has acquired the lease."""
    own, holding = lease._holding, _newest.get()
    if own is None or own.owner() is not owner():
        return False
    while holding is not None and holding is not own:
        holding = holding.below
    return holding is own


def _held(holding: Holding | None) -> Holding | None:
    """The first holding from here on with a lease that has not ended."""
    found = holding
    while found is not None and ((lease := found()) is None or lease._holding is not found):
        found = found.below
    if holding is not None and holding is not found:
        # The next call is short, and the holdings between are free. Other threads may do the same.
        holding.below = found
    return found


def claim(lease: L, *, reentrant: bool, forever: bool = True) -> L:
    """The lease to acquire: the new lease, or the lease that the running code holds on the same resources already.

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
    while _dropped:
        try:
            _held(_dropped.popleft())
        except IndexError:
            # Another thread was faster.
            break
    # The callback is not Python code, so no exception of a signal handler is lost there.
    holding = Holding(lease, _dropped.append)
    holding.owner, holding.below = weakref.ref(owner()), _held(_newest.get())
    lease._holding = holding
    _newest.set(holding)
    for key in lease._claims:
        _last[key] = holding
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
    holding, lease._holding = lease._holding, None
    below = _held(holding)
    if holding is not None and _newest.get() is holding:
        _newest.set(below)
