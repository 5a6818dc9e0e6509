"""Time limits of public calls in a schedule, and the waits after the last fault."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.sim.verdict import check_wait

if TYPE_CHECKING:
    from types import TracebackType

    from redlock.lease import Lease as HeldLease
    from redlock.lock import Lock
    from tests.sim.clients import Client

_RELEASE_MS = 80
_ROUNDING_MS = 2


class Timed:
    """A lock with a time limit for entry and exit. The time for which the process was frozen does not count.

    Args:
        client: The client.
        lock: Its lock.
        timeout_ms: The time limit of the acquisition; None for no limit.
    """

    def __init__(self, client: Client, lock: Lock, timeout_ms: int | None) -> None:
        self._client, self._lock, self._timeout_ms = client, lock, timeout_ms
        self._node_timeout_ms = client.redlock._context.node_timeout_ms

    def __enter__(self) -> HeldLease:
        client = self._client
        began, began_ms, freezes = client.world.now, client.own_ms, client.freezes
        try:
            return self._lock.__enter__()
        finally:
            if self._timeout_ms is not None:
                # A process that was stopped gives its dials a further node timeout.
                timeouts = 2 + client.freezes - freezes
                self._check("acquire", began_ms, self._timeout_ms + timeouts * self._node_timeout_ms)
            elif client.alive and client.schedule.calm_since is not None:
                waited_us = client.world.now - max(began, client.schedule.calm_since)
                check_wait(client.schedule, client, waited_us)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        began_ms = self._client.own_ms
        try:
            self._lock.__exit__(kind, error, traceback)
        finally:
            self._check("release", began_ms, _RELEASE_MS + 4 * self._node_timeout_ms)

    def _check(self, call: str, began_ms: float, limit_ms: int) -> None:
        client = self._client
        took_ms = client.own_ms - began_ms
        if client.alive and took_ms > limit_ms + _ROUNDING_MS:
            client.world.violation(f"{call} of {client.name} took {took_ms:.1f} ms, more than {limit_ms} ms")
