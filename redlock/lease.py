"""A lease: taken by winning an election, good until its deadline, given back on the connections that took it.

Rules of this file:
1. `take` either returns with the lease, or leaves nothing that it could still reach.
2. The state of a lease is its deadline. Nothing that stopped running can make an expired lease look alive.
3. Extension and release of one lease are serialised and go down the same connections. A release that would
   have to wait too long for an extension leaves itself to the renewing thread.
4. A lease belongs to the process that took it.
"""

from __future__ import annotations

import functools
import threading
from typing import TYPE_CHECKING

from redlock import held, process, protocol, verdict
from redlock.candidate import Candidate
from redlock.clock import now_ms
from redlock.commands import Names, Wait
from redlock.errors import LockLost, NotHeld, QuorumUnavailable
from redlock.model import Grant
from redlock.model import deadline_ms as deadline_of
from redlock.protocol import Outcome
from redlock.waiting import renewal_ms, retry_ms

if TYPE_CHECKING:
    from collections.abc import Callable

    from redlock.client import Redlock
    from redlock.protocol import Steps
    from redlock.sync import Links

_RELEASE_SECONDS = 0.08
_BUSY_MS = 10
"""Somebody extends it or gives it back at this moment."""


class Lease:
    """The right to one resource, or to a set of them, until a deadline.

    Made by `Redlock`; what a `with` block gives, and what `current_lease()` gives inside a task.
    """

    def __init__(
        self,
        client: Redlock,
        names: Names,
        *,
        ttl_ms: int,
        who: str,
        renew: bool = False,
        max_hold_ms: int | None = None,
        on_lost: Callable[[Lease], None] | None = None,
    ) -> None:
        self.names = names
        self.claims = frozenset((id(client), name) for name in names)
        self.ttl_ms = ttl_ms
        self.waited_ms = 0
        """How long the caller waited for it."""
        self._client = client
        self._who = who
        self._renew = renew
        self._max_hold_ms = max_hold_ms
        self._on_lost = on_lost
        self._grant: Grant | None = None
        self.links: Links | None = None
        self._outcome: Outcome | None = None
        self._taken_ms = self._depth = 0
        self._lost = self._stopped = ""
        self._is_told = True
        self._left_to_renewal = False
        self._mutex = threading.Lock()
        self._pid = process.pid()

    @property
    def resource(self) -> str:
        """What is locked, in words; several names have commas between them."""
        return ", ".join(self.names)

    @property
    def held(self) -> bool:
        """Whether this process took it and has not given it back; says nothing about its deadline."""
        return self._grant is not None and self._pid == process.pid()

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
    def lost(self) -> bool:
        """Whether it is known to be lost: it could not be renewed, or its time is over."""
        return bool(self._lost) or (self._grant is not None and self.remaining() <= 0)

    def remaining(self) -> float:
        """Seconds for which the holder may still believe in it; 0.0 if none."""
        return max(0, self._held().deadline_ms - now_ms()) / 1000 if not self._lost else 0.0

    def ensure_valid(self) -> None:
        """Raise `LockLost` if it is lost.

        This narrows the window between the check and what is done next; it can't close it. A process can be
        frozen right after this call returns. What must be right even then goes through the fenced store, or
        carries `fence` to a resource that checks it.
        """
        if self.remaining() <= 0:
            raise LockLost(self.resource, self._lost or f"its {self.ttl_ms / 1000:g} s are over")

    def take(self, patience_ms: int | None) -> None:
        """Win an election, trying again for this long; None tries for ever. Held already: hold it once more.

        Raises:
            LockContended: Somebody else had it for all that time.
            QuorumUnavailable: At its end too few nodes voted; if it is endless, for one TTL too few could be heard.
            ConfigurationError: The addresses lead to too few servers, or other clients work under other terms.
        """
        if self.held:
            self._depth += 1
        else:
            who = Candidate(self._client, self.names, self.ttl_ms, self._who, won=self._begin, undo=self._undo)
            who.win(patience_ms)

    def _begin(self, grant: Grant, links: Links, waited_ms: int) -> None:
        self.links, self._grant, self._taken_ms, self.waited_ms = links, grant, now_ms(), waited_ms
        held.add(self)
        self._client.log.acquired(self.resource, grant, waited_ms)
        if self._renew:
            self._client.renewal.add(self, self._taken_ms + renewal_ms(self.ttl_ms))

    def _undo(self) -> None:
        self._grant = None
        held.remove(self)

    def extend(self, seconds: float) -> None:
        """Make the lease last at least this many seconds from now, less the drift allowance; never shortens it.

        Raises:
            ConfigurationError: It is no number of seconds greater than 0 and at most `max_ttl`.
            LockLost: The deadline has passed, or a quorum of nodes no longer has the lease.
            QuorumUnavailable: Too few nodes answered; the old deadline stands.
        """
        ttl_ms = self._client.checked_extension_ms(seconds)
        try:
            with self._mutex, self._client.driver.links(self.links) as links:
                links.run(self._extending(ttl_ms, Wait.DECIDED))
        finally:
            self.tell_of_loss()

    def _extending(self, ttl_ms: int, wait: Wait) -> Steps[None]:
        grant = self._held()
        self.ensure_valid()
        result = yield from protocol.extend(grant, ttl_ms, wait)
        if isinstance(result, Grant):
            self._grant = result
            self._client.log.extended(self.resource, result)
            return
        self._client.log.not_extended(self.resource, grant, result)
        if result.no_quorum:
            raise verdict.unavailable(self._client.driver.nodes, self.resource, result.election)
        if result.election.denied >= result.election.quorum:
            self._declare_lost("a quorum of nodes no longer has it")
        raise LockLost(self.resource, self._lost or "it could not be extended on a quorum of nodes")

    def renewing(self) -> Steps[int | None]:
        """The renewing thread's turn, as rounds that many leases can share; gives when it is due again, None if never.

        The thread has the links by then, so it waits for nobody who has the lease.
        """
        if not self._mutex.acquire(blocking=False):
            return now_ms() + _BUSY_MS
        try:
            due_ms = yield from self._renewing()
            if self._left_to_renewal:
                yield from self._releasing()
        except (LockLost, QuorumUnavailable):
            due_ms = now_ms() + retry_ms(int(self.remaining() * 1000))
        except NotHeld:
            return None
        finally:
            self._mutex.release()
        return due_ms if self.held and not self._lost else None

    def _renewing(self) -> Steps[int]:
        now, deadline_ms, ttl_ms = now_ms(), self._held().deadline_ms, self.ttl_ms
        if now >= deadline_ms:
            self._declare_lost(self._stopped or "it could not be renewed in time")
        if self._max_hold_ms is not None:
            left_ms = self._taken_ms + self._max_hold_ms - now
            if deadline_of(left_ms, now) <= deadline_ms:
                self._stopped = "max_hold is over"
                return deadline_ms
            ttl_ms = min(ttl_ms, left_ms)
        if not self._left_to_renewal:
            yield from self._extending(ttl_ms, Wait.ALL)
        return now + renewal_ms(ttl_ms)

    def _declare_lost(self, why: str) -> None:
        if not self._lost and self._grant is not None:
            self._lost, self._is_told = why, self._on_lost is None
            self._client.log.lost(self.resource, self._grant, why)

    def tell_of_loss(self) -> None:
        """Call `on_lost` if there is news: with nothing in hand, for it may do what it likes."""
        if self._lost and not self._is_told and self._on_lost is not None:
            self._is_told = True
            self._on_lost(self)

    def give_back(self, *, wait: bool = True) -> Outcome:
        """Delete the keys on all nodes, bounded to 80 ms; forgets the owner token once the outcome is known.

        Args:
            wait: Whether to wait until a quorum of nodes has said what became of it; else the answer is `BEGUN`,
                and `outcome` knows more.

        Raises:
            NotHeld: The lease was not taken, or was given back before.
        """
        self._held()
        if self._depth:
            self._depth -= 1
            return Outcome.KEPT
        held.remove(self)
        if not self._mutex.acquire(timeout=_RELEASE_SECONDS):
            self._left_to_renewal = True
            return Outcome.UNKNOWN
        try:
            return self._finish(wait=wait)
        finally:
            self._mutex.release()

    def leave(self, *, wait: bool = True) -> None:
        """Give it back at the end of what it protected.

        Args:
            wait: Whether to wait for the nodes, and so hear of a loss that only they know of.

        Raises:
            LockLost: It was lost before: somebody else may have been inside at the same time.
        """
        lost = self.lost
        outcome = self.give_back(wait=wait)
        if lost or outcome is Outcome.EXPIRED:
            raise LockLost(self.resource, self._lost or "its time was over before it was given back")

    def _finish(self, *, wait: bool = True) -> Outcome:
        if wait:
            with self._client.driver.links(self.links) as links:
                return links.run(self._releasing())
        grant, self._outcome = self._held(), Outcome.BEGUN
        self._client.driver.begin(self.links, protocol.release(grant), functools.partial(self._ended, grant))
        self._grant = None
        return Outcome.BEGUN

    def _releasing(self) -> Steps[Outcome]:
        grant = self._held()
        outcome = yield from protocol.release(grant)
        self._grant = None
        self._ended(grant, outcome)
        return outcome

    def _ended(self, grant: Grant, outcome: Outcome) -> None:
        self._outcome = outcome
        self._client.log.released(self.resource, grant, outcome)

    def outcome(self) -> Outcome:
        """What became of it when it was given back; waits for the nodes' answers, at most 80 ms.

        Raises:
            NotHeld: It was not given back.
        """
        if self._outcome is Outcome.BEGUN:
            with self._client.driver.links(self.links) as links:
                links.settle()
        if self._grant is not None or self._outcome is None:
            raise NotHeld(f"lock {self.resource!r} was not given back", self.resource)
        return self._outcome

    def _held(self) -> Grant:
        if self._grant is None:
            raise NotHeld(f"lock {self.resource!r} is not held here", self.resource)
        if self._pid != process.pid():
            raise NotHeld(
                f"lock {self.resource!r} belongs to the process that took it, not to its child", self.resource
            )
        return self._grant
