"""The schedule of all renewals of a client: threads, event loops and a simulator run the same schedule.

A driver takes the leases that are due, executes `_renewal` of each, and reports the result.

Invariants:
1. No I/O, no thread, and no clock; time is an argument.
2. A lease is renewed at a third of its TTL. After a failure the lease is due again within its remaining validity.
3. At most 64 leases are under way at a time. So the rounds of leases that are due together share an exchange, and no
   other user waits long for the connections.
4. The failure of one lease never ends the renewal of the others: the schedule forgets no lease that a driver has taken.
5. The schedule keeps weak references, except to leases under way: a lease that its owner has dropped is not renewed.

The schedule is an object, not a generator. The frame of a suspended generator would keep dropped leases alive, and an
exception would end the generator and all renewal.
"""

from __future__ import annotations

import heapq
import itertools
import weakref
from typing import TYPE_CHECKING, Generic, TypeVar

from redlock import _log
from redlock._core.backoff import renewal_ms

if TYPE_CHECKING:
    from collections.abc import Sequence

    from redlock._locking.lease_steps import LeaseSteps

L = TypeVar("L", bound="LeaseSteps")

_RETRY_MS = 50
_MOST_UNDER_WAY = 64
_TOGETHER_MS = 10
"""Leases that are due so soon after another are renewed with it."""
_FEW = 1_000
"""So many leases may have ended before their entries are removed."""


class RenewalSchedule(Generic[L]):
    """The leases of one client, or of one event loop, ordered by the time of their next renewal."""

    def __init__(self, remedy: str) -> None:
        self._remedy = remedy
        self._order = itertools.count()
        self._heap: list[tuple[int, int, weakref.ref[L]]] = []
        self._under_way: set[L] = set()
        self._crowded = _FEW
        """The number of entries at which those of ended leases are removed."""
        self._late: dict[str, object] | None = None
        self._is_late_logged = False

    def add(self, lease: weakref.ref[L], due_ms: int) -> None:
        """Renew a lease from this time on, until the lease is released or lost."""
        heapq.heappush(self._heap, (due_ms, next(self._order), lease))
        if len(self._heap) > self._crowded:
            self._heap = [entry for entry in self._heap if _is_held(entry[2])]
            heapq.heapify(self._heap)
            self._crowded = max(_FEW, 2 * len(self._heap))

    def next_ms(self) -> int | None:
        """When to call `take` again; None if no lease is due before the next `add`, `renewed` or `failed`."""
        if len(self._under_way) >= _MOST_UNDER_WAY:
            return None
        while self._heap and not _is_held(self._heap[0][2]):
            # Most leases end long before they are due, and need no wake-up.
            heapq.heappop(self._heap)
        return self._heap[0][0] if self._heap else None

    def take(self, now_ms: int) -> list[L]:
        """The leases that are due. They are under way until `renewed`, `failed` or `recover`."""
        taken: list[L] = []
        if not self._heap or self._heap[0][0] > now_ms:
            return taken
        while self._heap and self._heap[0][0] <= now_ms + _TOGETHER_MS and len(self._under_way) < _MOST_UNDER_WAY:
            due_ms, _, reference = self._heap[0]
            lease = reference()
            if lease is None or not lease.is_held:
                heapq.heappop(self._heap)
                continue
            self._under_way.add(lease)
            # Only now: after an exception before this line, the lease is due again.
            heapq.heappop(self._heap)
            taken.append(lease)
            delay_ms = now_ms - due_ms
            if self._late is None and lease._is_renewed and delay_ms > renewal_ms(lease.ttl_ms):
                self._late = {"resource": lease.resource, "delay_ms": delay_ms, "ttl_ms": lease.ttl_ms}
        return taken

    def renewed(self, lease: L, due_ms: int | None) -> None:
        """A renewal has ended; the lease is due again at this time, or never. Nothing changes after `recover`."""
        self._put_back(lease, due_ms)
        lease._report_loss()

    def failed(self, leases: Sequence[L], error: BaseException, now_ms: int) -> None:
        """The renewal of these leases has ended with an unexpected error: they are due again soon."""
        for lease in leases:
            self._put_back(lease, now_ms + _RETRY_MS if lease.is_held else None)
        _log.failure("renewal-failed", error, resource="; ".join(lease.resource for lease in leases))
        for lease in leases:
            lease._report_loss()

    def held(self) -> list[L]:
        """The leases that are held, due or under way."""
        leases = (*self._under_way, *(reference() for _, _, reference in self._heap))
        return [lease for lease in leases if lease is not None and lease.is_held]

    def under_way(self) -> list[L]:
        """The leases whose renewal has begun and not ended."""
        return list(self._under_way)

    def recover(self, now_ms: int) -> None:
        """Put all leases back that are under way: an exception has ended their driver."""
        if self._under_way:
            # The exception can have struck while a lease was taken or put back: then the lease has an entry already.
            self._heap = [entry for entry in self._heap if entry[2]() not in self._under_way]
            heapq.heapify(self._heap)
        for lease in self.under_way():
            self._put_back(lease, now_ms + _RETRY_MS)

    def _put_back(self, lease: L, due_ms: int | None) -> None:
        if lease in self._under_way:
            if due_ms is not None:
                self.add(weakref.ref(lease), due_ms)
            # Last: after an exception before this line, `recover` puts the lease back.
            self._under_way.discard(lease)

    def report_late(self) -> None:
        """Log the first late renewal, and no other: the cause stays, and each further message would be the same."""
        if self._late is not None and not self._is_late_logged:
            self._is_late_logged = True
            _log.warning("renewal-late", **self._late, remedy=self._remedy)


def _is_held(reference: weakref.ref[L]) -> bool:
    lease = reference()
    return lease is not None and lease.is_held
