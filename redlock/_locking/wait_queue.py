"""Waiting for a wake-up: a blocking read on one node, so that one release wakes one waiter, first come first served.

Rules of this file:
1. All waiters of a resource wait on the same node as long as they see the same nodes healthy: the first healthy
   one in an order that is made from the name.
2. Wake-ups are hints: losing one costs time, never safety. Every wait has an end, and it is the client's clock that
   ends it: a server looks only ten times a second whose blocking read is over.
3. A wait has a connection of its own, which is kept for the next one. The read stays where it is in the queue
   while its client makes an attempt; one that is left unanswered in the end is closed.
   It is dialled in another thread, for at most one node timeout and never beyond the end of the wait.
4. Who had to wait for a resource a moment ago goes to the queue first, and asks the nodes when it is woken, or soon
   after: else every hand-over of a contended lock begins with five nodes that say no. As every release leaves a
   wake-up, it finds one at once where nobody is before it.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from redlock._clock import now_ms
from redlock._core.backoff import early_ms, first_ms, pause_ms, sleep_ms
from redlock._locking.local_wait_queue import LocalWaitQueue, Place
from redlock._transport import codec as wire
from redlock._transport import node_info
from redlock._transport.exchange import pack
from redlock._transport.node import ERRORS, PendingConnection, UnsuitableNode, describe_failure, refuse

if TYPE_CHECKING:
    from collections.abc import Sequence

    from redlock._core.commands import Names
    from redlock._core.votes import Refusal
    from redlock._transport.node import Connected, Node

_MOST_KEPT = 32
_MOST_REMEMBERED = 1_024
_AT_ONCE_SECONDS = 0.001
_MOST_EARLY = 6
_READ_SECONDS = 2
_WAKE = wire.Script.load("wake")
_TROUBLE = (*ERRORS, UnsuitableNode)
_LONGEST_KEPT_MS = 30_000
"""A firewall can forget a connection that is idle for longer, and tells neither side."""


class WaiterPool:
    """The waiting connections of one client, kept by node."""

    def __init__(self, nodes: Sequence[Node], codec: wire.Codec) -> None:
        self._nodes = nodes
        self._codec = codec
        self.local_queue = LocalWaitQueue()
        self.reset_after_fork()

    def reset_after_fork(self) -> None:
        """In a forked child: the parent's connections are not ours."""
        self._kept: dict[Node, list[tuple[int, Connected]]] = {node: [] for node in self._nodes}
        self._crowded: dict[Names, tuple[int, int]] = {}
        self.local_queue.reset_after_fork()

    def lately_waited_ms(self, names: Names) -> int:
        """How long the last wait for these took, if that was a moment ago; else 0."""
        met = self._crowded.get(names)
        return met[1] if met is not None and met[0] > now_ms() else 0

    def expects_others(self, names: Names) -> bool:
        """Whether others are likely to be before whoever wants these now."""
        return self.local_queue.has_line(names) or self.lately_waited_ms(names) > 0

    def remember(self, names: Names, waited_ms: int, length_ms: int) -> None:
        """Others wanted the same, and are likely to for this long; 0 waited: nobody was met."""
        if waited_ms:
            if len(self._crowded) >= _MOST_REMEMBERED:
                self._crowded.clear()
            self._crowded[names] = now_ms() + length_ms, waited_ms
        elif self._crowded:
            self._crowded.pop(names, None)

    def close(self) -> None:
        """Close the connections that nobody waits on."""
        for kept in self._kept.values():
            while kept:
                kept.pop()[1].close()

    def node_for(self, names: Names) -> Node | None:
        """Where waiters of these resources wait: the first healthy node in an order made from the name."""
        order = (self._nodes[place] for place in wire.waiting_order(names, len(self._nodes)))
        return next((node for node in order if not node.error), None)

    def keys(self, names: Names) -> list[str]:
        """Where on a node the wake-ups for these resources lie."""
        return self._codec.wake_keys(names)

    def borrow(self, node: Node, seconds: float) -> Connected | None:
        """A connection for one wait; None where it is not there in this time.

        Raises:
            UnsuitableNode: The node can't be reached, or not within one node timeout; the message says why.
        """
        return self._kept_for(node) or self._dial(node, seconds)

    def _kept_for(self, node: Node) -> Connected | None:
        kept = self._kept[node]
        while kept:
            try:
                since_ms, connected = kept.pop()
            except IndexError:
                # Another thread took the last one.
                return None
            if now_ms() - since_ms < _LONGEST_KEPT_MS:
                return connected
            connected.close()
        return None

    @staticmethod
    def _dial(node: Node, seconds: float) -> Connected | None:
        dial = PendingConnection(node)
        try:
            if not dial.done.wait(min(seconds, node.timeout_ms / 1000)):
                if seconds < node.timeout_ms / 1000:
                    return None
                dial.mark_overdue()
                raise UnsuitableNode(node.error or f"no answer within {node.timeout_ms} ms")
            if dial.result is None:
                raise UnsuitableNode(dial.error)
            result, dial.result = dial.result, None
            return result
        finally:
            dial.abandon()

    def give_back_connection(self, node: Node, connected: Connected) -> None:
        """A connection with nothing under way."""
        if len(self._kept[node]) < _MOST_KEPT:
            self._kept[node].append((now_ms(), connected))
        else:
            connected.close()


class QueuedWaiter:
    """The sleep between the attempts of one waiter: its place in the queue, and the wake-up in its hand.

    Args:
        waiters: The waiting connections.
        names: What it waits for.
        wake_ms: For how long a wake-up is good: the lease's TTL.
    """

    def __init__(self, waiters: WaiterPool, names: Names, wake_ms: int) -> None:
        self._waiters = waiters
        self._names = names
        self._wake_ms = wake_ms
        self._node: Node | None = None
        self._dialled: Connected | None = None
        self._reading = False
        self._asked = 0.0
        self._place: Place | None = None
        self._early = 0
        self._woken_by = ""
        self._slept = False
        self._began_ms = 0

    @property
    def is_woken(self) -> bool:
        """Whether it has a wake-up in its hand."""
        return bool(self._woken_by)

    def length_ms(self, refusal: Refusal, lost_rounds: int, chance: float) -> tuple[int, bool]:
        """How long to sleep after a lost election, and whether a wake-up can end it."""
        if self.is_woken and self._early < _MOST_EARLY:
            # A wake-up overtakes the release on its way to the other nodes: the lock is about to be free.
            self._early += 1
            return early_ms(self._early, chance), False
        sleep = sleep_ms(refusal, chance)
        return (pause_ms(refusal, lost_rounds, chance), False) if sleep is None else (sleep, True)

    def queue_first(self, most_ms: int) -> None:
        """Others are likely to be before it: wait for its turn and a wake-up before the first attempt.

        Args:
            most_ms: For how long at most.
        """
        until_ms, lately_ms = now_ms() + most_ms, self._waiters.lately_waited_ms(self._names)
        self.join_local_queue(most_ms)
        self.wait(max(0, min(first_ms(lately_ms, self._wake_ms), until_ms - now_ms())), wakes=True)

    def join_local_queue(self, most_ms: int) -> bool:
        """Be the one of this process that waits for them; True if that took time, and it may be free now."""
        if self._place is None:
            self._place = self._waiters.local_queue.join(self._names)
        return self._place.wait(most_ms / 1000)

    def wait(self, length_ms: int, *, wakes: bool) -> None:
        """Sleep; where a wake-up can come, until it comes."""
        if not wakes:
            time.sleep(length_ms / 1000)
            return
        keys = self._waiters.keys(self._names)
        if self.is_woken and len(keys) > 1:
            # Held up by another resource of its set: the next waiter gets the wake-up, and it waits for the others.
            keys.remove(self._woken_by)
            self._pass_on()
        self._woken_by, self._early = "", 0
        self._began_ms = self._began_ms or now_ms()
        began = time.monotonic()
        until = began + length_ms / 1000
        try:
            self._until_woken(keys, until)
        finally:
            self._slept = time.monotonic() - began > _AT_ONCE_SECONDS

    def _until_woken(self, keys: list[str], until: float) -> None:
        while not self.is_woken and (left := until - time.monotonic()) > 0:
            try:
                self._woken_by = self._read(keys, until)
            except _TROUBLE as exc:
                if self._node is not None:
                    self._node.mark_down(describe_failure(exc, self._node.timeout_ms))
                self._drop()
                time.sleep(min(0.01, left))

    def _read(self, keys: list[str], until: float) -> str:
        """The key that a wake-up came from; empty if none came for as long as the server was asked to wait."""
        if self._dialled is None:
            self._node = self._waiters.node_for(self._names)
            left = max(0.0, until - time.monotonic())
            if self._node is None:
                time.sleep(left)
                return ""
            self._dialled = self._waiters.borrow(self._node, left)
            if self._dialled is None:
                return ""
        if not self._reading:
            self._reading = True
            self._asked = time.monotonic()
            self._dialled.exchange.send(pack("BLPOP", *keys, str(_READ_SECONDS)), self._soon)
        try:
            answer = self._dialled.exchange.answer(until)
        except TimeoutError:
            return ""
        self._reading = False
        if answer is None and time.monotonic() - self._asked < _READ_SECONDS / 2:
            # Asked again at once it would say so again, over and over.
            raise UnsuitableNode("does not wait as a Redis server does")
        return self._woken(answer)

    def _woken(self, answer: object) -> str:
        """The key that an answer to the blocking read names; empty if it names none."""
        refuse(answer)
        keys = [""] if answer is None else self._waiters.keys(self._names)
        named = node_info.text(answer[0]) if isinstance(answer, list) and answer else ""
        if named not in keys:
            raise UnsuitableNode("answered something that is no wake-up")
        return named

    def _pass_on(self) -> None:
        try:
            if self._dialled is not None:
                words = pack("EVAL", _WAKE.source, "1", self._woken_by, str(self._wake_ms))
                refuse(self._dialled.exchange.ask(words, 1, self._soon)[0])
        except _TROUBLE:
            self._drop()

    @property
    def _soon(self) -> float:
        return time.monotonic() + (0.1 if self._node is None else self._node.timeout_ms / 1000)

    def end(self, *, won: bool) -> None:
        """Leave the queue. Who stops waiting without the lease leaves a wake-up that it has to the next one."""
        try:
            if self._reading and self._dialled is not None:
                self._woken_by = self._woken(self._dialled.exchange.answer(None)) or self._woken_by
                self._reading = False
            if self.is_woken and not won:
                self._pass_on()
            if self._dialled is not None and self._node is not None:
                self._waiters.give_back_connection(self._node, self._dialled)
                self._dialled = None
        except _TROUBLE:
            pass
        finally:
            self._drop()
            # A wake-up lies there for as long, unless somebody has taken it.
            waited_ms = max(1, now_ms() - self._began_ms) if self._slept else 0
            self._waiters.remember(self._names, waited_ms, self._wake_ms)
            if self._place is not None:
                self._place.leave()

    def _drop(self) -> None:
        connected, self._dialled, self._reading = self._dialled, None, False
        if connected is not None:
            connected.close()
