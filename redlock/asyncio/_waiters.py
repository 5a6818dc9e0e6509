"""The waiting connections and the local queue of a client in an event loop; see `redlock._locking.wait_queue`."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from redlock._locking import held_leases
from redlock._locking.local_wait_queue import LocalWaitQueue
from redlock._locking.waiter_pool import NODE_ERRORS, WaitingConnections
from redlock._transport.asyncio import CLOSED
from redlock._transport.loop_exchange import LoopExchange
from redlock.errors import RedlockError

if TYPE_CHECKING:
    from collections.abc import Container, Sequence

    from redlock._core.commands import Names
    from redlock._transport.codec import Codec
    from redlock._transport.node import Node


class LoopWaiters(WaitingConnections[LoopExchange]):
    """The queues and the waiting connections of a client in an event loop.

    Args:
        nodes: The lock nodes, in their order.
        codec: Knows the keys of the wake-ups.
        attempts: The resources for which tasks of the loop are at the nodes.
        client: The identity of the client, see `held_leases`.
    """

    def __init__(self, nodes: Sequence[Node], codec: Codec, attempts: Container[Names], client: int) -> None:
        super().__init__(nodes, codec, LocalWaitQueue(Signal))
        self._attempts, self._client = attempts, client
        self._is_closed = False
        self._reading: set[LoopExchange] = set()
        """The connections at which tasks wait."""

    def check_open(self) -> None:
        """Raise an error if the client was closed in this event loop."""
        if self._is_closed:
            raise RedlockError(CLOSED)

    async def read(self, connection: LoopExchange, seconds: float) -> None:
        """Wait for an answer, at most this long.

        Raises:
            RedlockError: The client was closed.
        """
        self.check_open()
        self._reading.add(connection)
        try:
            await connection.wait(seconds)
        finally:
            self._reading.discard(connection)
        self.check_open()

    def expects_others(self, names: Names) -> bool:
        """Whether other tasks of this loop, or a holder in this process, are likely to be before a new waiter."""
        return names in self._attempts or held_leases.is_held_here(self._client, names) or super().expects_others(names)

    async def borrow(self, node: Node, seconds: float) -> LoopExchange | None:
        """A connection for a wait; None if no connection is ready in this time.

        Raises:
            UnsuitableNode: The node cannot be reached within the node timeout; the message has the reason.
        """
        while (kept := self.kept_for(node)) is not None:
            if kept.is_open:
                return kept
            kept.close()
        return await LoopExchange.dial(node, seconds)

    def give_back(self, node: Node, connection: LoopExchange) -> None:
        """Keep a connection for the next wait. No reply that a caller needs may be pending."""
        if self._is_closed:
            connection.close()
        else:
            super().give_back(node, connection)

    def pass_on(self, node: Node, connection: LoopExchange, words: bytes) -> None:
        """Send a command and keep the connection, which reads the reply later; a connection that failed is closed."""
        try:
            connection.send(words, is_answer_ignored=True)
        except NODE_ERRORS:
            connection.close()
        else:
            self.give_back(node, connection)

    def close(self) -> None:
        """Close the idle connections, and keep none from now on."""
        self._is_closed = True
        super().close()

    def wake_all(self) -> None:
        """Wake all waiting tasks after `close`. Not in a loop that was closed: its futures call nothing any more."""
        for connection in tuple(self._reading):
            connection.end_wait()
        self.local_queue.wake_all()


class Signal:
    """Wakes the task that has a place in the local queue."""

    def __init__(self) -> None:
        self._future: asyncio.Future[None] | None = None

    def put(self, _hint: None) -> None:
        """Wake a task that waits."""
        if self._future is not None and not self._future.done():
            self._future.set_result(None)

    async def wait(self, seconds: float) -> None:
        """Wait for the signal, at most this long."""
        self._future = asyncio.get_running_loop().create_future()
        try:
            await asyncio.wait({self._future}, timeout=max(0.0, seconds))
        finally:
            self._future = None
