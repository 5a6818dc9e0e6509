"""A lease to acquire: a new lease, or an entry of a re-entrant block into a lease that the running task holds."""

from __future__ import annotations

import asyncio
import socket
from typing import TYPE_CHECKING, Any

from redlock import _process
from redlock._core.protocol import Outcome
from redlock._escaping import bounded_label
from redlock._locking import held_leases
from redlock._locking.lease_entry import LeaseEntry
from redlock.asyncio.lease import Lease

if TYPE_CHECKING:
    from collections.abc import Callable

    from redlock._core.commands import Names
    from redlock._locking.options import LeaseOptions
    from redlock.asyncio._loop_parts import LoopContext

_HOST = socket.gethostname()


class InnerLease(LeaseEntry, Lease):
    """The entry of a re-entrant block."""

    _outer: Lease

    def __init__(self, outer: Lease, on_lost: Callable[[Any], object] | None, *, is_block: bool) -> None:
        super().__init__(outer, on_lost, is_block=is_block)
        self._scope = self._task = None

    @property
    def _is_releasing(self) -> bool:
        """An entry ends at once."""
        return False

    async def acquire(self, acquire_timeout_ms: int | None) -> None:  # noqa: ARG002 - nothing to wait for
        """Enter the outer lease.

        Raises:
            LockLost: The outer lease was lost meanwhile.
            NotHeld: The outer lease was released meanwhile.
        """
        self._enter()
        self._note_task()

    async def extend(self, seconds: float) -> None:
        """Extend the outer lease, see `Lease.extend`."""
        self._held()
        await self._outer.extend(seconds)

    async def release(self, *, wait: bool = True, ends_blocks: bool = True) -> Outcome:
        """End this entry; release the lease only if its own block and all other entries have ended."""
        return await self._outer.release(wait=wait, ends_blocks=ends_blocks) if self._leave() else Outcome.STILL_HELD

    async def outcome(self) -> Outcome:
        """`STILL_HELD` while the outer lease is held; then the outcome of its release."""
        return Outcome.STILL_HELD if self._outer.is_held else await self._outer.outcome()


def new_lease(context: LoopContext, names: Names, options: LeaseOptions, *, is_block: bool, forever: bool) -> Lease:
    """A lease to acquire: a new lease, or an entry into the lease that the running task holds on these names.

    Args:
        context: The client.
        names: The resources, checked and sorted.
        options: The options of the lease.
        is_block: Whether the lease ends with a block of code, and with it all blocks inside.
        forever: Whether the caller may wait without a limit, and so must not wait for itself.

    Raises:
        RedlockError: The running task holds a resource of the set already, and can neither share nor wait.
    """
    task = asyncio.current_task()
    owner_label = f"{_HOST}/{_process.pid()}/{'no task' if task is None else task.get_name()}"
    lease = Lease(context, names, options, bounded_label(owner_label), is_block=is_block)
    outer = held_leases.claim(lease, reentrant=options.reentrant, forever=forever)
    return lease if outer is lease else InnerLease(outer, options.on_lost, is_block=is_block)
