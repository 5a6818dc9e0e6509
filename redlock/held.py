"""What this context holds: so that taking it again is an error at once, or the same lease, and never a deadlock.

Rules: a context is a thread, a greenlet or an asyncio task (`contextvars`); a lease whose time is over is not held.
"""

from __future__ import annotations

from contextvars import ContextVar
from typing import TYPE_CHECKING

from redlock.errors import RedlockError

if TYPE_CHECKING:
    from redlock.lease import Lease

_leases: ContextVar[tuple[Lease, ...]] = ContextVar("redlock_held", default=())


def claim(lease: Lease, *, reentrant: bool) -> Lease:
    """The lease to take: this one, or the one that this context holds on the same resources already.

    Raises:
        RedlockError: This context holds one of the resources, and that is not what re-entrance can share.
    """
    for other in _leases.get():
        shared = set(other.names) & set(lease.names)
        if other.serves(lease) and shared and other.held and other.remaining() > 0:
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
    _leases.set((*(other for other in _leases.get() if other.held), lease))


def remove(lease: Lease) -> None:
    """This context holds it no more."""
    _leases.set(tuple(other for other in _leases.get() if other is not lease))
