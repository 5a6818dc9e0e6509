"""The sockets of a connection set: performs the sends, reads, waits and dials that the state machine asks for.

Invariants: no thread per node.
"""

from __future__ import annotations

import queue
from contextlib import suppress
from typing import TYPE_CHECKING

from redlock._clock import now_ms
from redlock._transport.exchange import READ_BYTES
from redlock._transport.node import PendingConnection
from redlock._transport.readiness import READABLE, Readiness
from redlock._transport.socket_errors import NOT_NOW, reason_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from redlock._transport.connection import NodeConnection
    from redlock._transport.connections import NodeConnections
    from redlock._transport.exchange import Exchange
    from redlock._transport.node import Node


class Sockets:
    """The sockets of a connection set."""

    def __init__(self, nodes: Sequence[Node], state: NodeConnections) -> None:
        self._nodes, self._state = nodes, state
        self.has_refused = False
        """Whether a socket has refused bytes; the user of the sockets resets this."""
        self._readiness = Readiness()
        self.wait = self._readiness.wait
        self._dials: dict[NodeConnection, PendingConnection] = {}
        self._ended_dials: queue.SimpleQueue[None] = queue.SimpleQueue()
        """A hint that a dial has ended."""

    def receive(self, ready: Sequence[tuple[int, int]]) -> int:
        """Read these sockets, which `wait` has found; returns the clock after the read."""
        state, connections, arrived = self._state, self._readiness.connections, []
        for descriptor, events in ready:
            connection = connections[descriptor]
            if events != READABLE:
                self.write((connection,))
                if connection.handle is None:
                    continue
            try:
                arrived.append((connection, connection.handle.sock.recv(READ_BYTES)))
            except NOT_NOW:
                continue
            except OSError as exc:
                state.lost(connection, reason_of(exc))
        now = now_ms()
        for connection, data in arrived:
            state.receive(connection, data, now)
            if connection.outbox:
                self.write((connection,))
        if state.to_close:
            self.close_ended()
        return now

    def write(self, connections: Iterable[NodeConnection]) -> None:
        """Write as much of the outboxes of these connections as the system accepts."""
        for connection in connections:
            words = connection.outbox
            if not words:
                continue
            # Before the send: an exception after the send must not cause a second one.
            connection.outbox, connection.is_sending = b"", True
            try:
                sent = connection.handle.sock.send(words)
            except NOT_NOW:
                sent = 0
            except OSError as exc:
                self._state.lost(connection, reason_of(exc))
                continue
            if sent != len(words) or connection.is_blocked:
                connection.keep(words, sent)
                self._readiness.watch_room(connection.handle.sock, wanted=connection.is_blocked)
                self.has_refused = self.has_refused or connection.is_blocked
            connection.is_sending = False
        if self._state.to_close:
            self.close_ended()

    def dial(self) -> None:
        """Start the dials that the state asks for, each in its own thread, and use those that have ended."""
        to_dial = self._state.to_dial
        while to_dial:
            connection = to_dial.pop()
            self._dials[connection] = PendingConnection(self._nodes[connection.place], self._note_ended_dial)
        self._adopt_ended()

    def _note_ended_dial(self) -> None:
        if self._ended_dials.empty():
            self._ended_dials.put(None)

    def await_dial(self, wait_ms: int) -> None:
        """Wait until a dial has ended, at most this long."""
        with suppress(queue.Empty):
            self._ended_dials.get(timeout=wait_ms / 1000)

    def _adopt_ended(self) -> None:
        for connection, dial in list(self._dials.items()):
            if not dial.done.is_set():
                continue
            del self._dials[connection]
            if dial.result is None:
                self._state.dial_failed(connection, dial.error)
            else:
                self.adopt(connection, dial.result)

    def adopt(self, connection: NodeConnection, exchange: Exchange) -> None:
        """Use a new connection to a node."""
        self._readiness.watch(exchange.sock, connection)
        self._state.connected(connection, exchange, exchange.run_id, exchange.fingerprint)

    def close_ended(self) -> None:
        """Close the connections that have ended."""
        for exchange in self._state.to_close:
            self._readiness.forget(exchange.sock)
            exchange.close()
        self._state.to_close.clear()

    def leave(self, reason: str) -> list[Exchange]:
        """Use the sockets no more, for this reason; returns the open connections, which the caller closes."""
        for connection in self._state.all:
            self._state.lost(connection, reason)
        for dial in self._dials.values():
            dial.abandon()
        return self._state.to_close

    def abandon(self) -> None:
        """Close everything."""
        for exchange in self.leave("the client was closed"):
            exchange.close()
