"""The waiting connections and the local queue of a client in an event loop; see `redlock._locking.wait_queue`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from redlock._locking import held_leases
from redlock._locking.local_wait_queue import LocalWaitQueue
from redlock._locking.waiter_pool import NODE_ERRORS, WaitingConnections
from redlock._transport.asyncio import CLOSED
from redlock._transport.loop_exchange import LoopExchange, Signal
from redlock.errors import RedlockError

if TYPE_CHECKING:
    from collections.abc import Container, Sequence

    from redlock._core.commands import Names
    from redlock._transport.codec import Codec
    from redlock._transport.node import Node


class LoopWaiters(WaitingConnections[LoopExchange]):
    """The queues and the waiting connections of a client in an event loop.

    `attempts` are the resources for which tasks of the loop are at the nodes. For `client` see `held_leases`.
    """

    def __init__(self, nodes: Sequence[Node], codec: Codec, attempts: Container[Names], client: int) -> None:
        super().__init__(nodes, codec, LocalWaitQueue(Signal))
        self._attempts, self._client = attempts, client
        self._is_closed = False
        self._waiting: set[Signal] = set()
        """The places and connections at which tasks wait."""

    async def wait_for(self, signal: Signal, seconds: float) -> None:
        """Wait for the signal of a place or the answer on a connection, at most this long.

        Raises:
            RedlockError: The client was closed.
        """
        self._check_open()
        self._waiting.add(signal)
        try:
            await signal.wait(seconds)
        finally:
            self._waiting.discard(signal)
        self._check_open()

    def _check_open(self) -> None:
        if self._is_closed:
            raise RedlockError(CLOSED)

    def expects_others(self, names: Names) -> bool:
        """Whether other tasks of this loop, or a holder in this process, are likely to be before a new waiter."""
        return names in self._attempts or held_leases.is_held_here(self._client, names) or super().expects_others(names)

    async def borrow(self, node: Node, seconds: float) -> LoopExchange | None:
        """A connection for a wait; see `effects.Borrow`."""
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
        for signal in tuple(self._waiting):
            signal.put()
