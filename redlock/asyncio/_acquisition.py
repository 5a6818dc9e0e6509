"""Acquire loop of a task: repeats attempts until the lock is acquired or the timeout expires.

The rules are those of `redlock._locking.acquisition`.

Invariants:
1. The owner token exists before the first byte is sent. A cancellation at any `await` cancels the attempt: the keys
   that the attempt set are deleted on each node that can be reached.
2. Between a won round and the caller there is no `await`.
3. Each attempt has a fresh owner token. Between two attempts the loop sleeps in the wait queue, where a release wakes
   the first waiter.
"""

from __future__ import annotations

import random
import secrets
from typing import TYPE_CHECKING

from redlock._clock import now_ms, wall_us
from redlock._core import protocol
from redlock._core.commands import Acquire, Release, Round
from redlock._core.votes import Grant, Refusal
from redlock._locking import failures
from redlock._locking.acquire_timeout import AcquireTimeout
from redlock._locking.wait_registry import PendingWait
from redlock.asyncio._wait_queue import QueuedTask

if TYPE_CHECKING:
    from collections.abc import Callable

    from redlock._core.commands import Names
    from redlock.asyncio._loop_parts import LoopContext, LoopParts
    from redlock.errors import RedlockError


class Acquisition:
    """The acquisition of one lease.

    Args:
        context: The client.
        parts: The parts of the running loop.
        names: The resources.
        ttl_ms: The length of the lease.
        owner_label: The readable part of the owner token.
        on_granted: Called with the grant and the waiting time, in the same step of the task that receives the grant.
    """

    def __init__(
        self,
        context: LoopContext,
        parts: LoopParts,
        names: Names,
        ttl_ms: int,
        owner_label: str,
        *,
        on_granted: Callable[[Grant, int], None],
    ) -> None:
        self._context, self._parts = context, parts
        self._names, self._ttl_ms, self._owner_label = names, ttl_ms, owner_label
        self._on_granted = on_granted
        self._ignores_reservations = False

    @property
    def _resource(self) -> str:
        return ", ".join(self._names)

    async def run(self, acquire_timeout_ms: int | None) -> None:
        """Try for this long; None for no limit. Raises the errors of `Lock.acquire`."""
        acquire_timeout, first = AcquireTimeout(acquire_timeout_ms, self._ttl_ms), None
        # A task that finds its own process holding the lock or waiting joins the queue before it asks a node.
        if not (self._parts.is_occupied(self._names) or self._parts.waiters.expects_others(self._names)):
            first = await self._attempt(acquire_timeout)
        if not isinstance(first, Grant):
            await self._queue(acquire_timeout, first)

    async def _queue(self, acquire_timeout: AcquireTimeout, first: Refusal | None) -> None:
        result: Grant | Refusal | None = first
        queued, lost_rounds, acquired = QueuedTask(self._parts.waiters, self._names, self._ttl_ms), 0, False
        with PendingWait(self._parts.waits, self._names, self._owner_label, self._ttl_ms) as wait:
            try:
                if result is None:
                    if acquire_timeout.turn_ms:
                        wait.begin()
                        await queued.queue_first(acquire_timeout.turn_ms)
                        acquire_timeout.node_heard()
                    result = await self._attempt(acquire_timeout, queued)
                while isinstance(result, Refusal):
                    lost_rounds += 1
                    await self._pause(acquire_timeout, queued, wait, result, lost_rounds)
                    result = await self._attempt(acquire_timeout, queued)
                acquired = True
            finally:
                queued.end(acquired=acquired)

    async def _pause(
        self,
        acquire_timeout: AcquireTimeout,
        queued: QueuedTask,
        wait: PendingWait,
        refusal: Refusal,
        lost_rounds: int,
    ) -> None:
        """Sleep until the next attempt; raise if the time is too short for another attempt."""
        failures.refuse_disagreement(self._context.nodes, self._context.codec.fingerprint, refusal)
        failures.refuse_duplicates(self._context.nodes, refusal)
        if refusal.no_quorum and lost_rounds == 1:
            # The first attempt detects stale connections; the second attempt opens new ones.
            return
        left_ms = acquire_timeout.left_ms(refusal)
        pause_ms, can_wake = queued.sleep_ms(refusal, lost_rounds, random.random())  # noqa: S311 - jitter, not a secret
        if left_ms is not None and (left_ms <= 0 or (pause_ms > left_ms and not can_wake)):
            if self._ignores_reservations or not refusal.round_result.is_only_reserved:
                raise self._refused(refusal)
            # The lock is free but reserved. Its waiter acquires the lock by the end of the reservation, or is dead.
            self._ignores_reservations = True
            await queued.wait(self._context.reserve_ms, can_wake=False)
            return
        self._parts.waits.observe_holder(self._names, refusal.round_result.holder)
        wait.begin()
        self._context.event_log.retry(self._resource, self._owner_label, refusal, lost_rounds, pause_ms)
        if not refusal.no_quorum and await queued.join_local_queue(acquire_timeout.turn_ms):
            acquire_timeout.node_heard()
        else:
            await queued.wait(pause_ms if left_ms is None else min(pause_ms, left_ms), can_wake=can_wake)

    def _refused(self, result: Refusal) -> RedlockError:
        error = failures.error(self._context.nodes, self._resource, result)
        self._context.event_log.refused(self._owner_label, result.round_result, error)
        return error

    async def _attempt(self, acquire_timeout: AcquireTimeout, queued: QueuedTask | None = None) -> Grant | Refusal:
        with self._parts.attempt(self._names):
            await self._parts.window.enter()
            try:
                return await self._ask(acquire_timeout, is_woken=queued is not None and queued.is_woken)
            finally:
                self._parts.window.leave()

    async def _ask(self, acquire_timeout: AcquireTimeout, *, is_woken: bool) -> Grant | Refusal:
        context, connections = self._context, self._parts.connections
        woken, waits_ms = self._ignores_reservations or is_woken, acquire_timeout.waits_ms
        token = f"{secrets.token_hex(16)}:{self._owner_label}"
        fresh_until_ms = now_ms() + context.fresh_ms
        proposed = context.proposal(self._names, wall_us())
        attempt = Acquire(self._names, token, self._ttl_ms, proposed, woken, waits_ms, fresh_until_ms)
        undo = Round(Release(self._names, token, self._ttl_ms))
        until_ms = acquire_timeout.until_ms(context.node_timeout_ms)
        result = await connections.run(protocol.acquire(attempt), until_ms, undo)
        # From here to the return nothing is awaited.
        try:
            if result.round_result.largest_fence > proposed:
                context.observe_fence(self._names, result.round_result.backed_fence)
            if isinstance(result, Grant):
                if now_ms() >= result.deadline_ms:
                    # The loop was blocked while the grant was waiting for this task.
                    connections.post(undo)
                    return Refusal(result.round_result, expired=True)
                if result.fence > proposed:
                    context.observe_fence(self._names, result.fence)
                self._on_granted(result, now_ms() - acquire_timeout.started_ms)
        except BaseException:
            connections.post(undo)
            raise
        return result
