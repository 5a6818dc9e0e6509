"""Re-entrant blocks: entries into a lease that the running code holds already.

Invariants:
1. Each block has its own entry and releases only that entry.
2. The lease has only weak references to its entries. If an exception ends a block before its release, the entry
   disappears with the block, and neither keeps nor releases the lease.
"""

from __future__ import annotations

import socket
import threading
import weakref
from typing import TYPE_CHECKING

from redlock import _process
from redlock._core.protocol import Outcome
from redlock._escaping import bounded_label
from redlock._locking import held_leases
from redlock.errors import NotHeld
from redlock.lease import Lease

if TYPE_CHECKING:
    from collections.abc import Callable

    from redlock._core.commands import Names
    from redlock._core.votes import Grant
    from redlock._locking.context import LockContext
    from redlock._locking.options import LeaseOptions

_HOST = socket.gethostname()


class InnerLease(Lease):
    """The entry of a re-entrant block; its state is the state of the outer lease.

    Args:
        outer: The shared lease.
        on_lost: Called with this entry when the outer lease is lost while the block is inside.
        is_block: Whether the entry ends at the latest with the block of the outer lease.
    """

    def __init__(self, outer: Lease, on_lost: Callable[[Lease], None] | None, *, is_block: bool) -> None:
        # The outer lease has the state: the base class is not initialised.
        self.names, self.claims, self.ttl_ms = outer.names, outer.claims, outer.ttl_ms
        self.waited_ms = 0
        self._outer = outer
        self._on_lost = on_lost
        self.is_block = is_block

    @property
    def is_held(self) -> bool:
        """Whether the block runs and the outer lease is held."""
        return self._is_inside and self._outer.is_held

    @property
    def _is_inside(self) -> bool:
        return weakref.ref(self) in self._outer.entries

    @property
    def is_lost(self) -> bool:
        """Whether the outer lease is known to be lost."""
        return self._outer.is_lost

    @property
    def _lost(self) -> str:  # type: ignore[override]  # belongs to the outer lease, and is only read here
        return self._outer._lost  # noqa: SLF001 - of the base class

    def acquire(self, acquire_timeout_ms: int | None) -> None:  # noqa: ARG002 - nothing to wait for
        """Enter the outer lease.

        Raises:
            LockLost: The outer lease was lost meanwhile.
            NotHeld: The outer lease was released meanwhile.
        """
        self._outer.ensure_valid()
        entries = self._outer.entries
        entries.add(weakref.ref(self, entries.discard))

    def extend(self, seconds: float) -> None:
        """Extend the outer lease, see `Lease.extend`."""
        self._held()
        self._outer.extend(seconds)

    def release(self, *, wait: bool = True, ends_blocks: bool = True) -> Outcome:
        """End this entry; release the lease only if its own block and all other entries have ended."""
        self._held()
        self._outer.entries.discard(weakref.ref(self))
        if self._outer.is_left and not self._outer.entries:
            return self._outer.release(wait=wait, ends_blocks=ends_blocks)
        return Outcome.STILL_HELD

    def outcome(self) -> Outcome:
        """`STILL_HELD` while the outer lease is held; then the outcome of its release."""
        return Outcome.STILL_HELD if self._outer.is_held else self._outer.outcome()

    def _held(self) -> Grant:
        if not self._is_inside:
            raise NotHeld(f"lock {self.resource!r} is not held here", self.resource)
        return self._outer._held()  # noqa: SLF001 - of the base class


def new_lease(
    context: LockContext,
    names: Names,
    options: LeaseOptions,
    owner_label: str | None = None,
    *,
    is_block: bool = True,
    forever: bool = True,
) -> Lease:
    """A lease to acquire: a new lease, or an entry into the lease that the running code holds on these names.

    Args:
        context: The shared parts of the client.
        names: The resources, checked and sorted.
        options: The options of the lease.
        owner_label: The name of the holder for other clients; default: host, process and thread.
        is_block: Whether the lease ends with a block of code, and with it all blocks inside.
        forever: Whether the caller may wait without a limit, and so must not wait for itself.

    Raises:
        RedlockError: The running code holds a resource of the set already, and can neither share nor wait.
    """
    if owner_label is None:
        owner_label = f"{_HOST}/{_process.pid()}/{threading.current_thread().name}"
    lease = Lease(context, names, options, bounded_label(owner_label), is_block=is_block)
    outer = held_leases.claim(lease, reentrant=options.reentrant, forever=forever)
    return lease if outer is lease else InnerLease(outer, options.on_lost, is_block=is_block)
