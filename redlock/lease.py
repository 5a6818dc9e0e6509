"""`Lease`: the right to a resource, from the acquisition until the deadline or the release.

Invariants:
1. `acquire` returns with the lease, or deletes its keys on each node that can be reached; see `acquisition`.
2. Extension and release of a lease run one after the other, on the connections that acquired the lease. If a release is
   interrupted, or waits too long for an extension, the renewal thread finishes the release, if the lease is renewed and
   still referenced.
3. A lease belongs to the process that acquired the lease.
4. The lease is released when its own block and all re-entrant blocks inside have ended. A dropped entry does not count.
5. The end of a lease with `on_lost`, its own or that of a re-entrant block inside, is noticed at the deadline.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

from redlock import _validation
from redlock._core import protocol
from redlock._core.commands import Wait
from redlock._core.protocol import Outcome
from redlock._locking import held_leases
from redlock._locking.acquisition import Acquisition
from redlock._locking.driver import ThreadsDriver
from redlock._locking.lease_steps import LeaseSteps
from redlock._transport.connections import RELEASE_MS
from redlock._transport.pool import AllInUse
from redlock.errors import ConfigurationError, LockLost, NotHeld, NoThread

__all__ = ["Lease"]

if TYPE_CHECKING:
    from redlock._core.votes import Grant
    from redlock._locking.context import LockContext
    from redlock._transport.threads import ConnectionSet


class Lease(LeaseSteps):
    """The right to a resource, or to a set of resources, until a deadline.

    A `with` block returns a lease, and so does `current_lease()` inside a task.

    Example:
        >>> with redlock.lock("report:7", ttl=3.0) as lease:
        ...     lease.extend(5.0)
        ...     lease.ensure_valid()
        ...     print(lease.resource, lease.remaining() > 4.0)
        report:7 True
        >>> lease.outcome()
        <Outcome.RELEASED: 'released'>
    """

    _context: LockContext

    def acquire(self, acquire_timeout_ms: int | None) -> None:
        """Acquire the lease, with repeated attempts.

        Args:
            acquire_timeout_ms: The time limit in milliseconds; 0 for a single attempt, None for no limit.

        Raises:
            LockContended: Other clients held the lock until the limit.
            QuorumUnavailable: Too few nodes voted at the limit; without a limit, for one TTL.
            NoThread: This process can start no thread for the renewal.
            ConfigurationError: The addresses lead to too few servers, other clients have other settings, or this lease
                was acquired before.
        """
        if self._grant is not None or self._outcome is not None:
            # The end of the first use would still count: the renewal thread would finish its release.
            raise ConfigurationError(f"a lease is acquired once; make another of {self.resource!r}", self.resource)
        if acquire_timeout_ms is not None:
            acquire_timeout_ms = _validation.count("acquire_timeout_ms", acquire_timeout_ms)
        acquisition = Acquisition(self, acquire_timeout_ms)
        ThreadsDriver(self._context.pool, self._context.waiters).run(acquisition.steps())

    def _accept_grant(self, grant: Grant, connections: ConnectionSet, waited_ms: int) -> None:
        try:
            super()._accept_grant(grant, connections, waited_ms)
        except NoThread as cause:
            # The attempt is cancelled.
            raise self._context.event_log.refused(
                self._owner_label,
                grant.round_result,
                NoThread(f"lock {self.resource!r} is not acquired: {cause}", self.resource),
            ) from None

    def extend(self, seconds: float) -> None:
        """Make the lease last at least this many seconds from now, less the drift allowance. Never shortens the lease.

        Raises:
            ConfigurationError: `seconds` is not a number greater than 0 and at most `max_ttl`.
            LockLost: The deadline has passed, perhaps while all connections of the process were in use; or a quorum of
                nodes no longer has the lease.
            QuorumUnavailable: Too few nodes answered; the old deadline stands.
        """
        ttl_ms = self._context.checked_extension_ms(seconds)
        turn = self._mutex.turn(self.remaining())
        if turn is None:
            raise LockLost(self.resource, "its time was over before another extension ended")
        try:
            until_ms = self._held().deadline_ms
            with turn, self._context.pool.connections(self._connections, until_ms) as connections:
                self._connections = connections
                connections.run(self._extending(ttl_ms, Wait.DECIDED))
        except AllInUse:
            raise LockLost(self.resource, "its time was over before connections were free") from None
        finally:
            self._report_loss()

    def release(self, *, wait: bool = True, ends_blocks: bool = True) -> Outcome:
        """Delete the keys on all nodes, in at most 80 ms. Forgets the owner token once the outcome is known.

        If all connections of the process are in use, the call waits for one until the deadline of the lease at most.

        Args:
            wait: Whether to wait for the replies of a quorum. Without the wait the release is asynchronous, the result
                is `PENDING`, and `outcome` has the final result.
            ends_blocks: Whether the re-entrant blocks inside end too, as they do at the end of an outer block.

        Returns:
            The outcome; `STILL_HELD` if a re-entrant block still shares the lease. The release of that block then
            releases the lease.

        Raises:
            NotHeld: The lease was not acquired, or was released before.
        """
        self._held()
        if self._is_shared(ends_blocks=ends_blocks):
            self._is_left = True
            return Outcome.STILL_HELD
        self._is_leaving = True
        held_leases.remove(self)
        turn = self._mutex.turn(RELEASE_MS / 1000)
        if turn is None:
            return Outcome.UNKNOWN
        with turn:
            # The renewal thread may have released the lease while this thread waited for the mutex.
            return self._send_release(wait=wait) if self._grant is not None else self.outcome()

    def close(self, *, wait: bool = True, ends_blocks: bool = True) -> None:
        """Release the lease, and raise an error if the lease was lost before.

        Args:
            wait: Whether to wait for the nodes, which may know of a loss that this process does not know of.
            ends_blocks: As for `release`.

        Raises:
            LockLost: The lease was lost before: another client may have held the lock at the same time.
            NotHeld: The lease was not acquired, or was released before.
        """
        lost = self.is_lost
        outcome = self.release(wait=wait, ends_blocks=ends_blocks)
        if lost or outcome is Outcome.EXPIRED:
            why = "its time was over before" if lost else "a quorum of nodes no longer had it at"
            raise LockLost(self.resource, self._lost or f"{why} the release")

    def _send_release(self, *, wait: bool = True) -> Outcome:
        if wait:
            # A release without connections would leave the lock taken until the deadline.
            return self._context.pool.run(self._releasing(), self._connections, self._held().deadline_ms)
        grant, self._outcome = self._held(), Outcome.PENDING
        self._connections = self._context.pool.send_release(
            self._connections, protocol.release(grant), functools.partial(self._ended, grant), grant.deadline_ms
        )
        self._grant = None
        return Outcome.PENDING

    def outcome(self) -> Outcome:
        """The outcome of the release; waits for the nodes' replies, at most 80 ms.

        If another thread uses the connections, the call waits for them first, at most 80 ms. `PENDING` if that is too
        short.

        Raises:
            NotHeld: The lease was not released.
        """
        if self._outcome is Outcome.PENDING:
            self._context.pool.await_outcome(self._connections)
        if self._grant is not None or self._outcome is None:
            raise NotHeld(f"lock {self.resource!r} was not released", self.resource)
        return self._outcome
