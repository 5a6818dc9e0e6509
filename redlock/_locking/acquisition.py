"""Acquire loop: repeats attempts until the lock is acquired or the timeout expires.

Invariants:
1. The loop is a generator of effects, which a driver performs.
2. The owner token exists before the first byte is sent. Any exception, even from a signal handler, cancels the attempt:
   the keys that the attempt set are deleted on each node that can be reached. A node keeps its key for the TTL if the
   exception interrupts the send to this node.
3. Each attempt has a fresh owner token. Between two attempts the loop sleeps in the wait queue, where a release wakes
   the first waiter.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

from redlock import _chance
from redlock._clock import now_ms, wall_us
from redlock._core import protocol
from redlock._core.commands import Acquire
from redlock._core.votes import Grant, Refusal
from redlock._locking import failures
from redlock._locking.acquire_timeout import AcquireTimeout
from redlock._locking.effects import TakeConnections
from redlock._locking.wait_queue import QueuedWaiter
from redlock._locking.wait_registry import PendingWait

if TYPE_CHECKING:
    from redlock._locking.effects import Effects
    from redlock._locking.lease_steps import LeaseSteps
    from redlock._locking.wait_registry import WaitRegistry
    from redlock._locking.waiter_pool import WaitingConnections


class Acquisition:
    """The acquisition of one lease.

    Args:
        lease: The lease. Its `_accept_grant` is called before anything else can use the connections. On any exception,
            also after that call, the attempt is cancelled and `_undo` is called.
        acquire_timeout_ms: How long to try, from now on; None for no limit.
    """

    def __init__(self, lease: LeaseSteps, acquire_timeout_ms: int | None) -> None:
        self._lease, self._context = lease, lease._context
        self._waiters: WaitingConnections[Any] = lease._parts.waiters
        self._waits: WaitRegistry = lease._parts.waits
        self._names, self._ttl_ms, self._owner_label = lease.names, lease.ttl_ms, lease._owner_label
        self._timeout = AcquireTimeout(acquire_timeout_ms, self._ttl_ms)
        self._ignores_reservations = False

    def steps(self) -> Effects[None]:
        """Acquire the lease. Raises the errors of `Lease.acquire`."""
        others = self._waiters.expects_others(self._names)
        first = None if others else (yield from self._attempt())
        if not isinstance(first, Grant):
            yield from self._queue(first)

    def _queue(self, first: Refusal | None) -> Effects[None]:
        result: Grant | Refusal | None = first
        waiter = QueuedWaiter(self._waiters, self._names, self._ttl_ms)
        lost_rounds, acquired, can_perform = 0, False, True
        with PendingWait(self._waits, self._lease) as wait:
            try:
                if result is None:
                    if self._timeout.turn_ms:
                        wait.begin()
                        yield from waiter.queue_first(self._timeout.turn_ms)
                        self._timeout.node_heard()
                    result = yield from self._attempt(waiter)
                while isinstance(result, Refusal):
                    lost_rounds += 1
                    yield from self._pause(waiter, wait, result, lost_rounds)
                    result = yield from self._attempt(waiter)
                acquired = True
            except GeneratorExit:
                # The driver has ended and performs nothing more.
                can_perform = False
                raise
            finally:
                if can_perform:
                    yield from waiter.return_connection(acquired=acquired)
                waiter.leave()

    def _pause(self, waiter: QueuedWaiter, wait: PendingWait, refusal: Refusal, lost_rounds: int) -> Effects[None]:
        """Sleep until the next attempt; raise if the time is too short for another attempt."""
        failures.refuse_disagreement(self._context.nodes, self._context.codec.fingerprint, refusal)
        failures.refuse_duplicates(self._context.nodes, refusal)
        if refusal.no_quorum and lost_rounds == 1:
            # The first attempt detects stale connections; the second attempt opens new ones.
            return
        left_ms = self._timeout.left_ms(refusal)
        pause_ms, can_wake = waiter.sleep_ms(refusal, lost_rounds, _chance.fraction())
        if left_ms is not None and (left_ms <= 0 or (pause_ms > left_ms and not can_wake)):
            until_ms, reserve_ms = self._timeout.until_ms(self._context.node_timeout_ms), self._context.reserve_ms
            is_in_time = until_ms is None or now_ms() + reserve_ms < until_ms
            if self._ignores_reservations or not (refusal.round_result.is_only_reserved and is_in_time):
                raise self._context.event_log.refused(
                    self._owner_label,
                    refusal.round_result,
                    failures.error(self._context.nodes, self._lease.resource, refusal),
                )
            # The lock is free but reserved. Its waiter acquires the lock by the end of the reservation, or is dead.
            self._ignores_reservations = True
            yield from waiter.wait(reserve_ms, can_wake=False)
            return
        self._waits.observe_holder(self._names, refusal.round_result.holder)
        wait.begin()
        self._context.event_log.retry(self._lease.resource, self._owner_label, refusal, lost_rounds, pause_ms)
        if not refusal.no_quorum and (yield from waiter.join_local_queue(self._timeout.turn_ms)):
            self._timeout.node_heard()
        else:
            yield from waiter.wait(pause_ms if left_ms is None else min(pause_ms, left_ms), can_wake=can_wake)

    def _attempt(self, waiter: QueuedWaiter | None = None) -> Effects[Grant | Refusal]:
        woken = self._ignores_reservations or (waiter is not None and waiter.is_woken)
        timeout = self._timeout
        token = f"{_chance.secret()}:{self._owner_label}"
        fresh_until_ms = now_ms() + self._context.fresh_ms
        proposed = self._context.proposal(self._names, wall_us())
        attempt = Acquire(self._names, token, self._ttl_ms, proposed, woken, timeout.waits_ms, fresh_until_ms)
        connections = yield TakeConnections(timeout.until_ms(self._context.node_timeout_ms))
        try:
            result = yield from protocol.acquire(attempt)
            if result.round_result.largest_fence > proposed:
                self._context.observe_fence(self._names, result.round_result.backed_fence)
            if isinstance(result, Grant):
                now = now_ms()
                if now >= result.deadline_ms:
                    # This code was stopped after the round.
                    yield from protocol.cancel(attempt, attempt.ttl_ms)
                    return Refusal(result.round_result, expired=True)
                self._lease._accept_grant(result, connections, now - timeout.started_ms)
        except GeneratorExit:
            self._lease._undo()
            raise
        except BaseException:
            self._lease._undo()
            with contextlib.suppress(Exception):
                yield from protocol.cancel(attempt, attempt.ttl_ms)
            raise
        return result
