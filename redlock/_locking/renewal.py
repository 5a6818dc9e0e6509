"""The renewing thread: one per process and client, for all its leases.

Invariants:
1. It starts with the first lease that wants renewing, so after the fork, and is a daemon.
2. A lease is renewed at a third of its TTL, and after a failure again within the validity that is left. What
   can't be renewed is declared lost when its deadline has come, or when a quorum says that it is gone.
3. Leases that are due together are renewed together, in one exchange with the nodes, a few dozen at a time: so one
   process can keep thousands, and no other thread waits for the connections for long.
4. One lease's trouble never ends the renewal of the others, and `on_lost` runs in another thread.
5. Only weak references are kept here: a lease that its owner has dropped is not renewed.
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
    from redlock._transport.threads import NodeConnections

_TROUBLE_MS = 50
_MOST_TOGETHER = 64
_REMEDY = "raise ttl above the time for which this process runs no other thread, or let its work pause more often"


class RenewedLease(Protocol):
    """The part of a lease that renewal uses."""

    connections: NodeConnections | None
    """The connections that acquired the lease."""
    ttl_ms: int
    """The length of the lease."""

    @property
    def resource(self) -> str:
        """The locked names, for messages."""

    @property
    def is_held(self) -> bool:
        """Whether the lease was acquired and not released."""

    def renewing(self, links: NodeConnections) -> Steps[int | None]:
        """The rounds of one renewal; returns the time of the next, or None."""

    def report_loss(self) -> None:
        """Call `on_lost` if the lease was found lost."""


class Renewal:
    """Leases by the time at which each is due.

    Args:
        driver: Whose nodes hold them.
    """

    def __init__(self, driver: ConnectionPool) -> None:
        self._driver = driver
        self._order = itertools.count()
        self.reset_after_fork()

    def reset_after_fork(self) -> None:
        """In a forked child: the parent's leases and its threads are not ours."""
        self._heap: list[tuple[int, int, weakref.ref[RenewedLease]]] = []
        self._late_is_logged = False
        self._late: dict[str, object] | None = None
        self._added: deque[tuple[int, int, weakref.ref[RenewedLease]]] = deque()
        """Leases that the thread has not put into the heap yet."""
        self._background = Background("redlock-renewal", self._work)
        self.callbacks = Callbacks()

    def close(self) -> None:
        """Renew nothing any more; what is still held runs out with its TTL."""
        self._background.stop()

    def add(self, lease: RenewedLease, due_ms: int) -> None:
        """Look after a lease from this time on, until it is released or lost."""
        self._added.append((due_ms, next(self._order), weakref.ref(lease)))
        self._background.wake(due_ms)

    def _work(self) -> float | None:
        """Renew what is due; the seconds until the next is."""
        while self._added:
            heapq.heappush(self._heap, self._added.popleft())
        while leases := self._due():
            together: dict[NodeConnections | None, list[RenewedLease]] = {}
            for lease in leases:
                together.setdefault(lease.connections, []).append(lease)
            for links, some in together.items():
                self._renew(links, some)
            if self._late is not None and not self._late_is_logged:
                # The first one only: the cause stays, and so would the messages.
                self._late_is_logged = True
                _log.warning("renewal-late", **self._late, remedy=_REMEDY)
            # Names that live on until the next are due would keep dropped leases alive.
            del leases, together, lease, some
        self._drop_what_is_over()
        return max(0.0, (self._heap[0][0] - now_ms()) / 1000) if self._heap else None

    def _renew(self, wanted: NodeConnections | None, leases: list[RenewedLease]) -> None:
        try:
            with self._driver.connections(wanted) as links:
                due_ms = links.run_all([_in_peace(lease, links) for lease in leases])
        except Exception:  # noqa: BLE001 - whatever it is, the other leases must go on
            logger.exception("renewal-failed resource=%s", "; ".join(lease.resource for lease in leases))
            due_ms = [now_ms() + _TROUBLE_MS if lease.is_held else None for lease in leases]
        for lease, due in zip(leases, due_ms, strict=True):
            lease.report_loss()
            if due is not None:
                heapq.heappush(self._heap, (due, next(self._order), weakref.ref(lease)))

    def _due(self) -> list[RenewedLease]:
        leases: list[RenewedLease] = []
        now = now_ms()
        while self._heap and self._heap[0][0] <= now and len(leases) < _MOST_TOGETHER:
            due_ms, _, reference = heapq.heappop(self._heap)
            lease = reference()
            if lease is not None:
                leases.append(lease)
                delay_ms = now - due_ms
                if self._late is None and lease.is_held and delay_ms > renewal_ms(lease.ttl_ms):
                    self._late = {"resource": lease.resource, "delay_ms": delay_ms, "ttl_ms": lease.ttl_ms}
        return leases

    def _drop_what_is_over(self) -> None:
        """Most leases are given back long before they are due: else this thread would wake up once for each."""
        while self._heap:
            lease = self._heap[0][2]()
            if lease is not None and lease.is_held:
                return
            heapq.heappop(self._heap)


def _in_peace(lease: RenewedLease, links: NodeConnections) -> Steps[int | None]:
    """A lease's turn, whose trouble is its own."""
    try:
        return (yield from lease.renewing(links))
    except Exception:  # noqa: BLE001 - whatever it is, the other leases must go on
        logger.exception("renewal-failed resource=%s", lease.resource)
        return now_ms() + _TROUBLE_MS if lease.is_held else None
