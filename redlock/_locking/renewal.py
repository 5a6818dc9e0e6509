"""The renewal thread of a client, for all its leases.

Invariants:
1. The thread is a daemon and starts with the first lease that needs renewal, so after a fork.
2. A lease is renewed at a third of its TTL. After a failure the thread tries again within the remaining validity. A
   lease is declared lost at its deadline, or as soon as a quorum reports that the lease is gone.
3. Leases that are due together are renewed in one exchange with the nodes, at most 64 at a time. So one process can
   keep thousands of leases, and no other thread waits long for the connections.
4. The failure of one lease never ends the renewal of the others. `on_lost` runs in another thread.
5. The thread keeps weak references only: a lease that its owner has dropped is not renewed.
"""

from __future__ import annotations

import heapq
import itertools
import weakref
from collections import deque
from typing import TYPE_CHECKING, Protocol

from redlock import _log
from redlock._background import Background, Callbacks
from redlock._clock import now_ms
from redlock._core.backoff import renewal_ms
from redlock._log import logger

if TYPE_CHECKING:
    from redlock._core.protocol import Steps
    from redlock._transport.pool import ConnectionPool
    from redlock._transport.threads import ConnectionSet

_RETRY_MS = 50
_LARGEST_BATCH = 64
_REMEDY = "raise ttl above the time for which this process runs no other thread, or let its work pause more often"


class RenewedLease(Protocol):
    """The part of a lease that renewal uses."""

    connections: ConnectionSet | None
    """The connections that acquired the lease."""
    ttl_ms: int
    """The length of the lease."""

    @property
    def resource(self) -> str:
        """The locked names, for messages."""

    @property
    def is_held(self) -> bool:
        """Whether the lease was acquired and not released."""

    def renewing(self, connections: ConnectionSet) -> Steps[int | None]:
        """The rounds of one renewal; returns the time of the next renewal, or None."""

    def report_loss(self) -> None:
        """Call `on_lost` if the lease is known to be lost."""


class Renewal:
    """The leases of one client, ordered by the time of their next renewal.

    Args:
        pool: The connections of the client.
    """

    def __init__(self, pool: ConnectionPool) -> None:
        self._pool = pool
        self._order = itertools.count()
        self.reset_after_fork()

    def reset_after_fork(self) -> None:
        """In a forked child: drop the leases and threads of the parent."""
        self._heap: list[tuple[int, int, weakref.ref[RenewedLease]]] = []
        self._late_is_logged = False
        self._late: dict[str, object] | None = None
        self._added: deque[tuple[int, int, weakref.ref[RenewedLease]]] = deque()
        """Leases that the thread has not put into the heap yet."""
        self._background = Background("redlock-renewal", self._work)
        self.callbacks = Callbacks()

    def close(self) -> None:
        """Stop all renewal. Leases that are still held end with their TTL."""
        self._background.stop()

    def add(self, lease: RenewedLease, due_ms: int) -> None:
        """Renew a lease from this time on, until the lease is released or lost."""
        self._added.append((due_ms, next(self._order), weakref.ref(lease)))
        self._background.wake(due_ms)

    def _work(self) -> float | None:
        """Renew the leases that are due; returns the seconds until the next renewal."""
        while self._added:
            heapq.heappush(self._heap, self._added.popleft())
        while leases := self._due():
            groups: dict[ConnectionSet | None, list[RenewedLease]] = {}
            for lease in leases:
                groups.setdefault(lease.connections, []).append(lease)
            for connections, group in groups.items():
                self._renew(connections, group)
            if self._late is not None and not self._late_is_logged:
                # Only the first delay is logged: the cause stays, and each further message would be the same.
                self._late_is_logged = True
                _log.warning("renewal-late", **self._late, remedy=_REMEDY)
            # Without this, the names would keep dropped leases alive until the next renewal.
            del leases, groups, lease, group
        self._drop_ended_leases()
        return max(0.0, (self._heap[0][0] - now_ms()) / 1000) if self._heap else None

    def _renew(self, wanted: ConnectionSet | None, leases: list[RenewedLease]) -> None:
        try:
            with self._pool.connections(wanted) as connections:
                due_ms = connections.run_all([_isolated(lease, connections) for lease in leases])
        except Exception:  # noqa: BLE001 - after any error the leases stay due, or nothing renews them
            logger.exception("renewal-failed resource=%s", "; ".join(lease.resource for lease in leases))
            due_ms = [now_ms() + _RETRY_MS if lease.is_held else None for lease in leases]
        for lease, due in zip(leases, due_ms, strict=True):
            lease.report_loss()
            if due is not None:
                heapq.heappush(self._heap, (due, next(self._order), weakref.ref(lease)))

    def _due(self) -> list[RenewedLease]:
        leases: list[RenewedLease] = []
        now = now_ms()
        while self._heap and self._heap[0][0] <= now and len(leases) < _LARGEST_BATCH:
            due_ms, _, reference = heapq.heappop(self._heap)
            lease = reference()
            if lease is not None:
                leases.append(lease)
                delay_ms = now - due_ms
                if self._late is None and lease.is_held and delay_ms > renewal_ms(lease.ttl_ms):
                    self._late = {"resource": lease.resource, "delay_ms": delay_ms, "ttl_ms": lease.ttl_ms}
        return leases

    def _drop_ended_leases(self) -> None:
        """Remove ended leases from the front: most leases end long before they are due, and need no wake-up."""
        while self._heap:
            lease = self._heap[0][2]()
            if lease is not None and lease.is_held:
                return
            heapq.heappop(self._heap)


def _isolated(lease: RenewedLease, connections: ConnectionSet) -> Steps[int | None]:
    """The renewal of one lease, whose errors do not reach the other leases."""
    try:
        return (yield from lease.renewing(connections))
    except Exception:  # noqa: BLE001 - any error would end the renewal of the other leases too
        logger.exception("renewal-failed resource=%s", lease.resource)
        return now_ms() + _RETRY_MS if lease.is_held else None
