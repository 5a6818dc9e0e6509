"""A lease: taken by winning an election, good until its deadline, given back on the connections that took it.

Rules of this file:
1. The owner token exists before the first byte is sent, and whatever interrupts an attempt, even an exception
   out of a signal, cancels it: `take` either returns with the lease or leaves nothing that it could still reach.
2. The state of a lease is its deadline. Nothing that stopped running can make an expired lease look alive.
3. A lease belongs to the process that took it.
"""

from __future__ import annotations

import contextlib
import os
import random
import secrets
import time
from typing import TYPE_CHECKING

from redlock import log, protocol
from redlock.clock import now_ms, wall_us
from redlock.errors import LockContended, LockLost, NotHeld, QuorumUnavailable
from redlock.model import Acquire, Grant, Refusal, shown
from redlock.protocol import Outcome
from redlock.waiting import pause_ms

if TYPE_CHECKING:
    from redlock.client import Redlock
    from redlock.sync import Links


class Lease:
    """The right to a resource until a deadline. Made by `Redlock`, seen through `current_lease()`."""

    def __init__(self, client: Redlock, resource: str, ttl_ms: int, who: str) -> None:
        self.resource = resource
        self.ttl_ms = ttl_ms
        self.waited_ms = 0
        """How long the caller waited for it."""
        self._client = client
        self._who = who
        self._grant: Grant | None = None
        self._links: Links | None = None
        self._pid = os.getpid()

    @property
    def held(self) -> bool:
        """Whether it was taken and not given back; says nothing about its deadline."""
        return self._grant is not None

    @property
    def fence(self) -> int:
        """The fencing token: larger than that of every earlier lease on this resource.

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

    def remaining(self) -> float:
        """Seconds for which the holder may still believe in it; 0.0 if none."""
        return max(0, self._held().deadline_ms - now_ms()) / 1000

    def ensure_valid(self) -> None:
        """Raise `LockLost` if the time is over.

        This narrows the window between the check and what is done next; it can't close it. A process can be
        frozen right after this call returns. What must be right even then goes through the fenced store, or
        carries `fence` to a resource that checks it.
        """
        if self.remaining() <= 0:
            raise LockLost(self.resource, f"its {self.ttl_ms / 1000:g} s are over")

    def take(self, patience_ms: int | None) -> None:
        """Win an election, trying again for this long; None tries for ever.

        Raises:
            LockContended: Somebody else had it for all that time.
            QuorumUnavailable: At the end of that time, or of one TTL where the patience is endless, too few
                nodes voted.
            ConfigurationError: Two of the nodes are the same server.
        """
        started_ms = now_ms()
        losses = 0
        voted_ms = started_ms
        while True:
            result = self._attempt()
            self.waited_ms = now_ms() - started_ms
            if isinstance(result, Grant):
                return
            losses += 1
            if not result.no_quorum:
                voted_ms = now_ms()
            pause = pause_ms(result, losses, random.random())  # noqa: S311 - jitter, not a secret
            limit = (
                patience_ms if patience_ms is not None or not result.no_quorum else voted_ms - started_ms + self.ttl_ms
            )
            if limit is not None and self.waited_ms + pause > limit:
                raise self._as_error(result)
            self._log_loss(result, losses, pause)
            time.sleep(pause / 1000)

    def _attempt(self) -> Grant | Refusal:
        token = f"{secrets.token_hex(16)}:{self._who}"
        attempt = Acquire(self.resource, token, self.ttl_ms, self._client.proposal(wall_us()))
        with self._client.driver.links() as links:
            try:
                result = links.run(protocol.acquire(attempt))
                self._client.saw(result.election.largest_fence)
                if isinstance(result, Grant):
                    self._links, self._grant = links, result
                    self._client.saw(result.fence)
                    log.info(
                        "acquired",
                        resource=self.resource,
                        holder=shown(token),
                        fence=result.fence,
                        rounds=result.rounds,
                        votes=result.election.ballot,
                        missing=self._client.silent_nodes(result.election),
                        waited_ms=self.waited_ms,
                    )
            except BaseException:
                self._grant = None
                with contextlib.suppress(Exception):
                    links.run(protocol.cancel(attempt))
                raise
        return result

    def extend(self, ttl_ms: int) -> None:
        """Make it last for at least this long from now; a failed extension leaves the old deadline.

        Raises:
            LockLost: Its time was over, or a quorum of nodes no longer has it.
            QuorumUnavailable: Too few nodes answered; the old deadline stands.
        """
        grant = self._held()
        self.ensure_valid()
        with self._client.driver.links(self._links) as links:
            result = links.run(protocol.extend(grant, ttl_ms))
        if isinstance(result, Grant):
            self._grant, self.ttl_ms = result, ttl_ms
            log.debug("extended", resource=self.resource, holder=shown(grant.token), votes=result.election.ballot)
            return
        log.warning(
            "extension-failed",
            resource=self.resource,
            holder=shown(grant.token),
            votes=result.election.ballot,
            missing=self._client.silent_nodes(result.election),
        )
        if result.no_quorum:
            raise self._as_error(result)
        raise LockLost(self.resource, "a quorum of nodes no longer has it")

    def still_on_a_quorum(self) -> bool:
        """Ask the nodes whether a quorum of them has this very lease."""
        grant = self._held()
        with self._client.driver.links() as links:
            election = links.run(protocol.inspect(self.resource))
        return sum(vote.holder == grant.token for vote in election.votes) >= election.quorum

    def give_back(self) -> Outcome:
        """Delete the keys on all nodes, bounded to 80 ms; forgets the owner token once the outcome is known.

        Raises:
            NotHeld: The lease was not taken, or was given back before.
        """
        grant = self._held()
        with self._client.driver.links(self._links) as links:
            outcome = links.run(protocol.release(grant))
        self._grant = None
        emit = log.info if outcome is Outcome.RELEASED else log.warning
        emit(outcome.value, resource=self.resource, holder=shown(grant.token), fence=grant.fence)
        return outcome

    def _held(self) -> Grant:
        if self._grant is None:
            raise NotHeld(f"lock {self.resource!r} is not held here", self.resource)
        if self._pid != os.getpid():
            raise NotHeld(
                f"lock {self.resource!r} belongs to the process that took it, not to its child", self.resource
            )
        return self._grant

    def _as_error(self, refusal: Refusal) -> LockContended | QuorumUnavailable:
        election = refusal.election
        if refusal.no_quorum:
            reasons = self._client.reasons(election)
            error: LockContended | QuorumUnavailable = QuorumUnavailable(
                self.resource, election.quorum, len(election.votes), reasons
            )
        else:
            left_ms = election.free_in_ms
            error = LockContended(
                self.resource,
                shown(election.holder) if election.holder else None,
                None if left_ms is None else left_ms / 1000,
            )
        log.info("refused", resource=self.resource, who=self._who, votes=election.ballot, why=error)
        return error

    def _log_loss(self, refusal: Refusal, losses: int, pause: int) -> None:
        election = refusal.election
        log.debug(
            "retry",
            resource=self.resource,
            who=self._who,
            votes=election.ballot,
            holder=shown(election.holder) if election.holder else "-",
            missing=self._client.silent_nodes(election),
            attempt=losses,
            pause_ms=pause,
        )
