"""What this context holds: so that taking it again is an error at once, or the same lease, and never a deadlock.

Rules: a context is a thread, a greenlet or an asyncio task (`contextvars`); a lease whose time is over is not held;
nothing here keeps a lease alive that its owner has dropped.
"""

from __future__ import annotations

import weakref
from contextvars import ContextVar
from typing import TYPE_CHECKING

from redlock.errors import RedlockError

if TYPE_CHECKING:
    from redlock.lease import Lease

_leases: ContextVar[tuple[weakref.ref[Lease], ...]] = ContextVar("redlock_held", default=())


def _held() -> list[Lease]:
    leases = [reference() for reference in _leases.get()]
    return [lease for lease in leases if lease is not None and lease.held]


def claim(lease: Lease, *, reentrant: bool) -> Lease:
    """The lease to take: this one, or the one that this context holds on the same resources already.

    Raises:
        RedlockError: This context holds one of the resources, and that is not what re-entrance can share.
    """
    for other in _held():
        shared = set(other.names) & set(lease.names)
        if other.serves(lease) and shared and other.remaining() > 0:
            if reentrant and set(lease.names) <= set(other.names):
                return other
            names = ", ".join(sorted(shared))
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
    _leases.set(tuple(weakref.ref(other) for other in (*_held(), lease)))


def remove(lease: Lease) -> None:
    """This context holds it no more."""
    _leases.set(tuple(weakref.ref(other) for other in _held() if other is not lease))
