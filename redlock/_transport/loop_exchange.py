"""A connection of an event loop for a single request at a time: the blocking read of a waiter.

Invariants:
1. Only `dial` and `wait` have an `await`. A request is sent whole, or the connection has failed.
2. A failed connection reads nothing any more; the next `answer` raises the failure.
"""

from __future__ import annotations

import asyncio
import contextlib
import copy
from collections import deque
from contextvars import Context
from typing import TYPE_CHECKING

from redlock._transport.node import PendingConnection, UnsuitableNode, refuse
from redlock._transport.reply_reader import UnreadableReply
from redlock._transport.socket_errors import NOT_NOW, ConnectionFailed, NoReply, reason_of

if TYPE_CHECKING:
    from redlock._transport.exchange import Exchange
    from redlock._transport.node import Node

_FULL = "the connection accepts no more requests"


class Signal:
    """Wakes the task that waits for it."""

    _future: asyncio.Future[None] | None = None

    def put(self, _hint: None = None) -> None:
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


class LoopExchange(Signal):
    """A connection on which requests are answered in order. From now on the connection owns the exchange."""

    def __init__(self, exchange: Exchange, loop: asyncio.AbstractEventLoop) -> None:
        self._exchange, self._loop = exchange, loop
        self._is_ignored: deque[bool] = deque()
        """For each request without an answer: whether its answer is ignored."""
        self._answers: deque[object] = deque()
        self._failure: Exception | None = None
        # In an empty context: the connection outlives the task that dials.
        Context().run(loop.add_reader, exchange.sock, self._on_readable)

    @classmethod
    async def dial(cls, node: Node, seconds: float) -> LoopExchange | None:
        """A new connection; None if no connection is ready in this time, which is shorter than a node timeout.

        Raises:
            UnsuitableNode: The node cannot be reached within the node timeout; the message has the reason.
        """
        loop, ended = asyncio.get_running_loop(), Signal()

        def tell() -> None:
            # The loop may be closed by now.
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(ended.put)

        pending = PendingConnection(node, tell)
        try:
            await ended.wait(min(seconds, node.timeout_ms / 1000))
            connected = pending.take(seconds)
            return None if connected is None else cls(connected, loop)
        finally:
            pending.abandon()

    @property
    def is_open(self) -> bool:
        """Whether the connection can be used."""
        return self._failure is None

    @property
    def has_answer(self) -> bool:
        """Whether `answer` has an answer, or the reason of a failure."""
        return bool(self._answers) or self._failure is not None

    def send(self, words: bytes, *, is_answer_ignored: bool = False) -> None:
        """Send a request.

        Raises:
            ConnectionFailed: The system did not accept the whole request, or the connection has failed before.
            UnreadableReply: As for `answer`; also `UnsuitableNode`.
        """
        if self._failure is None:
            try:
                reason = "" if self._exchange.sock.send(words) == len(words) else _FULL
            except NOT_NOW:
                reason = _FULL
            except OSError as exc:
                reason = reason_of(exc)
            if reason:
                self._fail(ConnectionFailed(reason))
        if self._failure is not None:
            # A copy: the frame of this method would keep the error alive, and the error the frame.
            raise copy.copy(self._failure)
        self._is_ignored.append(is_answer_ignored)

    async def wait(self, seconds: float) -> None:
        """Wait for an answer or a failure, at most this long."""
        if not self.has_answer:
            await super().wait(seconds)

    def answer(self) -> object:
        """The answer that has arrived, perhaps while other code blocked the loop.

        Raises:
            NoReply: No answer has arrived.
            ConnectionFailed: The connection has ended.
            UnreadableReply: The bytes are not a valid reply.
            UnsuitableNode: The node refused a request whose answer is ignored.
        """
        if not (self.has_answer or self._exchange.is_inherited):
            self._on_readable()
        if not self._answers:
            raise copy.copy(self._failure or NoReply("no answer in time"))
        return self._answers.popleft()

    def _on_readable(self) -> None:
        try:
            self._take(self._exchange.answer(None))
            while not self._exchange.is_silent:
                self._take(self._exchange.answer(None))
        except NoReply:
            return
        except (ConnectionFailed, UnreadableReply, UnsuitableNode) as failure:
            self._fail(failure)
        if self.has_answer:
            self.put()

    def _take(self, reply: object) -> None:
        if not self._is_ignored:
            raise UnreadableReply("answered without being asked")
        if self._is_ignored.popleft():
            refuse(reply)
        else:
            self._answers.append(reply)

    def _fail(self, failure: Exception) -> None:
        self._failure = failure.with_traceback(None)
        self._loop.remove_reader(self._exchange.sock)

    def close(self) -> None:
        """End the connection. A forked child does not touch the loop, which the parent shares."""
        if not (self._exchange.is_inherited or self._loop.is_closed()):
            self._loop.remove_reader(self._exchange.sock)
        self._failure = self._failure or ConnectionFailed("the connection was closed")
        self._exchange.close()
