"""The waiting connections of a client, and the node at which its waiters wait.

All waiters of a resource wait at the first healthy node in an order that is computed from the name. They wait at the
same node as long as they agree on the healthy nodes.

Invariants:
1. A new connection is opened in another thread, for the node timeout at most, and never beyond the end of the wait.
2. A connection is kept only if no caller waits for a reply on the connection.
"""

from __future__ import annotations

import queue
import threading
from typing import TYPE_CHECKING, Generic, TypeVar

from redlock._clock import now_ms
from redlock._locking import held_leases
from redlock._locking.local_wait_queue import LocalWaitQueue
from redlock._transport import codec as wire
from redlock._transport.node import PendingConnection, UnsuitableNode
from redlock._transport.reply_reader import UnreadableReply
from redlock._transport.socket_errors import ConnectionFailed

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from redlock._core.commands import Names
    from redlock._transport.codec import Codec
    from redlock._transport.exchange import Exchange
    from redlock._transport.loop_exchange import LoopExchange
    from redlock._transport.node import Node

_MOST_KEPT = 32
_MOST_REMEMBERED = 1_024
_LONGEST_KEPT_MS = 30_000
"""A firewall can drop a connection that is idle for longer, without a packet to either side."""
NODE_ERRORS = (ConnectionFailed, UnreadableReply, UnsuitableNode)
"""The errors of a waiting connection. No builtin is among them: that would be the exception of a signal handler."""


C = TypeVar("C", bound="Exchange | LoopExchange")


class WaitingConnections(Generic[C]):
    """The waiting connections of a client by node, its local queue, and its memory of recent waits."""

    def __init__(self, nodes: Sequence[Node], codec: Codec, local_queue: LocalWaitQueue) -> None:
        self.nodes = nodes
        self.codec = codec
        self.local_queue = local_queue
        self.reset_after_fork()

    def reset_after_fork(self) -> None:
        """In a forked child: drop the connections of the parent."""
        self._kept: dict[Node, list[tuple[int, C]]] = {node: [] for node in self.nodes}
        self._contended: dict[Names, tuple[int, int]] = {}
        """For the resources of recent waits: until when that counts, and how long the wait was."""
        self.local_queue.reset_after_fork()

    def last_wait_ms(self, names: Names) -> int:
        """The length of the last wait for these resources, if that wait was recent; otherwise 0."""
        if not self._contended:
            return 0
        until_ms, waited_ms = self._contended.get(names, (0, 0))
        return waited_ms if until_ms > now_ms() else 0

    def remember(self, names: Names, waited_ms: int, length_ms: int) -> None:
        """Remember for this long that a wait took this time; 0 ms means that there were no other waiters."""
        if waited_ms:
            if len(self._contended) >= _MOST_REMEMBERED:
                self._contended.clear()
            self._contended[names] = now_ms() + length_ms, waited_ms
        elif self._contended:
            self._contended.pop(names, None)

    def node_for(self, names: Names) -> Node | None:
        """The node at which waiters wait: the first healthy node in an order that is computed from the name."""
        return next((node for node in self._in_order(names) if not node.error), None)

    def node_to_try(self, names: Names, now_ms: int) -> Node | None:
        """As `node_for`, but from time to time also a node that is down, for a single waiter."""
        return next((node for node in self._in_order(names) if node.may_wait(now_ms)), None)

    def _in_order(self, names: Names) -> Iterator[Node]:
        return (self.nodes[place] for place in wire.waiting_order(names, len(self.nodes)))

    def expects_others(self, names: Names) -> bool:
        """Whether other waiters are likely to be before a new waiter."""
        return self.local_queue.length(names) > 0 or self.last_wait_ms(names) > 0

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


def _interruptible() -> object:
    """The running thread if Python can call a signal handler in it."""
    return held_leases.owner() if threading.current_thread() is threading.main_thread() else None


class WaiterPool(WaitingConnections["Exchange"]):
    """The waiting connections of a client for threads."""

    def __init__(self, nodes: Sequence[Node], codec: Codec) -> None:
        queues = LocalWaitQueue(lambda: queue.SimpleQueue(), _interruptible)  # noqa: PLW0108 - gevent replaces it
        super().__init__(nodes, codec, queues)

    def borrow(self, node: Node, seconds: float) -> Exchange | None:
        """A connection for a wait; see `effects.Borrow`."""
        return self.kept_for(node) or self._dial(node, seconds)

    @staticmethod
    def _dial(node: Node, seconds: float) -> Exchange | None:
        pending = PendingConnection(node)
        try:
            pending.done.wait(min(seconds, node.timeout_ms / 1000))
            return pending.take(seconds)
        finally:
            pending.abandon()

    @staticmethod
    def pass_on(connection: Exchange, words: bytes) -> None:
        """Send a command and close the connection. A wait for room or a reply would exceed the limit of the caller."""
        try:
            connection.send(words, 0.0)
        except NODE_ERRORS:
            # The wake-up is lost, which costs the next waiter time.
            pass
        finally:
            connection.close()
