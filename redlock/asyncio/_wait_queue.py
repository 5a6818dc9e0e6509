"""Wait queue of one event loop: of all tasks that wait for the same resources, one waits at a node.

The rules are in `redlock._locking.wait_rules`. A waiter that stops without the lock passes its wake-up on.

Invariants:
1. A task has a place only while it waits. The task leaves the queue in a `finally` without an `await`, so a
   cancellation leaves nothing behind.
2. A waiting connection is kept for the next waiter only if its blocking read has ended; else it is closed.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING

from redlock._clock import now_ms
from redlock._core.backoff import first_ms
from redlock._locking.wait_rules import READ_SECONDS, WaitMemory, WakeUps
from redlock._transport.loop_exchange import LoopExchange
from redlock._transport.node import ERRORS, UnsuitableNode, describe_failure

if TYPE_CHECKING:
    from collections.abc import Sequence

    from redlock._core.commands import Names
    from redlock._transport.codec import Codec
    from redlock._transport.node import Node

_MOST_KEPT = 32
_NODE_ERRORS = (*ERRORS, UnsuitableNode)
_LONGEST_KEPT_MS = 30_000
"""A firewall can drop a connection that is idle for longer, without a packet to either side."""


class LoopWaiters(WaitMemory):
    """The queues and the waiting connections of one client in one event loop.

    Args:
        nodes: The lock nodes, in their order.
        codec: Knows the keys of the wake-ups.
    """

    def __init__(self, nodes: Sequence[Node], codec: Codec) -> None:
        super().__init__(nodes, codec)
        self._queues: dict[Names, deque[Place]] = {}
        self._kept: dict[Node, list[tuple[int, LoopExchange]]] = {node: [] for node in nodes}
        self._is_closed = False

    @property
    def local_queue(self) -> LoopWaiters:
        """The queue that a registry of waits asks for its length."""
        return self

    def length(self, names: Names) -> int:
        """The number of tasks that wait for these resources."""
        return len(self._queues.get(names, ()))

    def join(self, names: Names) -> Place:
        """A place at the end of the queue."""
        return Place(self._queues, names)

    def expects_others(self, names: Names) -> bool:
        """Whether other waiters are likely to be before a new waiter."""
        return names in self._queues or self.last_wait_ms(names) > 0

    async def borrow(self, node: Node, seconds: float) -> LoopExchange | None:
        """A connection for one wait; None if no connection is ready in this time.

        Raises:
            UnsuitableNode: The node cannot be reached within one node timeout; the message has the reason.
        """
        kept = self._kept[node]
        while kept:
            since_ms, exchange = kept.pop()
            if exchange.is_open and now_ms() - since_ms < _LONGEST_KEPT_MS:
                return exchange
            exchange.close()
        return await LoopExchange.dial(node, seconds)

    def give_back(self, node: Node, exchange: LoopExchange) -> None:
        """Keep a connection without a pending request for the next wait."""
        if len(self._kept[node]) < _MOST_KEPT and not self._is_closed:
            self._kept[node].append((now_ms(), exchange))
        else:
            exchange.close()

    def close(self, *, forked: bool = False) -> None:
        """Close the idle connections."""
        self._is_closed = True
        for kept in self._kept.values():
            while kept:
                kept.pop()[1].close(forked=forked)


class Place:
    """A task's place in a queue.

    Args:
        queues: All queues.
        names: The resources, which select the queue.
    """

    def __init__(self, queues: dict[Names, deque[Place]], names: Names) -> None:
        self._queues, self._names = queues, names
        self._turn: asyncio.Future[None] | None = None
        queues.setdefault(names, deque()).append(self)

    async def wait(self, seconds: float) -> bool:
        """Wait for the front of the queue; False if the place is at the front without a wait."""
        if self._queues[self._names][0] is self:
            return False
        self._turn = asyncio.get_running_loop().create_future()
        await asyncio.wait({self._turn}, timeout=max(0.0, seconds))
        return True

    def leave(self) -> None:
        """Leave the queue, from any place. A second call does nothing."""
        queue = self._queues.get(self._names)
        if queue is None or self not in queue:
            return
        queue.remove(self)
        if not queue:
            del self._queues[self._names]
            return
        turn = queue[0]._turn  # noqa: SLF001 - of this class
        if turn is not None and not turn.done():
            turn.set_result(None)


class QueuedTask(WakeUps):
    """The waits between the attempts of one acquisition: its place in the queue, and its wake-up.

    Args:
        waiters: The queues and the waiting connections of the loop.
        names: The resources.
        wake_ms: The time for which a wake-up is valid: the lease's TTL.
    """

    def __init__(self, waiters: LoopWaiters, names: Names, wake_ms: int) -> None:
        super().__init__(waiters, names, wake_ms)
        self._waiters = waiters
        self._node: Node | None = None
        self._exchange: LoopExchange | None = None
        self._place: Place | None = None
        self._sent_ms = 0

    async def queue_first(self, most_ms: int) -> None:
        """Wait for the turn in the local queue and for a wake-up before the first attempt, at most `most_ms`."""
        until_ms, last_wait_ms = now_ms() + most_ms, self._waiters.last_wait_ms(self._names)
        await self.join_local_queue(most_ms)
        await self.wait(max(0, min(first_ms(last_wait_ms, self._wake_ms), until_ms - now_ms())), can_wake=True)

    async def join_local_queue(self, most_ms: int) -> bool:
        """Wait for the turn in the local queue; True if that took time, so the lock may be free now."""
        if self._place is None:
            self._place = self._waiters.join(self._names)
        return await self._place.wait(most_ms / 1000)

    async def wait(self, length_ms: int, *, can_wake: bool) -> None:
        """Sleep for this long, or until a wake-up if a wake-up can come."""
        if not can_wake:
            await asyncio.sleep(length_ms / 1000)
            return
        keys = self._waiters.keys(self._names)
        if self.is_woken and len(keys) > 1:
            # Another resource of the set is taken: pass this wake-up on, and wait for the other resources.
            keys.remove(self._woken_by)
            self._pass_on()
        self._woken_by, self._early_attempts = "", 0
        began_ms = now_ms()
        self._began_ms = self._began_ms or began_ms
        try:
            await self._until_woken(keys, began_ms + length_ms)
        finally:
            self._has_waited = now_ms() - began_ms > 1

    async def _until_woken(self, keys: list[str], until_ms: int) -> None:
        while not self.is_woken and (left_ms := until_ms - now_ms()) > 0:
            try:
                self._woken_by = await self._read(keys, left_ms / 1000)
            except _NODE_ERRORS as exc:
                if self._node is not None:
                    self._node.mark_down(describe_failure(exc, self._node.timeout_ms), now_ms())
                self._drop()
                await asyncio.sleep(min(10, left_ms) / 1000)

    async def _read(self, keys: list[str], seconds: float) -> str:
        """The key of a wake-up; empty if the blocking read ended without a wake-up."""
        if self._exchange is None:
            self._node = self._waiters.node_for(self._names)
            if self._node is None:
                await asyncio.sleep(seconds)
                return ""
            self._exchange = await self._waiters.borrow(self._node, seconds)
            return ""
        if not self._exchange.is_awaited:
            self._sent_ms = now_ms()
            self._exchange.send(self._read_words(keys))
        if not await self._exchange.wait(seconds):
            return ""
        reply = self._exchange.answer()
        if reply is None and now_ms() - self._sent_ms < READ_SECONDS * 500:
            # Another read would end at once as well, in an endless loop.
            raise UnsuitableNode("does not wait as a Redis server does")
        return self._wake_key(reply)

    def _pass_on(self) -> None:
        if self._exchange is not None:
            self._exchange.send(self._pass_on_words(), is_answer_ignored=True)

    def end(self, *, acquired: bool) -> None:
        """Leave the queue. A waiter that stops without the lease passes its wake-up on to the next waiter."""
        try:
            if self._exchange is not None and self._exchange.has_answer:
                self._woken_by = self._wake_key(self._exchange.answer()) or self._woken_by
            if self.is_woken and not acquired:
                self._pass_on()
            if self._exchange is not None and self._node is not None and not self._exchange.is_awaited:
                self._waiters.give_back(self._node, self._exchange)
                self._exchange = None
        except _NODE_ERRORS:
            pass
        finally:
            self._drop()
            self._remember_wait()
            if self._place is not None:
                self._place.leave()

    def _drop(self) -> None:
        exchange, self._exchange = self._exchange, None
        if exchange is not None:
            exchange.close()
