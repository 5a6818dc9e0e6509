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
    from redlock._locking.context import LockContext
    from redlock._transport.threads import NodeConnections
    from redlock.errors import RedlockError


class Acquisition:
    """Somebody who wants these resources.

    Args:
        context: The shared parts of the client.
        names: What is wanted.
        ttl_ms: How long the lease shall last.
        owner_label: What the owner token says of it.
        won: Called with the grant, the links that it came by and the time that it took, before anybody else can use
            the links.
        undo: Called where an exception strikes, be it after that; the attempt is cancelled.
    """

    def __init__(
        self,
        context: LockContext,
        names: Names,
        ttl_ms: int,
        owner_label: str,
        *,
        won: Callable[[Grant, NodeConnections, int], None],
        undo: Callable[[], None],
    ) -> None:
        self._context, self._names, self._ttl_ms, self._owner_label = context, names, ttl_ms, owner_label
        self._won, self._undo = won, undo
        self._ignores_reservations = False

    @property
    def _resource(self) -> str:
        return ", ".join(self._names)

    def run(self, acquire_timeout_ms: int | None) -> None:
        """Try for this long; None tries for ever. Raises as `Lease.take` does."""
        acquire_timeout = AcquireTimeout(acquire_timeout_ms, self._ttl_ms)
        others = self._context.waiter_pool.expects_others(self._names)
        first = None if others else self._attempt(acquire_timeout)
        if not isinstance(first, Grant):
            self._queue(acquire_timeout, first)

    def _queue(self, acquire_timeout: AcquireTimeout, first: Refusal | None) -> None:
        result: Grant | Refusal | None = first
        waiter, lost_rounds, won = QueuedWaiter(self._context.waiter_pool, self._names, self._ttl_ms), 0, False
        with PendingWait(self._context.waits, self._names, self._owner_label, self._ttl_ms) as wait:
            try:
                if result is None:
                    if acquire_timeout.turn_ms:
                        wait.begin()
                        waiter.queue_first(acquire_timeout.turn_ms)
                        acquire_timeout.node_heard()
                    result = self._attempt(acquire_timeout, waiter)
                while isinstance(result, Refusal):
                    lost_rounds += 1
                    self._rest(acquire_timeout, waiter, wait, result, lost_rounds)
                    result = self._attempt(acquire_timeout, waiter)
                won = True
            finally:
                waiter.end(won=won)

    def _rest(
        self,
        acquire_timeout: AcquireTimeout,
        waiter: QueuedWaiter,
        wait: PendingWait,
        refusal: Refusal,
        lost_rounds: int,
    ) -> None:
        """Sleep until it is worth another attempt, or raise where there is no time for one."""
        failures.refuse_disagreement(self._context.pool.nodes, self._context.pool.codec.fingerprint, refusal)
        failures.refuse_duplicates(self._context.pool.nodes, refusal)
        if refusal.no_quorum and lost_rounds == 1:
            # The first attempt finds out which connections had gone stale; the second one dials.
            return
        left_ms = acquire_timeout.left_ms(refusal)
        pause, wakes = waiter.length_ms(refusal, lost_rounds, random.random())  # noqa: S311 - jitter, not a secret
        if left_ms is not None and (left_ms <= 0 or (pause > left_ms and not wakes)):
            if self._ignores_reservations or not refusal.round_result.is_only_reserved:
                raise self._refused(refusal)
            # The lock is free. The waiter for which it is reserved takes it by the end of the reservation, or is dead.
            self._ignores_reservations = True
            waiter.wait(self._context.reserve_ms, wakes=False)
            return
        self._context.waits.observe_holder(self._names, refusal.round_result.holder)
        wait.begin()
        self._context.event_log.retry(self._resource, self._owner_label, refusal, lost_rounds, pause)
        if not refusal.no_quorum and waiter.join_local_queue(acquire_timeout.turn_ms):
            acquire_timeout.node_heard()
        else:
            waiter.wait(pause if left_ms is None else min(pause, left_ms), wakes=wakes)

    def _refused(self, result: Refusal) -> RedlockError:
        error = failures.error(self._context.pool.nodes, self._resource, result)
        self._context.event_log.refused(self._owner_label, result.round_result, error)
        return error

    def _attempt(self, acquire_timeout: AcquireTimeout, waiter: QueuedWaiter | None = None) -> Grant | Refusal:
        woken = self._ignores_reservations or (waiter is not None and waiter.is_woken)
        waits_ms = acquire_timeout.waits_ms
        token = f"{secrets.token_hex(16)}:{self._owner_label}"
        by = now_ms() + self._context.fresh_ms
        proposed = self._context.proposal(self._names, wall_us())
        attempt = Acquire(self._names, token, self._ttl_ms, proposed, woken, waits_ms, by)
        with self._context.pool.connections() as links:
            try:
                result = links.run(protocol.acquire(attempt), acquire_timeout.until_ms(self._context.node_timeout_ms))
                if result.round_result.largest_fence > proposed:
                    self._context.observe_fence(self._names, result.round_result.backed_fence)
                if isinstance(result, Grant):
                    if result.fence > proposed:
                        self._context.observe_fence(self._names, result.fence)
                    self._won(result, links, now_ms() - acquire_timeout.started_ms)
            except BaseException:
                self._undo()
                with contextlib.suppress(Exception):
                    links.run(protocol.cancel(attempt, attempt.ttl_ms))
                raise
        return result
