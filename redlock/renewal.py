"""The renewing thread: one per process and client, for all its leases.

Rules of this file:
1. It starts with the first lease that wants renewing, so after the fork, and is a daemon.
2. A lease is renewed at a third of its TTL, and after a failure again within the validity that is left. What
   can't be renewed is declared lost when its deadline has come, or when a quorum says that it is gone.
3. Leases that are due together are renewed together, in one exchange with the nodes, a few dozen at a time: so one
   process can keep thousands, and nobody who wants the connections meanwhile waits for long.
4. One lease's trouble never ends the renewal of the others.
5. A lease that nobody can reach any more is not renewed: only weak references are kept here.
"""

from __future__ import annotations

import heapq
import itertools
import threading
import weakref
from typing import TYPE_CHECKING

from redlock import log
from redlock.clock import now_ms
from redlock.log import logger
from redlock.waiting import renewal_ms

if TYPE_CHECKING:
    from redlock.driver import Driver
    from redlock.lease import Lease
    from redlock.protocol import Steps
    from redlock.sync import Links

_IDLE_SECONDS = 60.0
_TROUBLE_MS = 50
_MOST_TOGETHER = 64
_REMEDY = "raise ttl above the time for which this process runs no other thread, or let its work pause more often"


class Renewal:
    """Leases by the time at which each is due.

    Args:
        driver: Whose nodes hold them.
    """

    def __init__(self, driver: Driver) -> None:
        self._driver = driver
        self.forget()

    def forget(self) -> None:
        """In a forked child: the parent's leases and its thread are not ours."""
        self._heap: list[tuple[int, int, weakref.ref[Lease]]] = []
        self._order = itertools.count()
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._closed = self._late_is_logged = False
        self._late: dict[str, object] | None = None

    def close(self) -> None:
        """Renew nothing any more; what is still held runs out with its TTL."""
        with self._changed:
            self._closed = True
            self._changed.notify()

    def add(self, lease: Lease, due_ms: int) -> None:
        """Look after a lease from this time on, until it is released or lost."""
        with self._changed:
            self._closed = False
            entry = (due_ms, next(self._order), weakref.ref(lease))
            heapq.heappush(self._heap, entry)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="redlock-renewal", daemon=True)
                self._thread.start()
            elif self._heap[0] is entry:
                self._changed.notify()

    def _run(self) -> None:
        while leases := self._next():
            together: dict[Links | None, list[Lease]] = {}
            for lease in leases:
                together.setdefault(lease.links, []).append(lease)
            for links, some in together.items():
                self._renew(links, some)
            if self._late is not None and not self._late_is_logged:
                # The first one only: the cause stays, and so would the messages.
                self._late_is_logged = True
                log.warning("renewal-late", **self._late, remedy=_REMEDY)
            # Names that live on until the next are due would keep dropped leases alive.
            del leases, together, lease, some

    def _renew(self, wanted: Links | None, leases: list[Lease]) -> None:
        try:
            with self._driver.links(wanted) as links:
                due_ms = links.run_all([_in_peace(lease) for lease in leases])
        except Exception:  # noqa: BLE001 - whatever it is, the other leases must go on
            logger.exception("renewal-failed resource=%s", "; ".join(lease.resource for lease in leases))
            due_ms = [now_ms() + _TROUBLE_MS if lease.held else None for lease in leases]
        for lease, due in zip(leases, due_ms, strict=True):
            try:
                lease.tell_of_loss()
            except Exception:  # noqa: BLE001 - as above
                logger.exception("renewal-failed resource=%s", lease.resource)
            if due is not None:
                self.add(lease, due)

    def _next(self) -> list[Lease]:
        """The next leases when the first of them is due; none after a while without any, which ends the thread."""
        with self._changed:
            while not self._closed:
                self._drop_what_is_over()
                if not self._heap:
                    if self._changed.wait(_IDLE_SECONDS) or self._heap:
                        continue
                    break
                wait_ms = self._heap[0][0] - now_ms()
                if wait_ms > 0:
                    self._changed.wait(wait_ms / 1000)
                elif leases := self._due():
                    return leases
            self._thread = None
            return []

    def _due(self) -> list[Lease]:
        leases: list[Lease] = []
        now = now_ms()
        while self._heap and self._heap[0][0] <= now and len(leases) < _MOST_TOGETHER:
            due_ms, _, reference = heapq.heappop(self._heap)
            lease = reference()
            if lease is not None:
                leases.append(lease)
                delay_ms = now - due_ms
                if self._late is None and lease.held and delay_ms > renewal_ms(lease.ttl_ms):
                    self._late = {"resource": lease.resource, "delay_ms": delay_ms, "ttl_ms": lease.ttl_ms}
        return leases

    def _drop_what_is_over(self) -> None:
        """Most leases are given back long before they are due: else this thread would wake up once for each."""
        while self._heap:
            lease = self._heap[0][2]()
            if lease is not None and lease.held:
                return
            heapq.heappop(self._heap)


def _in_peace(lease: Lease) -> Steps[int | None]:
    """A lease's turn, whose trouble is its own."""
    try:
        return (yield from lease.renewing())
    except Exception:  # noqa: BLE001 - whatever it is, the other leases must go on
        logger.exception("renewal-failed resource=%s", lease.resource)
        return now_ms() + _TROUBLE_MS if lease.held else None
