"""The waiting connections of a client.

Invariants:
1. A new connection is opened in another thread, for the node timeout at most, and never beyond the end of the wait.
2. A connection is kept only if no caller waits for a reply on the connection.
"""

from __future__ import annotations

from queue import SimpleQueue
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

from redlock._clock import now_ms
from redlock._locking.local_wait_queue import LocalWaitQueue
from redlock._locking.wait_rules import WaitMemory
from redlock._transport.node import Connected, PendingConnection, UnsuitableNode
from redlock._transport.reply_reader import UnreadableReply
from redlock._transport.socket_errors import ConnectionFailed

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from redlock._core.commands import Names
    from redlock._transport.codec import Codec
    from redlock._transport.node import Node

_MOST_KEPT = 32
_LONGEST_KEPT_MS = 30_000
"""A firewall can drop a connection that is idle for longer, without a packet to either side."""
NODE_ERRORS = (ConnectionFailed, UnreadableReply, UnsuitableNode)
"""The errors of a waiting connection. No builtin is among them: that would be the exception of a signal handler."""


class WaitingConnection(Protocol):
    """A connection for blocking reads, under any driver."""

    def close(self) -> None:
        """End the connection."""


C = TypeVar("C", bound=WaitingConnection)


class WaitingConnections(WaitMemory, Generic[C]):
    """The waiting connections of a client, kept by node, and its local queue.

    Args:
        nodes: The lock nodes, in their order.
        codec: Knows the keys of the wake-ups.
        new_signal: See `LocalWaitQueue`.
    """

    def __init__(self, nodes: Sequence[Node], codec: Codec, new_signal: Callable[[], object]) -> None:
        super().__init__(nodes, codec)
        self._local_queue = LocalWaitQueue(new_signal)
        self.reset_after_fork()

    def reset_after_fork(self) -> None:
        """In a forked child: drop the connections of the parent."""
        self._kept: dict[Node, list[tuple[int, C]]] = {node: [] for node in self.nodes}
        self._contended: dict[Names, tuple[int, int]] = {}
        self.local_queue.reset_after_fork()

    @property
    def local_queue(self) -> LocalWaitQueue:
        """The queue inside this process."""
        return self._local_queue

    def expects_others(self, names: Names) -> bool:
        """Whether other waiters are likely to be before a new waiter."""
        return self.local_queue.has_waiters(names) or self.last_wait_ms(names) > 0

    def close(self) -> None:
        """Close the idle connections."""
        for kept in self._kept.values():
            while kept:
                kept.pop()[1].close()

    def kept_for(self, node: Node) -> C | None:
        """A kept connection to this node, if any. None for a node that is down: only a dial finds out that it is up."""
        kept = self._kept[node]
        while kept and not node.error:
            try:
                since_ms, connection = kept.pop()
            except IndexError:
                # Another thread took the last connection.
                return None
            if now_ms() - since_ms < _LONGEST_KEPT_MS:
                return connection
            connection.close()
        return None

    def give_back(self, node: Node, connection: C) -> None:
        """Keep a connection for the next wait. No reply that a caller needs may be pending."""
        if len(self._kept[node]) < _MOST_KEPT:
            self._kept[node].append((now_ms(), connection))
        else:
            connection.close()


class WaiterPool(WaitingConnections[Connected]):
    """The waiting connections of a client for threads."""

    def __init__(self, nodes: Sequence[Node], codec: Codec) -> None:
        super().__init__(nodes, codec, SimpleQueue)

    def borrow(self, node: Node, seconds: float) -> Connected | None:
        """A connection for a wait; None if no connection is ready in this time.

        Raises:
            UnsuitableNode: The node cannot be reached within the node timeout; the message has the reason.
        """
        return self.kept_for(node) or self._dial(node, seconds)

    @staticmethod
    def _dial(node: Node, seconds: float) -> Connected | None:
        pending = PendingConnection(node)
        try:
            pending.done.wait(min(seconds, node.timeout_ms / 1000))
            return pending.take(seconds)
        finally:
            pending.abandon()

    @staticmethod
    def pass_on(connected: Connected, words: bytes) -> None:
        """Send a command and close the connection. A wait for room or a reply would exceed the limit of the caller."""
        try:
            connected.exchange.send(words, 0.0)
        except NODE_ERRORS:
            # The wake-up is lost, which costs the next waiter time.
            pass
        finally:
            connected.close()
