"""Time limits of public calls in a schedule, and the waits after the last fault."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from redlock.lease import Lease as HeldLease
from tests.sim.verdict import check_wait

if TYPE_CHECKING:
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

    def __init__(self, client: Client, lock: Any, timeout_ms: int | None) -> None:  # noqa: ANN401 - of either driver
        self._client, self._lock, self._timeout_ms = client, lock, timeout_ms
        self._node_timeout_ms = client.redlock._context.node_timeout_ms
        self._lease: Any = None

    def __enter__(self) -> HeldLease:
        with self._entry():
            self._lease = self._lock.__enter__()
        lease: HeldLease = self._lease
        return lease

    async def __aenter__(self) -> Any:  # noqa: ANN401 - a lease of the simulated package
        with self._entry():
            self._lease = await self._lock.__aenter__()
        return self._lease

    @contextmanager
    def _entry(self) -> Iterator[None]:
        client = self._client
        began, began_ms, freezes = client.world.now, client.own_ms, client.freezes
        try:
            yield
        finally:
            if self._timeout_ms is not None:
                # A process that was stopped gives its dials a further node timeout.
                timeouts = 2 + client.freezes - freezes
                self._check("acquire", began_ms, self._timeout_ms + timeouts * self._node_timeout_ms)
            elif client.alive and client.schedule.calm_since is not None:
                waited_us = client.world.now - max(began, client.schedule.calm_since)
                check_wait(client.schedule, client, waited_us)

    def __exit__(self, *error: object) -> None:
        with self._exit():
            self._lock.__exit__(*error)

    async def __aexit__(self, *error: object) -> None:
        with self._exit():
            await self._lock.__aexit__(*error)

    @contextmanager
    def _exit(self) -> Iterator[None]:
        began_ms, grant = self._client.own_ms, self._lease._grant
        # Other threads can use all connections. The release waits for a set of them, until the deadline of the lease.
        left_ms = 0 if grant is None else grant.deadline_ms - self._client.clock_ms()
        limit_ms = max(_RELEASE_MS + 2 * self._node_timeout_ms, left_ms) + 2 * self._node_timeout_ms
        try:
            yield
        finally:
            self._check("release", began_ms, limit_ms)

    def _check(self, call: str, began_ms: float, limit_ms: int) -> None:
        client = self._client
        took_ms = client.own_ms - began_ms
        if client.alive and took_ms > limit_ms + _ROUNDING_MS:
            client.world.violation(f"{call} of {client.name} took {took_ms:.1f} ms, more than {limit_ms} ms")
