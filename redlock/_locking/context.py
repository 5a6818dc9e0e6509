"""The parts that all locks of one client share: connections, wait queue, renewal, log, fences and limits."""

from __future__ import annotations

from typing import TYPE_CHECKING

from redlock import _log, _validation
from redlock._clock import wall_us
from redlock._core.observed_fences import ObservedFences
from redlock._locking import misuse
from redlock._locking.lock_events import LockEventLog
from redlock._locking.renewal import Renewal
from redlock._locking.wait_queue import WaiterPool
from redlock._locking.wait_registry import WaitRegistry
from redlock._transport.codec import Codec
from redlock._transport.pool import ConnectionPool
from redlock.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from redlock._core.commands import Names
    from redlock._transport.node import Node


class LockContext:
    """The shared parts of one client.

    Args:
        nodes: The lock nodes, in their order.
        prefix: Put before every resource name.
        max_ttl_ms: The longest lease.
        node_timeout_ms: The time after which a node without a reply counts as silent.
        allow_event_loop: Whether a blocking call is allowed inside a running asyncio event loop.
    """

    def __init__(
        self, nodes: Sequence[Node], *, prefix: str, max_ttl_ms: int, node_timeout_ms: int, allow_event_loop: bool
    ) -> None:
        self.node_timeout_ms = node_timeout_ms
        self.reserve_ms = max(1, node_timeout_ms // 2)
        """How long a released lock is reserved for the waiter that the release wakes."""
        self.fresh_ms = max_ttl_ms // 2
        """How long a proposed token counts: half of a node's quarantine. The other half covers clock errors."""
        self._max_ttl_ms = max_ttl_ms
        self._least_ttl_ms = _validation.least_ttl_ms(node_timeout_ms)
        self._allow_event_loop = allow_event_loop
        codec = Codec(len(nodes), prefix, max_ttl_ms, self.reserve_ms)
        self.pool = ConnectionPool(nodes, codec)
        self.waiter_pool = WaiterPool(nodes, codec)
        self.event_log = LockEventLog(nodes)
        self.waits = WaitRegistry(self.event_log, self.waiter_pool, prefix)
        self.renewal = Renewal(self.pool)
        self._fences = ObservedFences()

    def checked_ttl_ms(self, ttl: float) -> int:
        """A TTL in seconds as milliseconds.

        Raises:
            ConfigurationError: The TTL is no number, too short for the node timeout, or above `max_ttl`.
        """
        return _validation.ttl_ms(ttl, max_ttl_ms=self._max_ttl_ms, node_timeout_ms=self.node_timeout_ms)

    def checked_ms(self, ttl_ms: int) -> int:
        """Check a TTL in milliseconds against the same bounds."""
        if type(ttl_ms) is int and self._least_ttl_ms <= ttl_ms <= self._max_ttl_ms:
            return ttl_ms
        if isinstance(ttl_ms, bool) or not isinstance(ttl_ms, int):
            raise ConfigurationError(f"ttl_ms is {ttl_ms!r:.60}; it must be milliseconds as a whole number")
        return self.checked_ttl_ms(ttl_ms / 1000)

    def checked_extension_ms(self, seconds: float) -> int:
        """The seconds of an extension as the TTL in milliseconds that the nodes get."""
        return max(_validation.extension_ms(seconds, max_ttl_ms=self._max_ttl_ms), self._least_ttl_ms)

    def proposal(self, names: Names, wall_us: int) -> int:
        """The fencing token to propose: the wall clock, or one more than the largest token observed for the names."""
        return self._fences.proposal(names, wall_us)

    def observe_fence(self, names: Names, fence: int) -> None:
        """Remember a token, so that the next proposal for these resources is larger.

        A token that is more than an hour ahead of the wall clock is logged and not remembered.
        """
        if not self._fences.observe(names, fence, wall_us()):
            _log.warning("fence-implausible", resource=", ".join(names), fence=fence)

    def refuse_event_loop(self) -> None:
        """Raise if a blocking call would stop a running asyncio event loop, unless the client allows the call."""
        if not self._allow_event_loop:
            misuse.check_event_loop()

    def reset_after_fork(self) -> None:
        """In a forked child: drop the connections, threads and queues of the parent."""
        self.pool.reset_after_fork()
        self.renewal.reset_after_fork()
        self.waiter_pool.reset_after_fork()
        self.waits.reset_after_fork()

    def close(self) -> None:
        """Close all connections and end all threads."""
        self.renewal.close()
        self.waits.publisher.close()
        self.waiter_pool.close()
        self.pool.close()
