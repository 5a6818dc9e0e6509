"""The parts that all locks of a client for threads share: connections, wait queue and renewal."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

from redlock._locking.client_context import ClientContext
from redlock._locking.renewal import Renewal
from redlock._locking.wait_registry import WaitRegistry
from redlock._locking.waiter_pool import WaiterPool
from redlock._transport.pool import ConnectionPool

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextvars import Context

    from typing_extensions import Self

    from redlock._locking.client_context import ClientOptions


class LockContext(ClientContext):
    """The shared parts of a client."""

    def __init__(self, options: ClientOptions, *, allow_event_loop: bool) -> None:
        super().__init__(options)
        self.allow_event_loop = allow_event_loop
        self.pool = ConnectionPool(options.nodes, self.codec)
        self.waiters = WaiterPool(options.nodes, self.codec)
        self.waits = WaitRegistry(self.waiters)
        self.renewal = Renewal(self.pool)

    def parts(self) -> Self:
        """The context itself."""
        return self

    def call(self, resource: str, function: Callable[[], object], context: Context) -> None:
        """Call a function of the application soon, in a thread where the function may block or fail."""
        self.renewal.callbacks.call(resource, functools.partial(context.run, function))

    def reset_after_fork(self) -> None:
        """In a forked child: drop the connections, threads and queues of the parent."""
        self.pool.reset_after_fork()
        self.renewal.reset_after_fork()
        self.waiters.reset_after_fork()
        self.waits.reset_after_fork()

    def await_releases(self) -> None:
        """At the end of the process: wait for asynchronous releases."""
        self.pool.await_releases()

    def close(self) -> None:
        """Close all connections, and tell all threads to end, without waiting for them."""
        self.renewal.close()
        self.waits.publisher.close()
        self.waiters.close()
        self.pool.close()
        if not self.pool.is_open:
            self._note_close()
