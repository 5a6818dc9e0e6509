"""`Lease` for asyncio: the right to a resource, from the acquisition until the deadline or the release.

Invariants:
1. A lease belongs to its event loop and to its process, not to a task.
2. Extension, renewal and release of a lease never overlap. A release ends the step that is under way.
3. A release is begun before its first `await`, and goes on if its task is cancelled. The next call of `release` gets
   the outcome that the cancelled call did not get.
4. The lease is released when its own block and all re-entrant blocks inside have ended. A dropped entry does not count.
5. The end of a lease with `on_lost`, its own or that of a re-entrant block inside, is noticed at the deadline.
"""

from __future__ import annotations

import asyncio
import functools
import weakref
from typing import TYPE_CHECKING

from redlock._clock import now_ms
from redlock._core import protocol
from redlock._core.commands import Wait
from redlock._core.protocol import Outcome
from redlock._locking import held_leases
from redlock._locking.acquisition import Acquisition
from redlock.asyncio._driver import LoopDriver
from redlock.asyncio._renewal import LoopLease
from redlock.errors import LockLost, NotHeld, RedlockError

__all__ = ["Lease"]

if TYPE_CHECKING:
    from redlock._core.votes import Grant
    from redlock._locking.lease_steps import LeaseSteps
    from redlock._mutex import Mutex, Turn
    from redlock.asyncio._cancel_scope import CancelScope
    from redlock.asyncio._loop_parts import LoopContext, LoopParts


class Lease(LoopLease):
    """The right to a resource, or to a set of resources, until a deadline.

    An `async with` block returns a lease.

    Example:
        >>> async def report() -> None:
        ...     async with redlock.lock("report:7", ttl=3.0) as lease:
        ...         await lease.extend(5.0)
        ...         lease.ensure_valid()
        ...         print(lease.resource, lease.remaining() > 4.0)
        ...     print(await lease.outcome())
        >>> asyncio.run(report())
        report:7 True
        Outcome.RELEASED
    """

    _context: LoopContext
    _parts: LoopParts
    _scope: CancelScope | None = None
    """The block that a loss cancels."""
    _release: asyncio.Future[Outcome] | None = None
    """The result or the error of the release, which was sent."""

    @property
    def _is_releasing(self) -> bool:
        return self._release is not None and (self._outcome is None or self._releaser is not None)

    async def acquire(self, acquire_timeout_ms: int | None) -> None:
        """Acquire the lease, with repeated attempts.

        Args:
            acquire_timeout_ms: The time limit in milliseconds; 0 for a single attempt, None for no limit.

        Raises:
            LockContended: Other clients held the lock until the limit.
            QuorumUnavailable: Too few nodes voted at the limit; without a limit, for one TTL.
            ConfigurationError: The addresses lead to too few servers, or other clients have other settings.
        """
        parts = self._parts
        acquisition = Acquisition(self, acquire_timeout_ms)
        driver = LoopDriver(parts.connections, parts.waiters, parts.window, self.names)
        try:
            await driver.run(acquisition.steps())
        finally:
            # Again: an exception of a signal handler can strike just before the same call in `run`.
            driver.leave_nodes()

    @property
    def _hears_of_loss(self) -> bool:
        return self._on_lost is not None or self._scope is not None

    async def extend(self, seconds: float) -> None:
        """Make the lease last at least this many seconds from now, less the drift allowance. Never shortens the lease.

        Raises:
            ConfigurationError: `seconds` is not a number greater than 0 and at most `max_ttl`.
            LockLost: The deadline has passed, or a quorum of nodes no longer has the lease.
            QuorumUnavailable: Too few nodes answered; the old deadline stands.
            NotHeld: The lease was not acquired, or was released, perhaps meanwhile.
        """
        ttl_ms = self._context.checked_extension_ms(seconds)
        self._check_loop()
        with await self._turn():
            step = self._step = self._parts.connections.start(self._extending(ttl_ms, Wait.DECIDED))
            try:
                await asyncio.wait({step.future})
                if step.future.cancelled():
                    raise NotHeld(
                        f"lock {self.resource!r} was released, or its client closed, meanwhile", self.resource
                    )
                step.future.result()
            finally:
                if self._step is step:
                    self._stop_step()
                self._report_loss()
                # The frames of an error have the step, which would keep the error alive.
                del step.future

    async def _turn(self) -> Turn[Mutex]:
        """The right to a step of this lease; waits for the step that is under way, at most until the deadline."""
        while (turn := self._mutex.turn()) is None:
            if not self.remaining():
                raise LockLost(self.resource, "its time was over before another extension ended")
            assert self._step is not None
            await asyncio.wait({self._step.future}, timeout=self.remaining())
        return turn

    async def release(self, *, wait: bool = True, ends_blocks: bool = True) -> Outcome:
        """Delete the keys on all nodes, in at most two node timeouts. Forgets the owner token at once.

        A cancellation of the wait does not stop the release. The call can be repeated then, and gets the same outcome.

        Args:
            wait: Whether to wait for the replies of a quorum. Without the wait the result is `PENDING`, and `outcome`
                has the final result.
            ends_blocks: Whether the re-entrant blocks inside end too, as they do at the end of an outer block.

        Returns:
            The outcome; `STILL_HELD` if a re-entrant block still shares the lease. The release of that block then
            releases the lease.

        Raises:
            NotHeld: The lease was not acquired, or was released before.
        """
        self._check_loop()
        if not self._is_releasing:
            self._held()
            if self._is_shared(ends_blocks=ends_blocks):
                self._is_left = True
                return Outcome.STILL_HELD
            self._send_release()
        self._releaser = None
        if not wait:
            return Outcome.PENDING
        try:
            return await self.outcome()
        except BaseException:
            self._releaser = weakref.ref(held_leases.owner())
            raise

    def _drop(self) -> None:
        """Send the release if the lease is held: after an exception the lease would be renewed without an owner."""
        if self.is_held:
            self._send_release()

    def _send_release(self) -> None:
        grant, connections = self._held(), self._parts.connections
        self._grant = None
        if grant.deadline_ms <= now_ms():
            self._lost = self._lost or "its time was over before the release"
        held_leases.remove(self)
        self._stop_step()
        if connections.is_closed:
            self._release = self._parts.loop.create_future()
            self._release.set_result(Outcome.UNKNOWN)
            self._released(grant, self._release)
        else:
            self._release = connections.start(protocol.release(grant)).future
            self._release.add_done_callback(functools.partial(self._released, grant))

    def _released(self, grant: Grant, release: asyncio.Future[Outcome]) -> None:
        self._ended(grant, _outcome_of(release))

    async def close(self, *, wait: bool = True, ends_blocks: bool = True) -> None:
        """Release the lease, and raise an error if the lease was lost before.

        Args:
            wait: Whether to wait for the nodes, which may know of a loss that this process does not know of.
            ends_blocks: As for `release`.

        Raises:
            LockLost: The lease was lost before: another client may have held the lock at the same time.
            NotHeld: The lease was not acquired, or was released before.
        """
        lost = self.is_lost
        outcome = await self.release(wait=wait, ends_blocks=ends_blocks)
        if lost or self._lost or outcome is Outcome.EXPIRED:
            raise LockLost(self.resource, self._lost or "a quorum of nodes no longer had it at the release")

    async def outcome(self) -> Outcome:
        """The outcome of the release; waits for the nodes' replies.

        Raises:
            NotHeld: The lease was not released.
        """
        if self._release is None:
            raise NotHeld(f"lock {self.resource!r} was not released", self.resource)
        if not self._release.done():
            self._check_loop()
            # Not for `_released`: an exception of a signal handler can interrupt that callback, but not this wait.
            await asyncio.wait({self._release})
        return _outcome_of(self._release)

    def _tell(self, lease: LeaseSteps) -> None:
        if isinstance(lease, Lease) and lease._scope is not None:
            lease._scope.cancel()
        super()._tell(lease)

    def _check_loop(self) -> None:
        if asyncio.get_running_loop() is not self._parts.loop:
            raise RedlockError(
                f"lock {self.resource!r} was acquired in another event loop; use a lease in its own loop", self.resource
            )


def _outcome_of(release: asyncio.Future[Outcome]) -> Outcome:
    is_known = not release.cancelled() and release.exception() is None
    return release.result() if is_known else Outcome.UNKNOWN
