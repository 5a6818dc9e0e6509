"""The parts that all locks of a client for threads share: connections, wait queue and renewal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from redlock._locking.client_context import ClientContext
from redlock._locking.renewal import Renewal
from redlock._locking.wait_registry import WaitRegistry
from redlock._locking.waiter_pool import WaiterPool
from redlock._transport.pool import ConnectionPool

if TYPE_CHECKING:
    from redlock._locking.client_context import ClientOptions


class LockContext(ClientContext):
    """The shared parts of a client.

    Args:
        options: The options of the client.
        allow_event_loop: Whether a blocking call is allowed inside a running asyncio event loop.
    """

    def __init__(self, options: ClientOptions, *, allow_event_loop: bool) -> None:
        super().__init__(options)
        self.allow_event_loop = allow_event_loop
        self.pool = ConnectionPool(options.nodes, self.codec)
        self.waiter_pool = WaiterPool(options.nodes, self.codec)
        self.waits = WaitRegistry(self.waiter_pool)
        self.renewal = Renewal(self.pool)

    def reset_after_fork(self) -> None:
        """In a forked child: drop the connections, threads and queues of the parent."""
        self.pool.reset_after_fork()
        self.renewal.reset_after_fork()
        self.waiter_pool.reset_after_fork()
        self.waits.reset_after_fork()

    def await_releases(self) -> None:
        """At the end of the process: wait for asynchronous releases."""
        self.pool.await_releases()

    def close(self) -> None:
        """Close all connections, and tell all threads to end, without waiting for them."""
        self.renewal.close()
        self.waits.publisher.close()
        self.waiter_pool.close()
        self.pool.close()
