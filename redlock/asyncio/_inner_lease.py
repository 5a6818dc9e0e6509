"""The entry of a re-entrant block into a lease that the running task holds."""

from __future__ import annotations

from typing import TYPE_CHECKING

from redlock._core.protocol import Outcome
from redlock._locking.lease_entry import LeaseEntry
from redlock.asyncio.lease import Lease

if TYPE_CHECKING:
    import weakref


class InnerLease(LeaseEntry, Lease):
    """The entry of a re-entrant block."""

    _outer: Lease
    _has_ended_outer = False
    """Whether the end of this entry has released the outer lease."""

    @property
    def _releaser(self) -> weakref.ref[object] | None:  # type: ignore[override]  # only the outer lease sets this
        return self._outer._releaser

    @property
    def _is_releasing(self) -> bool:
        return self._has_ended_outer and self._outer._is_releasing

    async def acquire(self, acquire_timeout_ms: int | None) -> None:  # noqa: ARG002 - nothing to wait for
        """Enter the outer lease. Raises an error if the outer lease was lost or released meanwhile."""
        self._enter()

    async def extend(self, seconds: float) -> None:
        """Extend the outer lease, see `Lease.extend`."""
        self._held()
        await self._outer.extend(seconds)

    async def release(self, *, wait: bool = True, ends_blocks: bool = True) -> Outcome:
        """End this entry; release the lease only if its own block and all other entries have ended."""
        if not self._is_releasing:
            self._has_ended_outer = self._leave()
        if not self._has_ended_outer:
            return Outcome.STILL_HELD
        return await self._outer.release(wait=wait, ends_blocks=ends_blocks)

    def _drop(self) -> None:
        """End this entry, and send the release if the lease must end now."""
        if self.is_held and self._leave():
            self._outer._drop()

    async def outcome(self) -> Outcome:
        """`STILL_HELD` while the outer lease is held; then the outcome of its release."""
        return Outcome.STILL_HELD if self._outer.is_held else await self._outer.outcome()
