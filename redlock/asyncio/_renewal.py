"""The renewal of the leases of an event loop: the driver for asyncio of the renewal schedule.

Invariants:
1. A single timer of the loop serves all leases, and no task runs for this.
2. Leases that are due together share an exchange with the nodes.
3. After `close` no lease is renewed and nothing is sent. The end of a lease is noticed, if any code asks for it.
4. An exception of a signal handler can interrupt each callback: the leases that are under way are due again soon then.
5. Renewal runs in an empty context. That of the task that set the timer belongs to another lease, and would stay.
"""

from __future__ import annotations

import functools
import weakref
from contextvars import Context
from typing import TYPE_CHECKING, Any, NoReturn

from redlock._clock import now_ms
from redlock._core import protocol
from redlock._locking.lease_steps import LeaseSteps
from redlock._locking.renewal_schedule import RenewalSchedule

if TYPE_CHECKING:
    import asyncio

    from redlock._core.commands import Round
    from redlock._transport.asyncio import Execution, LoopConnections

_LATE_MS = 1_000
_REMEDY = "raise ttl above the time for which this event loop is blocked, or let its tasks pause more often"


class LoopLease(LeaseSteps):
    """A lease whose steps an event loop executes."""

    _step: Execution[Any] | None = None
    """The extension or renewal that was begun last; its generator or its task has the turn of the mutex."""

    def _stop_step(self) -> None:
        """End the extension or renewal that is under way: its repair could follow a release, and restore the keys."""
        if self._step is not None:
            self._step.abort()
            self._step.future.cancel()
            self._step = None

    def _end_renewal(self) -> int | None:
        """Renew no more; the time at which to notice the end of the lease, None if no code would hear of the end."""
        self._is_renewed = self._is_watched = False
        is_heard = any(lease._hears_of_loss for lease in (self, *self._live_entries()))
        return self._held().deadline_ms if is_heard else None


class LoopRenewal:
    """The leases of an event loop that are renewed, and the leases with an end that is noticed."""

    def __init__(self, connections: LoopConnections) -> None:
        self._connections = connections
        self._schedule: RenewalSchedule[LoopLease] = RenewalSchedule(_REMEDY)
        self._timer: asyncio.TimerHandle | None = None
        self._timer_ms = 0
        """When the timer is due."""
        self._is_closed = False

    def add(self, lease: LoopLease, due_ms: int) -> None:
        """Renew a lease from this time on, until the lease is released or lost."""
        end_ms = lease._end_renewal() if self._is_closed else due_ms
        if end_ms is not None:
            self._schedule.add(weakref.ref(lease), end_ms)
            self._set_timer()

    def close(self) -> None:
        """Stop all renewal. Leases that are still held end with their TTL, and `on_lost` hears of that."""
        self._is_closed = True
        self._stop_timer()
        for lease in self._schedule.under_way():
            # Not the extension of an application, which ends with the connections at the latest.
            lease._stop_step()
        leases, self._schedule = self._schedule.held(), RenewalSchedule(_REMEDY)
        for lease in leases:
            self.add(lease, 0)

    def _set_timer(self) -> None:
        due_ms, now = self._schedule.next_ms(), now_ms()
        if due_ms is None:
            return
        due_ms, last = max(due_ms, now), self._timer
        # A timer that is so late was interrupted at its very start, where no code can see the exception.
        if last is not None and self._timer_ms <= due_ms and now - self._timer_ms < _LATE_MS:
            return
        # In this order: an exception between these lines leaves a timer.
        self._timer = self._connections.loop.call_later((due_ms - now) / 1000, self._work, context=Context())
        self._timer_ms = due_ms
        if last is not None:
            last.cancel()

    def _stop_timer(self) -> None:
        last, self._timer = self._timer, None
        if last is not None:
            last.cancel()

    def _work(self) -> None:
        """Begin the renewals that are due."""
        try:
            self._stop_timer()
            for lease in self._schedule.take(now_ms()):
                self._begin_renewal(lease)
            self._set_timer()
            self._schedule.report_late()
        except BaseException:
            self._recover()
            raise

    def _recover(self) -> None:
        """A signal handler of the application has raised an exception."""
        self._stop_timer()
        self._schedule.recover(now_ms())
        self._set_timer()

    def _begin_renewal(self, lease: LoopLease) -> None:
        try:
            if self._is_closed:
                self._schedule.renewed(lease, protocol.run(lease._renewal(None), _refuse_round))
                return
            step = self._connections.start(lease._renewal(None))
        except Exception as error:  # noqa: BLE001 - after a failing log handler no lease would be due again
            self._schedule.failed([lease], error, now_ms())
            return
        if not step.future.done():
            lease._step = step
        step.future.add_done_callback(functools.partial(self._ended, lease))

    def _ended(self, lease: LoopLease, future: asyncio.Future[int | None]) -> None:
        try:
            if self._is_closed:
                return
            error = None if future.cancelled() else future.exception()
            if error is not None:
                self._schedule.failed([lease], error, now_ms())
            else:
                self._schedule.renewed(lease, None if future.cancelled() else future.result())
            self._set_timer()
        except BaseException:
            self._recover()
            raise


def _refuse_round(_: Round) -> NoReturn:
    raise AssertionError("a lease that is not renewed needs no round")
