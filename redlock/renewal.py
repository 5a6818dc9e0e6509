"""The renewing thread: one per process and client, for all its leases.

Rules of this file:
1. It starts with the first lease that wants renewing, so after the fork, and is a daemon.
2. A lease is renewed at a third of its TTL, and after a failure again within the validity that is left. What
   can't be renewed is declared lost when its deadline has come, or when a quorum says that it is gone.
3. One lease's trouble never ends the renewal of the others.
4. A lease that nobody can reach any more is not renewed: only weak references are kept here.
"""

from __future__ import annotations

import heapq
import itertools
import threading
import weakref
from typing import TYPE_CHECKING

from redlock.clock import now_ms
from redlock.log import logger

if TYPE_CHECKING:
    from redlock.lease import Lease

_IDLE_SECONDS = 60.0
_TROUBLE_MS = 50


class Renewal:
    """Leases by the time at which each is due."""

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        """In a forked child: the parent's leases and its thread are not ours."""
        self._heap: list[tuple[int, int, weakref.ref[Lease]]] = []
        self._order = itertools.count()
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._closed = False

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
        while True:
            lease = self._next()
            if lease is None:
                return
            try:
                due_ms = lease.renew()
            except Exception:  # noqa: BLE001 - whatever it is, the other leases must go on
                logger.exception("renewal-failed resource=%s", lease.resource)
                due_ms = now_ms() + _TROUBLE_MS if lease.held else None
            if due_ms is not None:
                self.add(lease, due_ms)
            # A name that lives on until the next is due would keep a dropped lease alive.
            del lease

    def _next(self) -> Lease | None:
        """The next lease when it is due; None after a while without any, which ends the thread."""
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
                    continue
                lease = heapq.heappop(self._heap)[2]()
                if lease is not None:
                    return lease
            self._thread = None
            return None

    def _drop_what_is_over(self) -> None:
        """Most leases are given back long before they are due: else this thread would wake up once for each."""
        while self._heap:
            lease = self._heap[0][2]()
            if lease is not None and lease.held:
                return
            heapq.heappop(self._heap)
