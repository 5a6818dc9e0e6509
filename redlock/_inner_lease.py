"""A lease to acquire: a new lease, or an entry of a re-entrant block into a lease that the running code holds."""

from __future__ import annotations

import functools
import socket
import threading
from typing import TYPE_CHECKING

from redlock import _process, _validation
from redlock._core.protocol import Outcome
from redlock._escaping import bounded_label
from redlock._locking import held_leases
from redlock._locking.lease_entry import LeaseEntry
from redlock.lease import Lease

if TYPE_CHECKING:
    from redlock._core.commands import Names
    from redlock._locking.context import LockContext
    from redlock._locking.options import LeaseOptions

_HOST = socket.gethostname()
_MOST_LABELS = 256


class InnerLease(LeaseEntry, Lease):
    """The entry of a re-entrant block."""

    _outer: Lease

    def acquire(self, acquire_timeout_ms: int | None) -> None:  # noqa: ARG002 - nothing to wait for
        """Enter the outer lease. Raises an error if the outer lease was lost or released meanwhile."""
        self._enter()

    def extend(self, seconds: float) -> None:
        """Extend the outer lease, see `Lease.extend`."""
        self._held()
        self._outer.extend(seconds)

    def release(self, *, wait: bool = True, ends_blocks: bool = True) -> Outcome:
        """End this entry; release the lease only if its own block and all other entries have ended."""
        return self._outer.release(wait=wait, ends_blocks=ends_blocks) if self._leave() else Outcome.STILL_HELD

    def outcome(self) -> Outcome:
        """`STILL_HELD` while the outer lease is held; then the outcome of its release."""
        return Outcome.STILL_HELD if self._outer.is_held else self._outer.outcome()


@functools.lru_cache(_MOST_LABELS)
def _default_label(pid: int, thread: str) -> str:
    return bounded_label(f"{_HOST}/{pid}/{thread}")


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

    Raises:
        RedlockError: The running code holds a resource of the set already, and can neither share nor wait.
    """
    if owner_label is None:
        label = _default_label(_process.pid(), threading.current_thread().name)
    else:
        label = bounded_label(_validation.text("owner_label", owner_label))
    lease = Lease(context, names, options, label, is_block=is_block)
    outer = held_leases.claim(lease, reentrant=options.reentrant, forever=forever)
    return lease if outer is lease else InnerLease(outer, options.on_lost, is_block=is_block)
