"""A lease: taken by winning an election, good until its deadline, given back on the connections that took it.

Rules of this file:
1. `take` either returns with the lease, or leaves nothing that it could still reach.
2. Extension and release of one lease are serialised and go down the same connections. A release that would
   have to wait too long for an extension, or that an exception interrupts, is left to the renewing thread.
3. A lease belongs to the process that took it.
4. It is released when its own block and all re-entrant blocks inside have given back their entries. An entry that was
   dropped counts no more.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

from redlock import _process
from redlock._clock import now_ms
from redlock._core import protocol
from redlock._core.backoff import renewal_ms
from redlock._core.commands import Wait
from redlock._core.protocol import Outcome
from redlock._locking import held_leases
from redlock._locking.acquisition import Acquisition
from redlock._locking.lease_steps import LeaseSteps
from redlock.errors import LockLost, NotHeld

if TYPE_CHECKING:
    from redlock._core.votes import Grant
    from redlock._transport.threads import NodeConnections

_RELEASE_SECONDS = 0.08


class Lease(LeaseSteps):
    """The right to one resource, or to a set of them, until a deadline.

    Made by `Redlock`; what a `with` block gives, and what `current_lease()` gives inside a task.
    """

    waited_ms = 0
    """How long the caller waited for it."""

    @property
    def resource(self) -> str:
        """What is locked, in words; several names have commas between them."""
        return self._resource

    @property
    def fence(self) -> int:
        """The fencing token: larger than that of every earlier lease on any of these resources.

        Raises:
            NotHeld: The lease was not taken, or was given back.
        """
        return self._held().fence

    @property
    def owner(self) -> str:
        """The owner token in the keys. A secret: whoever has it can release the lock."""
        return self._held().token

    @property
    def rounds(self) -> int:
        """How many rounds the election took, 1 or 2."""
        return self._held().rounds

    @property
    def is_held(self) -> bool:
        """Whether this process took it and has not given it back; says nothing about its deadline."""
        return self._grant is not None and self._pid == _process.pid()

    @property
    def is_lost(self) -> bool:
        """Whether it is known to be lost: it could not be renewed, or its time is over."""
        grant = self._grant
        return bool(self._lost) or (grant is not None and grant.deadline_ms <= now_ms())

    def remaining(self) -> float:
        """Seconds for which the holder may still believe in it; 0.0 if none."""
        return self._remaining_ms() / 1000

    def ensure_valid(self) -> None:
        """Raise `LockLost` if it is lost.

        This narrows the window between the check and what is done next; it can't close it. A process can be
        frozen right after this call returns. What must be right even then goes through the fenced store, or
        carries `fence` to a resource that checks it.
        """
        self._check_valid()

    def acquire(self, acquire_timeout_ms: int | None) -> None:
        """Win an election, trying again for this long; None tries for ever.

        Raises:
            LockContended: Somebody else had it for all that time.
            QuorumUnavailable: At its end too few nodes voted; if it is endless, for one TTL too few could be heard.
            ConfigurationError: The addresses lead to too few servers, or other clients work under other terms.
        """
        acquisition = Acquisition(
            self._context, self.names, self.ttl_ms, self._owner_label, won=self._begin, undo=self._undo
        )
        acquisition.run(acquire_timeout_ms)

    def _begin(self, grant: Grant, links: NodeConnections, waited_ms: int) -> None:
        self.connections, self._grant, self._taken_ms, self.waited_ms = links, grant, now_ms(), waited_ms
        held_leases.add(self)
        self._context.event_log.acquired(self.resource, grant, waited_ms)
        if self._renew:
            self._context.renewal.add(self, self._taken_ms + renewal_ms(self.ttl_ms))

    def _undo(self) -> None:
        self._grant = None
        held_leases.remove(self)

    def extend(self, seconds: float) -> None:
        """Make the lease last at least this many seconds from now, less the drift allowance; never shortens it.

        Raises:
            ConfigurationError: It is no number of seconds greater than 0 and at most `max_ttl`.
            LockLost: The deadline has passed, or a quorum of nodes no longer has the lease.
            QuorumUnavailable: Too few nodes answered; the old deadline stands.
        """
        ttl_ms = self._context.checked_extension_ms(seconds)
        turn = self._mutex.turn(self.remaining())
        if turn is None:
            raise LockLost(self.resource, "its time was over before another extension ended")
        try:
            with turn, self._context.pool.connections(self.connections) as links:
                self.connections = links
                links.run(self._extending(ttl_ms, Wait.DECIDED))
        finally:
            self.report_loss()

    def report_loss(self) -> None:
        """Have `on_lost` called, once, in a thread of its own; also that of each re-entrant block."""
        if self._is_told:
            return
        self._is_told = True
        for lease in (self, *self._inside()):
            if lease._on_lost is not None:  # noqa: SLF001 - of this class
                self._context.renewal.callbacks.call(self.resource, functools.partial(lease._on_lost, lease))  # noqa: SLF001 - of this class

    def _inside(self) -> list[LeaseSteps]:
        return [entry for reference in tuple(self.entries) if (entry := reference()) is not None]

    def release(self, *, wait: bool = True, ends_blocks: bool = True) -> Outcome:
        """Delete the keys on all nodes, bounded to 80 ms; forgets the owner token once the outcome is known.

        Args:
            wait: Whether to wait until a quorum of nodes has said what became of it; else the answer is `PENDING`,
                and `outcome` knows more.
            ends_blocks: Whether the re-entrant blocks inside are over, as they are at the end of an outer block.

        Returns:
            `STILL_HELD` if a re-entrant acquisition still shares the lease. Its release releases the lease.

        Raises:
            NotHeld: The lease was not taken, or was given back before.
        """
        self._held()
        if self.entries and any(not (ends_blocks and entry.is_block) for entry in self._inside()):
            self.is_left = True
            return Outcome.STILL_HELD
        self._is_leaving = True
        held_leases.remove(self)
        turn = self._mutex.turn(_RELEASE_SECONDS)
        if turn is None:
            return Outcome.UNKNOWN
        with turn:
            # The renewing thread may have released it while this thread waited for its turn.
            return self._finish(wait=wait) if self._grant is not None else self.outcome()

    def close(self, *, wait: bool = True, ends_blocks: bool = True) -> None:
        """Give it back at the end of what it protected.

        Args:
            wait: Whether to wait for the nodes, and so hear of a loss that only they know of.
            ends_blocks: As for `release`.

        Raises:
            LockLost: It was lost before: somebody else may have been inside at the same time.
        """
        lost = self.is_lost
        outcome = self.release(wait=wait, ends_blocks=ends_blocks)
        if lost or outcome is Outcome.EXPIRED:
            raise LockLost(self.resource, self._lost or "its time was over before it was given back")

    def _finish(self, *, wait: bool = True) -> Outcome:
        if wait:
            with self._context.pool.connections(self.connections) as links:
                return links.run(self._releasing())
        grant, self._outcome = self._held(), Outcome.PENDING
        self._context.pool.send_release(
            self.connections, protocol.release(grant), functools.partial(self._ended, grant)
        )
        self._grant = None
        return Outcome.PENDING

    def outcome(self) -> Outcome:
        """What became of it when it was given back; waits for the nodes' answers, at most 80 ms.

        Raises:
            NotHeld: It was not given back.
        """
        if self._outcome is Outcome.PENDING:
            with self._context.pool.connections(self.connections) as links:
                links.await_releases()
        if self._grant is not None or self._outcome is None:
            raise NotHeld(f"lock {self.resource!r} was not given back", self.resource)
        return self._outcome
