"""The renewal of a lease in its event loop, and the report of its loss.

Invariants:
1. A timer of the loop renews the lease at a third of its TTL, and soon again after a failure. No task runs for this.
2. The timer has a weak reference: a lease that its owner has dropped is not renewed.
3. A lease with `on_lost` has a timer for its end if it is not renewed.
"""

from __future__ import annotations

import functools
import weakref
from typing import TYPE_CHECKING

from redlock._clock import now_ms
from redlock._core.backoff import renewal_ms, retry_ms
from redlock._locking.lease_steps import LeaseSteps
from redlock._log import logger
from redlock.errors import LockLost, QuorumUnavailable

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

    from redlock._core.commands import Names
    from redlock._core.protocol import Steps
    from redlock._locking.options import LeaseOptions
    from redlock._transport.asyncio import Execution
    from redlock.asyncio._cancel_scope import CancelScope
    from redlock.asyncio._loop_parts import LoopContext, LoopParts

_BUSY_MS = 10
"""The time until the next try of a renewal if the lease is being extended at this moment."""
_RETRY_MS = 50


class WatchedLease(LeaseSteps):
    """The base class of the asyncio `Lease`: its timer and the report of its loss."""

    def __init__(
        self, context: LoopContext, names: Names, options: LeaseOptions, owner_label: str, *, is_block: bool
    ) -> None:
        super().__init__(context, names, options, owner_label, is_block=is_block)
        self._loop_context, self._parts = context, context.parts()
        self.scope: CancelScope | None = None
        """The block that a loss cancels."""
        self._step: Execution[None] | Execution[int | None] | None = None
        """The extension or renewal that is under way."""
        self._timer: asyncio.TimerHandle | None = None

    def _watch(self, due_ms: int) -> None:
        """Renew the lease at this time, or notice its end."""
        # A lease that its owner has dropped is not renewed.
        due = functools.partial(_due, weakref.ref(self), due_ms)
        self._timer = self._parts.loop.call_later(max(0, due_ms - now_ms()) / 1000, due)
        self._parts.watched.add(self)

    def stop_watch(self) -> None:
        """End the renewal. The lease ends with its TTL."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._step is not None:
            # Its repair could follow a release, and bring the keys back.
            self._step.abort()
            self._step.future.cancel()
            self._step = None
        self._parts.watched.discard(self)

    def check(self, due_ms: int) -> None:
        """Renew the lease, or notice that it has ended; called when this is due."""
        if self._grant is None or self._lost or self._parts.connections.is_closed:
            return
        if not self._renew:
            if now_ms() >= self._grant.deadline_ms:
                self._declare_lost("its time was over")
                self.report_loss()
            else:
                self._watch(self._grant.deadline_ms)
            return
        delay_ms = now_ms() - due_ms
        if delay_ms > renewal_ms(self.ttl_ms):
            self._parts.report_late(self.resource, delay_ms, self.ttl_ms)
        if self._step is not None:
            self._watch(now_ms() + _BUSY_MS)
            return
        step = self._step = self._parts.connections.start(self._one_renewal())
        step.future.add_done_callback(functools.partial(self._renewed, step))

    def _one_renewal(self) -> Steps[int | None]:
        try:
            due_ms = yield from self._renewing()
        except (LockLost, QuorumUnavailable):
            due_ms = now_ms() + retry_ms(self._remaining_ms())
        return due_ms if self._grant is not None and not self._lost else None

    def _renewed(self, step: Execution[int | None], future: asyncio.Future[int | None]) -> None:
        if self._step is step:
            self._step = None
        if future.cancelled() or self._parts.connections.is_closed:
            return
        error = future.exception()
        if error is not None:
            logger.error("renewal-failed resource=%s", self.resource, exc_info=error)
        self.report_loss()
        due_ms = now_ms() + _RETRY_MS if error is not None else future.result()
        if due_ms is not None and self._grant is not None:
            self._watch(due_ms)

    def report_loss(self) -> None:
        """Call `on_lost` once, and the `on_lost` of each re-entrant block."""
        if self._is_loss_reported:
            return
        self._is_loss_reported = True
        for lease in (self, *self.live_entries()):
            if isinstance(lease, WatchedLease):
                lease._tell_loss(self._parts)  # noqa: SLF001 - of this class

    def _tell_loss(self, parts: LoopParts) -> None:
        if self.scope is not None:
            self.scope.cancel()
        on_lost: Callable[[WatchedLease], object] | None = self._on_lost
        if on_lost is not None:
            parts.call(self.resource, functools.partial(on_lost, self))


def _due(reference: weakref.ref[WatchedLease], due_ms: int) -> None:
    lease = reference()
    if lease is not None:
        lease.check(due_ms)
