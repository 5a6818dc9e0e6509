"""What this context holds: so that taking it again is an error at once, or the same lease, and never a deadlock.

Rules:
1. A context is a thread, a greenlet or an asyncio task (`contextvars`); a lease whose time is over is not held.
2. Nothing here keeps a lease alive that its owner has dropped.
3. What it costs does not grow with what is held, where it is given back in the opposite order: a context's leases are
   a stack of pairs, which contexts can share, and it is searched only if the process holds one on the same resource.
"""

from __future__ import annotations

import weakref
from contextvars import ContextVar
from typing import TYPE_CHECKING, TypeAlias

from redlock.errors import RedlockError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from redlock.lease import Lease

_Stack: TypeAlias = "tuple[weakref.ref[Lease], _Stack] | None"

_stack: ContextVar[_Stack] = ContextVar("redlock_held", default=None)
_last: dict[tuple[int, str], weakref.ref[Lease]] = {}
"""Which lease of this process was taken last, by client and resource. No weak dictionary: its callbacks run when a
lease is dropped, and an exception that a signal raises in one of them is lost."""
_most_known = 10_000


def _held() -> Iterator[Lease]:
    stack = _stack.get()
    while stack is not None:
        reference, stack = stack
        lease = reference()
        if lease is not None and lease.held:
            yield lease


def claim(lease: Lease, *, reentrant: bool) -> Lease:
    """The lease to take: this one, or the one that this context holds on the same resources already.

    Raises:
        RedlockError: This context holds one of the resources, and that is not what re-entrance can share.
    """
    if not any(key in _last for key in lease.claims):
        return lease
    for other in _held():
        shared = other.claims & lease.claims
        if shared and other.remaining() > 0:
            if reentrant and lease.claims <= other.claims:
                return other
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


def add(lease: Lease) -> None:
    """This context holds it from now on."""
    reference = weakref.ref(lease)
    for key in lease.claims:
        _last[key] = reference
    below = _stack.get()
    while below is not None and not ((other := below[0]()) and other.held):
        below = below[1]
    _stack.set((reference, below))
    if len(_last) > _most_known:
        _drop_what_is_gone()


def _drop_what_is_gone() -> None:
    """Of leases that nobody gave back."""
    global _most_known  # noqa: PLW0603 - as many again before the next look
    for key, reference in list(_last.items()):
        if reference() is None:
            _last.pop(key, None)
    _most_known = max(_most_known, 2 * len(_last))


def remove(lease: Lease) -> None:
    """This context holds it no more."""
    for key in lease.claims:
        known = _last.get(key)
        if known is not None and known() is lease:
            _last.pop(key, None)
    above, stack = [], _stack.get()
    while stack is not None and stack[0]() is not lease:
        above.append(stack[0])
        stack = stack[1]
    if stack is None:
        return
    stack = stack[1]
    for reference in reversed(above):
        stack = (reference, stack)
    _stack.set(stack)
