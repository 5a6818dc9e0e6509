"""The leases that the running code holds: a second acquisition is refused or shares a lease, and never deadlocks.

Invariants:
1. A lease belongs to the thread, greenlet or asyncio task that acquired it. A copy of its context in another thread or
   task holds nothing.
2. A lease whose time is over is not held. Only weak references are kept here.
3. The cost does not grow with the number of leases, where they are given back in the opposite order: the leases of a
   context are a stack of pairs, and it is searched only if the process holds a lease on the same resource.
"""

from __future__ import annotations

import threading
import weakref
from asyncio import current_task
from asyncio.events import _get_running_loop
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, TypeVar

from redlock.errors import RedlockError

if TYPE_CHECKING:
    from collections.abc import Iterator


_Stack: TypeAlias = "tuple[weakref.ref[HeldLease], object, _Stack, int] | None"
"""The last lease, the code that acquired it, the stack below, and how many come before a look at the whole stack."""


class HeldLease(Protocol):
    """The part of a lease that this module uses."""

    claims: frozenset[tuple[int, str]]
    """The locked names, each with the identity of its client."""

    @property
    def is_held(self) -> bool:
        """Whether the lease was acquired and not released."""

    def remaining(self) -> float:
        """Seconds until the deadline."""


L = TypeVar("L", bound=HeldLease)


_stack: ContextVar[_Stack] = ContextVar("redlock_held", default=None)
_thread = threading.local()
_last: dict[tuple[int, str], weakref.ref[Any]] = {}
"""Which lease of this process was taken last, by client and resource. No weak dictionary: its callbacks run when a
lease is dropped, and an exception that a signal raises in one of them is lost."""
_most_known = 10_000
_LEAST_BETWEEN_LOOKS = 64


def _owner() -> object:
    """The asyncio task that runs; without one the thread, or the greenlet where threads are greenlets."""
    if _get_running_loop() is not None and (task := current_task()) is not None:
        return task
    try:
        return _thread.owner
    except AttributeError:
        # An object, not a number: those of threads that have ended are used again.
        _thread.owner = object()
        return _thread.owner


def _held() -> Iterator[Any]:
    stack, owner = _stack.get(), _owner()
    while stack is not None:
        reference, whose, stack, _ = stack
        lease = reference()
        if lease is not None and whose is owner and lease.is_held:
            yield lease


def claim(lease: L, *, reentrant: bool, forever: bool = True) -> L:
    """The lease to take: this one, or the one that this thread, greenlet or task holds on the same resources already.

    Args:
        lease: A new one.
        reentrant: Whether a lease can be shared.
        forever: Whether the caller would wait without a limit.

    Raises:
        RedlockError: It would wait for itself without a limit.
    """
    if not any(key in _last for key in lease.claims):
        return lease
    for other in _held():
        shared = other.claims & lease.claims
        if shared and other.remaining() > 0:
            if reentrant and lease.claims <= other.claims:
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


def add(lease: HeldLease) -> None:
    """The running code holds it from now on."""
    reference = weakref.ref(lease)
    for key in lease.claims:
        _last[key] = reference
    below = _stack.get()
    while below is not None and not _is_held(below[0]):
        below = below[2]
    left = below[3] - 1 if below is not None else _LEAST_BETWEEN_LOOKS
    if left <= 0:
        below, left = _compacted(below)
    _stack.set((reference, _owner(), below, left))
    if len(_last) > _most_known:
        _drop_what_is_gone()


def _is_held(reference: weakref.ref[HeldLease]) -> bool:
    lease = reference()
    return lease is not None and lease.is_held


def _compacted(stack: _Stack) -> tuple[_Stack, int]:
    """The stack without the leases that were released in another context; how many may come before the next look."""
    held = []
    while stack is not None:
        if _is_held(stack[0]):
            held.append(stack)
        stack = stack[2]
    left = max(_LEAST_BETWEEN_LOOKS, len(held))
    for reference, owner, *_ in reversed(held):
        stack = (reference, owner, stack, left)
    return stack, left


def _drop_what_is_gone() -> None:
    """Of leases that were dropped and never given back."""
    global _most_known  # noqa: PLW0603 - as many again before the next look
    for key, reference in list(_last.items()):
        if reference() is None:
            _last.pop(key, None)
    _most_known = max(_most_known, 2 * len(_last))


def remove(lease: HeldLease) -> None:
    """The running code holds it no more."""
    for key in lease.claims:
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
