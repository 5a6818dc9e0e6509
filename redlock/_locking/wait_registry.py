"""The waits of one client: for each waiting acquisition the resources, the start and the holder.

Invariants: a wait is registered before its first sleep, and removed at its end in every case. Registration performs no
I/O and takes no lock, so a signal handler may wait for a lease too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from redlock import _log
from redlock._clock import now_ms, wall_us
from redlock._core.votes import masked_token
from redlock._locking.wait_publisher import WaitPublisher

if TYPE_CHECKING:
    from typing_extensions import Self

    from redlock._core.commands import Names
    from redlock._locking.lease_steps import LeaseSteps
    from redlock._locking.waiter_pool import WaitingConnections

_MOST_HOLDERS = 1_024
_UNKNOWN = "-"


class WaitRegistry:
    """The waits of one client at this moment."""

    def __init__(self, waiters: WaitingConnections[Any]) -> None:
        self.local_queue = waiters.local_queue
        self.publisher = WaitPublisher(self.pending, waiters)
        self.reset_after_fork()

    def reset_after_fork(self) -> None:
        """In a forked child: drop the waits of the parent."""
        self.publisher.reset_after_fork()
        self.waits: dict[int, PendingWait] = {}
        self._holders: dict[Names, tuple[str, int]] = {}

    def pending(self) -> list[PendingWait]:
        """All waits, in the order in which they began."""
        return list(self.waits.values())

    def holder(self, names: Names, newest_ms: int) -> str:
        """The holder that this client saw last, or `-` if that was longer ago than this many milliseconds."""
        holder, seen_ms = self._holders.get(names, (_UNKNOWN, 0))
        return holder if now_ms() - seen_ms <= newest_ms else _UNKNOWN

    def observe_holder(self, names: Names, token: str | None) -> None:
        """Remember the holder that a quorum of nodes reported, for all waits for the same resources."""
        if token:
            if len(self._holders) >= _MOST_HOLDERS:
                self._holders.clear()
            self._holders[names] = masked_token(token), now_ms()


class PendingWait:
    """A context manager for the acquisition of a lease, which may have to wait; its exit ends the wait."""

    def __init__(self, registry: WaitRegistry, lease: LeaseSteps) -> None:
        self._registry, self.names, self.owner_label = registry, lease.names, lease._owner_label
        self._ttl_ms, self._waited_ms = lease.ttl_ms, lease.waited_ms
        self._log_fields = {"resource": lease.resource, "owner_label": self.owner_label}
        self._began_ms: int | None = None
        self.since = 0.0
        """The start of the wait in seconds since 1970; 0 before the start."""

    def begin(self) -> None:
        """Start the wait; only the first call has an effect."""
        if self._began_ms is not None:
            return
        self._began_ms, self.since = now_ms() - self._waited_ms, wall_us() / 1_000_000 - self._waited_ms / 1_000
        self._registry.waits[id(self)] = self
        # An older sighting of a holder does not count.
        holder = self._registry.holder(self.names, self._ttl_ms)
        position = self._registry.local_queue.length(self.names) + 1
        _log.info("waiting", **self._log_fields, holder=holder, position=position)
        self._registry.publisher.wake()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, _type: object, exc: BaseException | None, _traceback: object) -> None:
        if self._began_ms is not None:
            self._registry.waits.pop(id(self), None)
            _log.debug("wait-ended", **self._log_fields, waited_ms=now_ms() - self._began_ms, acquired=exc is None)
