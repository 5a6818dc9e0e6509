"""The renewal thread of a client, for all its leases: the driver for threads of the renewal schedule.

Invariants:
1. The thread is a daemon and starts with the first lease that needs renewal, so after a fork.
2. Leases that are due together and use the same connections share an exchange with the nodes.
3. The failure of a lease never ends the renewal of the other leases. `on_lost` runs in another thread.
"""

from __future__ import annotations

import weakref
from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING

from redlock._background import Background, Callbacks
from redlock._clock import now_ms
from redlock._locking.renewal_schedule import RenewalSchedule

if TYPE_CHECKING:
    from redlock._core.protocol import Steps
    from redlock._locking.lease_steps import LeaseSteps
    from redlock._transport.pool import ConnectionPool
    from redlock._transport.threads import ConnectionSet

_REMEDY = "raise ttl above the time for which this process runs no other thread, or let its work pause more often"
_MOST_ADDED = 1_000
"""So many new leases wait for the thread to wake; most of them end before that."""


class Renewal:
    """The renewed leases of a client."""

    def __init__(self, pool: ConnectionPool) -> None:
        self._pool = pool
        self.reset_after_fork()

    def reset_after_fork(self) -> None:
        """In a forked child: drop the leases and threads of the parent."""
        self._forget_leases()
        self._background = Background("redlock-renewal", self._work)
        self.callbacks = Callbacks()

    def _forget_leases(self) -> None:
        self._schedule: RenewalSchedule[LeaseSteps] = RenewalSchedule(_REMEDY)
        self._added: deque[tuple[weakref.ref[LeaseSteps], int]] = deque()
        """Leases that the thread has not put into the schedule yet."""

    def close(self) -> None:
        """Stop all renewal. Leases that are still held end with their TTL, also if the client is used again."""
        self._background.stop()
        self._forget_leases()

    def add(self, lease: LeaseSteps, due_ms: int) -> None:
        """Renew a lease from this time on, until the lease is released or lost."""
        added = weakref.ref(lease), due_ms
        self._added.append(added)
        try:
            self._background.wake(due_ms if len(self._added) < _MOST_ADDED else 0)
        except BaseException:
            # The lease can be acquired again, and a second entry would renew it twice. Other threads use the queue too.
            with suppress(ValueError, IndexError):
                self._added.remove(added)
            raise

    def _work(self) -> float | None:
        """Renew the leases that are due; returns the seconds until the next renewal."""
        schedule = self._schedule
        while self._added:
            schedule.add(*self._added.popleft())
        schedule.recover(now_ms())
        while leases := schedule.take(now_ms()):
            groups: dict[ConnectionSet | None, list[LeaseSteps]] = {}
            for lease in leases:
                groups.setdefault(lease._connections, []).append(lease)
            for connections, group in groups.items():
                self._renew(connections, group)
        schedule.report_late()
        due_ms = schedule.next_ms()
        return None if due_ms is None else max(0.0, (due_ms - now_ms()) / 1000)

    def _renew(self, wanted: ConnectionSet | None, leases: list[LeaseSteps]) -> None:
        try:
            with self._pool.connections(wanted) as connections:
                results = connections.run_all([_isolated(lease, connections) for lease in leases])
        except Exception as error:  # noqa: BLE001 - without a free descriptor or thread only this group waits
            self._schedule.failed(leases, error, now_ms())
            return
        for lease, result in zip(leases, results, strict=True):
            if isinstance(result, Exception):
                self._schedule.failed([lease], result, now_ms())
            else:
                self._schedule.renewed(lease, result)


def _isolated(lease: LeaseSteps, connections: ConnectionSet) -> Steps[int | Exception | None]:
    """The renewal of a lease. Its error is a result, and does not end the rounds of the other leases."""
    try:
        return (yield from lease._renewal(connections))
    except Exception as error:  # noqa: BLE001 - a failing log handler must not end the rounds of other leases
        return error
