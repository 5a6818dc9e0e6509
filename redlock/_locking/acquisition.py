"""One caller that wants a lock: it tries until it has won an election, or its time is over.

Rules of this file:
1. The owner token exists before the first byte is sent, and whatever interrupts an attempt, even an exception
   out of a signal, cancels it: what was set is taken back wherever it could still be reached.
2. One attempt, one owner token; between two attempts it sleeps, in the queue where somebody will wake it.
"""

from __future__ import annotations

import contextlib
import random
import secrets
from typing import TYPE_CHECKING

from redlock._clock import now_ms, wall_us
from redlock._core import protocol
from redlock._core.commands import Acquire
from redlock._core.votes import Grant, Refusal
from redlock._locking import failures
from redlock._locking.acquire_timeout import AcquireTimeout
from redlock._locking.wait_queue import QueuedWaiter
from redlock._locking.wait_registry import PendingWait

if TYPE_CHECKING:
    from collections.abc import Callable

    from redlock._core.commands import Names
    from redlock._transport.threads import NodeConnections
    from redlock.client import Redlock
    from redlock.errors import RedlockError


class Acquisition:
    """Somebody who wants these resources.

    Args:
        client: Whose nodes, queue and log these are.
        names: What is wanted.
        ttl_ms: How long the lease shall last.
        who: What the owner token says of it.
        won: Called with the grant, the links that it came by and the time that it took, before anybody else can use
            the links.
        undo: Called where an exception strikes, be it after that; the attempt is cancelled.
    """

    def __init__(
        self,
        client: Redlock,
        names: Names,
        ttl_ms: int,
        who: str,
        *,
        won: Callable[[Grant, NodeConnections, int], None],
        undo: Callable[[], None],
    ) -> None:
        self._client, self._names, self._ttl_ms, self._who = client, names, ttl_ms, who
        self._won, self._undo = won, undo
        self._ignores_reservations = False

    @property
    def _resource(self) -> str:
        return ", ".join(self._names)

    def run(self, patience_ms: int | None) -> None:
        """Try for this long; None tries for ever. Raises as `Lease.take` does."""
        patience = AcquireTimeout(patience_ms, self._ttl_ms)
        others = self._client.waiter_pool.expects_others(self._names)
        first = None if others else self._attempt(patience)
        if not isinstance(first, Grant):
            self._queue(patience, first)

    def _queue(self, patience: AcquireTimeout, first: Refusal | None) -> None:
        result: Grant | Refusal | None = first
        nap, losses, won = QueuedWaiter(self._client.waiter_pool, self._names, self._ttl_ms), 0, False
        with PendingWait(self._client.waits, self._names, self._who, self._ttl_ms) as wait:
            try:
                if result is None:
                    if patience.turn_ms:
                        wait.begin()
                        nap.queue_first(patience.turn_ms)
                        patience.node_heard()
                    result = self._attempt(patience, nap)
                while isinstance(result, Refusal):
                    losses += 1
                    self._rest(patience, nap, wait, result, losses)
                    result = self._attempt(patience, nap)
                won = True
            finally:
                nap.end(won=won)

    def _rest(
        self, patience: AcquireTimeout, nap: QueuedWaiter, wait: PendingWait, refusal: Refusal, losses: int
    ) -> None:
        """Sleep until it is worth another attempt, or raise where there is no time for one."""
        failures.refuse_disagreement(self._client.pool.nodes, self._client.pool.codec.fingerprint, refusal)
        failures.refuse_duplicates(self._client.pool.nodes, refusal)
        if refusal.no_quorum and losses == 1:
            # The first attempt finds out which connections had gone stale; the second one dials.
            return
        left_ms = patience.left_ms(refusal)
        pause, wakes = nap.length_ms(refusal, losses, random.random())  # noqa: S311 - jitter, not a secret
        if left_ms is not None and (left_ms <= 0 or (pause > left_ms and not wakes)):
            if self._ignores_reservations or not refusal.election.is_only_reserved:
                raise self._refused(refusal)
            # The lock is free. The waiter for which it is reserved takes it by the end of the reservation, or is dead.
            self._ignores_reservations = True
            nap.wait(self._client.reserve_ms, wakes=False)
            return
        self._client.waits.observe_holder(self._names, refusal.election.holder)
        wait.begin()
        self._client.event_log.retry(self._resource, self._who, refusal, losses, pause)
        if not refusal.no_quorum and nap.join_local_queue(patience.turn_ms):
            patience.node_heard()
        else:
            nap.wait(pause if left_ms is None else min(pause, left_ms), wakes=wakes)

    def _refused(self, result: Refusal) -> RedlockError:
        error = failures.error(self._client.pool.nodes, self._resource, result)
        self._client.event_log.refused(self._who, result.election, error)
        return error

    def _attempt(self, patience: AcquireTimeout, nap: QueuedWaiter | None = None) -> Grant | Refusal:
        woken = self._ignores_reservations or (nap is not None and nap.is_woken)
        waits_ms = patience.waits_ms
        token = f"{secrets.token_hex(16)}:{self._who}"
        by = now_ms() + self._client.fresh_ms
        proposed = self._client.proposal(self._names, wall_us())
        attempt = Acquire(self._names, token, self._ttl_ms, proposed, woken, waits_ms, by)
        with self._client.pool.connections() as links:
            try:
                result = links.run(protocol.acquire(attempt), patience.until_ms(self._client.node_timeout_ms))
                if result.election.largest_fence > proposed:
                    self._client.observe_fence(self._names, result.election.backed_fence)
                if isinstance(result, Grant):
                    if result.fence > proposed:
                        self._client.observe_fence(self._names, result.fence)
                    self._won(result, links, now_ms() - patience.started_ms)
            except BaseException:
                self._undo()
                with contextlib.suppress(Exception):
                    links.run(protocol.cancel(attempt, attempt.ttl_ms))
                raise
        return result
