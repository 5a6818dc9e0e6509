"""The sockets of an event loop: performs the sends, reads and dials that the state machine asks for, in callbacks.

Invariants:
1. No callback waits, and nothing here has an `await`. A dial runs in its own thread, which tells the loop its end.
2. The commands of an iteration of the loop go out together, with a single `send` per node.
3. A forked child closes the sockets without a word to the nodes or to the loop, which its parent shares.
4. An exception of a signal handler can interrupt each callback. A connection that was in use then ends: a later reply
   could count for another command. The other connections, and all that was to be sent, go on in the next iteration.
5. Callbacks run in an empty context: they serve all tasks, and a connection outlives the task that dials.
"""

from __future__ import annotations

import contextlib
import functools
from collections import deque
from contextvars import Context
from typing import TYPE_CHECKING

from redlock._clock import now_ms
from redlock._transport.exchange import READ_BYTES
from redlock._transport.node import PendingConnection
from redlock._transport.socket_errors import NOT_NOW, reason_of

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Iterable, Sequence

    from redlock._core.commands import Command, Round
    from redlock._core.vote_tally import VoteTally
    from redlock._transport.connection import NodeConnection
    from redlock._transport.connections import NodeConnections
    from redlock._transport.node import Node

_LATE_SECONDS = 0.001


class LoopSockets:
    """The sockets of a connection set. `on_event` is called after each event of a socket."""

    def __init__(
        self,
        nodes: Sequence[Node],
        state: NodeConnections,
        loop: asyncio.AbstractEventLoop,
        on_event: Callable[[], None],
    ) -> None:
        self._nodes, self._state, self._loop, self._on_event = nodes, state, loop, on_event
        self._dials: dict[NodeConnection, PendingConnection] = {}
        self._before_send: deque[Callable[[], None]] = deque()
        self._last_command: Command | None = None
        self._is_flush_due = False
        self._flushes = 0

    def begin(self, round_: Round, now_ms: int) -> VoteTally:
        """Put the command of a round into the outboxes; `send_soon` sends them."""
        try:
            return self._state.begin(round_, now_ms)
        except BaseException:
            self._interrupted(self._state.all)
            raise

    def _interrupted(self, connections: Iterable[NodeConnection]) -> None:
        """Something was interrupted that uses these connections; the next iteration tells the rounds of their end."""
        self._state.interrupted(connections)
        self._flush_soon()

    def send_soon(self, command: Command, before_send: Callable[[], None] | None = None) -> None:
        """Write the outboxes, which have this command, in this iteration of the loop.

        `before_send` is called before the write, and a second time after an interruption of the call or a slow write.
        """
        self._last_command = command
        if before_send is not None:
            self._before_send.append(before_send)
        self._flush_soon()

    def _flush_soon(self) -> None:
        if not self._is_flush_due:
            # In this order: after an exception between these lines, a second `flush` does no harm.
            context = Context()
            self._loop.call_soon(self.flush, context=context)
            self._loop.call_soon(self._ensure_flushed, self._flushes, context=context)
            self._is_flush_due = True

    def flush(self) -> None:
        """Write the outboxes."""
        try:
            self._is_flush_due = False
            self._flushes += 1
            began, starts = self._loop.time(), tuple(self._before_send)
            while self._before_send:
                self._before_send[0]()
                self._before_send.popleft()
            order = self._state.all if self._last_command is None else self._state.order(self._last_command)
            for connection in order:
                if connection.outbox and not connection.is_blocked:
                    self._write(connection)
            if self._loop.time() - began > _LATE_SECONDS:
                # This process stood still, and the last nodes get the command only now.
                for start in starts:
                    start()
        except BaseException:
            # A signal handler of the application has raised this. The next iteration sends the rest.
            self._flush_soon()
            raise
        self._on_event()

    def _ensure_flushed(self, flushes: int) -> None:
        """Flush after an exception at the very start of `flush`, where no `except` can see the exception."""
        if flushes == self._flushes:
            self.flush()

    def _write(self, connection: NodeConnection) -> None:
        if connection.handle is None:
            return
        try:
            sock, was_blocked = connection.handle.sock, connection.is_blocked
            try:
                words, connection.outbox = connection.outbox, b""
                sent = sock.send(words)
            except NOT_NOW:
                sent = 0
            except OSError as exc:
                self._state.lost(connection, reason_of(exc))
                return
            if sent == len(words) and not was_blocked:
                return
            connection.keep(words, sent)
            if not was_blocked:
                self._loop.add_writer(sock, self._on_writable, connection)
            elif not connection.is_blocked:
                self._loop.remove_writer(sock)
        except BaseException:
            self._interrupted([connection])
            raise

    def _on_writable(self, connection: NodeConnection) -> None:
        self._write(connection)
        self._on_event()

    def _on_readable(self, connection: NodeConnection) -> None:
        self._read(connection)
        self._on_event()

    def read_all(self) -> None:
        """Read once from each connection: a node can send without end."""
        for connection in self._state.all:
            self._read(connection)

    def _read(self, connection: NodeConnection) -> None:
        if connection.handle is None:
            return
        try:
            try:
                data = connection.handle.sock.recv(READ_BYTES)
            except NOT_NOW:
                return
            except OSError as exc:
                self._state.lost(connection, reason_of(exc))
                return
            self._state.receive(connection, data, now_ms())
            if connection.outbox and not connection.is_blocked:
                self._flush_soon()
        except BaseException:
            self._interrupted([connection])
            raise

    def close_ended(self) -> None:
        """Close the connections that have ended."""
        for exchange in self._state.to_close:
            if not (exchange.is_inherited or self._loop.is_closed()):
                self._loop.remove_reader(exchange.sock)
                self._loop.remove_writer(exchange.sock)
            exchange.close()
        self._state.to_close.clear()

    def dial(self) -> None:
        """Start the dials that the state asks for, each in its own thread."""
        to_dial = self._state.to_dial
        while to_dial:
            connection = to_dial[-1]
            # An exception may have prevented the last `pop`: this dial can be under way, or have ended.
            if connection.is_dialling and connection not in self._dials:
                ended = functools.partial(self._tell_loop, connection)
                self._dials[connection] = PendingConnection(self._nodes[connection.place], ended)
            # Only now: after an exception the next round starts this dial.
            to_dial.pop()

    def _tell_loop(self, connection: NodeConnection) -> None:
        # The loop may be closed by now.
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._dial_ended, connection)

    def _dial_ended(self, connection: NodeConnection) -> None:
        self.adopt_ended((connection,))
        self._on_event()

    def adopt_ended(self, connections: Iterable[NodeConnection]) -> None:
        """Take notice of the dials of these connections that have ended.

        A dial calls back once. If that callback is interrupted at its very start, the next round takes notice here.
        """
        for connection in connections:
            dial = self._dials.get(connection)
            if dial is not None and dial.done.is_set():
                self._adopt(connection, dial)

    def _adopt(self, connection: NodeConnection, dial: PendingConnection) -> None:
        exchange = dial.result
        try:
            if exchange is None:
                self._state.dial_failed(connection, dial.error)
            else:
                self._state.connected(connection, exchange, exchange.run_id, exchange.fingerprint)
                Context().run(self._loop.add_reader, exchange.sock, self._on_readable, connection)
            del self._dials[connection]
        except BaseException:
            self._dials.pop(connection, None)
            self._state.dial_failed(connection, "the dial was interrupted")
            if connection.handle is None:
                dial.abandon()
            self._interrupted((connection,))
            raise

    def abandon(self, reason: str) -> None:
        """Close everything now, for this reason."""
        self._before_send.clear()
        for dial in self._dials.values():
            dial.abandon()
        self._dials.clear()
        for connection in self._state.all:
            self._state.lost(connection, reason)
        self.close_ended()
