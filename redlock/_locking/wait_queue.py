"""Wait queue: a waiter blocks on one node, and each release wakes the first waiter.

Invariants:
1. Wake-ups are hints: a lost wake-up costs time, never safety. The client's clock ends each wait, because a server
   checks for expired blocking reads only ten times a second.
2. A wait has a separate connection, which is kept for the next wait. The blocking read keeps its place in the server's
   queue while its client makes an attempt. A connection whose read has no reply at the end is closed. A new connection
   is opened in another thread, for at most one node timeout and never beyond the end of the wait.
3. A client that recently waited for a resource joins the queue before its first attempt, and asks the nodes after a
   wake-up or a short time. Otherwise each hand-over of a contended lock would begin with five denials. Each release
   leaves a wake-up, so a client without waiters before it finds a wake-up at once.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from redlock._clock import now_ms
from redlock._core.backoff import first_ms
from redlock._locking.local_wait_queue import LocalWaitQueue, Place
from redlock._locking.wait_rules import READ_SECONDS, WaitMemory, WakeUps
from redlock._transport.node import ERRORS, PendingConnection, UnsuitableNode, describe_failure, refuse

if TYPE_CHECKING:
    from collections.abc import Sequence

    from redlock._core.commands import Names
    from redlock._transport.codec import Codec
    from redlock._transport.node import Connected, Node

_MOST_KEPT = 32
_LEAST_WAIT_SECONDS = 0.001
_NODE_ERRORS = (*ERRORS, UnsuitableNode)
_LONGEST_KEPT_MS = 30_000
"""A firewall can drop a connection that is idle for longer, without a packet to either side."""


class WaiterPool(WaitMemory):
    """The waiting connections of one client, kept by node."""

    def __init__(self, nodes: Sequence[Node], codec: Codec) -> None:
        super().__init__(nodes, codec)
        self._local_queue = LocalWaitQueue()
        self.reset_after_fork()

    def reset_after_fork(self) -> None:
        """In a forked child: drop the connections of the parent."""
        self._kept: dict[Node, list[tuple[int, Connected]]] = {node: [] for node in self.nodes}
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

    def borrow(self, node: Node, seconds: float) -> Connected | None:
        """A connection for one wait; None if no connection is ready in this time.

        Raises:
            UnsuitableNode: The node cannot be reached within one node timeout; the message has the reason.
        """
        return self._kept_for(node) or self._dial(node, seconds)

    def _kept_for(self, node: Node) -> Connected | None:
        kept = self._kept[node]
        while kept:
            try:
                since_ms, connected = kept.pop()
            except IndexError:
                # Another thread took the last connection.
                return None
            if now_ms() - since_ms < _LONGEST_KEPT_MS:
                return connected
            connected.close()
        return None

    @staticmethod
    def _dial(node: Node, seconds: float) -> Connected | None:
        pending = PendingConnection(node)
        try:
            if not pending.done.wait(min(seconds, node.timeout_ms / 1000)):
                if seconds < node.timeout_ms / 1000:
                    return None
                pending.mark_overdue()
                raise UnsuitableNode(node.error or f"no answer within {node.timeout_ms} ms")
            if pending.result is None:
                raise UnsuitableNode(pending.error)
            result, pending.result = pending.result, None
            return result
        finally:
            pending.abandon()

    def give_back(self, node: Node, connected: Connected) -> None:
        """Keep a connection without a pending request for the next wait."""
        if len(self._kept[node]) < _MOST_KEPT:
            self._kept[node].append((now_ms(), connected))
        else:
            connected.close()


class QueuedWaiter(WakeUps):
    """The waits between the attempts of one acquisition: its place in the queue, and its wake-up.

    Args:
        pool: The waiting connections.
        names: The resources.
        wake_ms: The time for which a wake-up is valid: the lease's TTL.
    """

    def __init__(self, pool: WaiterPool, names: Names, wake_ms: int) -> None:
        super().__init__(pool, names, wake_ms)
        self._pool = pool
        self._node: Node | None = None
        self._connected: Connected | None = None
        self._is_reading = False
        self._sent_at = 0.0
        self._place: Place | None = None

    def queue_first(self, most_ms: int) -> None:
        """Wait for the turn in the local queue and for a wake-up before the first attempt, at most `most_ms`."""
        until_ms, last_wait_ms = now_ms() + most_ms, self._pool.last_wait_ms(self._names)
        self.join_local_queue(most_ms)
        self.wait(max(0, min(first_ms(last_wait_ms, self._wake_ms), until_ms - now_ms())), can_wake=True)

    def join_local_queue(self, most_ms: int) -> bool:
        """Wait for the turn in the local queue; True if that took time, so the lock may be free now."""
        if self._place is None:
            self._place = self._pool.local_queue.join(self._names)
        return self._place.wait(most_ms / 1000)

    def wait(self, length_ms: int, *, can_wake: bool) -> None:
        """Sleep for this long, or until a wake-up if a wake-up can come."""
        if not can_wake:
            time.sleep(length_ms / 1000)
            return
        keys = self._pool.keys(self._names)
        if self.is_woken and len(keys) > 1:
            # Another resource of the set is taken: pass this wake-up on, and wait for the other resources.
            keys.remove(self._woken_by)
            self._pass_on()
        self._woken_by, self._early_attempts = "", 0
        self._began_ms = self._began_ms or now_ms()
        began = time.monotonic()
        until = began + length_ms / 1000
        try:
            self._until_woken(keys, until)
        finally:
            self._has_waited = time.monotonic() - began > _LEAST_WAIT_SECONDS

    def _until_woken(self, keys: list[str], until: float) -> None:
        while not self.is_woken and (left := until - time.monotonic()) > 0:
            try:
                self._woken_by = self._read(keys, until)
            except _NODE_ERRORS as exc:
                if self._node is not None:
                    self._node.mark_down(describe_failure(exc, self._node.timeout_ms), now_ms())
                self._drop()
                time.sleep(min(0.01, left))

    def _read(self, keys: list[str], until: float) -> str:
        """The key of a wake-up; empty if the blocking read ended without a wake-up."""
        if self._connected is None:
            self._node = self._pool.node_for(self._names)
            left = max(0.0, until - time.monotonic())
            if self._node is None:
                time.sleep(left)
                return ""
            self._connected = self._pool.borrow(self._node, left)
            if self._connected is None:
                return ""
        if not self._is_reading:
            self._is_reading = True
            self._sent_at = time.monotonic()
            self._connected.exchange.send(self._read_words(keys), self._deadline)
        try:
            reply = self._connected.exchange.answer(until)
        except TimeoutError:
            return ""
        self._is_reading = False
        if reply is None and time.monotonic() - self._sent_at < READ_SECONDS / 2:
            # Another read would end at once as well, in an endless loop.
            raise UnsuitableNode("does not wait as a Redis server does")
        return self._wake_key(reply)

    def _pass_on(self) -> None:
        try:
            if self._connected is not None:
                refuse(self._connected.exchange.ask(self._pass_on_words(), 1, self._deadline)[0])
        except _NODE_ERRORS:
            self._drop()

    @property
    def _deadline(self) -> float:
        return time.monotonic() + (0.1 if self._node is None else self._node.timeout_ms / 1000)

    def end(self, *, acquired: bool) -> None:
        """Leave the queue. A waiter that stops without the lease passes its wake-up on to the next waiter."""
        try:
            if self._is_reading and self._connected is not None:
                self._woken_by = self._wake_key(self._connected.exchange.answer(None)) or self._woken_by
                self._is_reading = False
            if self.is_woken and not acquired:
                self._pass_on()
            if self._connected is not None and self._node is not None:
                self._pool.give_back(self._node, self._connected)
                self._connected = None
        except _NODE_ERRORS:
            pass
        finally:
            self._drop()
            self._remember_wait()
            if self._place is not None:
                self._place.leave()

    def _drop(self) -> None:
        connected, self._connected, self._is_reading = self._connected, None, False
        if connected is not None:
            connected.close()
