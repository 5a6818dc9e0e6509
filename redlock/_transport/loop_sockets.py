"""The sockets of an event loop: writes outboxes, reads replies, and dials nodes, in callbacks of the loop.

Invariants:
1. No callback waits, and nothing here has an `await`. A dial runs in its own thread, which tells the loop its end.
2. The commands of a turn of the loop go out together, with a single `send` per node.
3. A forked child closes the sockets without a word to the nodes or to the loop, which its parent shares.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, cast

from redlock._clock import now_ms
from redlock._transport.connections import NodeConnections
from redlock._transport.node import PendingConnection
from redlock._transport.socket_errors import NOT_NOW, reason_of
from redlock._transport.sockets import READ_BYTES

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Sequence

    from redlock._core.commands import Command
    from redlock._core.vote_tally import VoteTally
    from redlock._transport.codec import Codec
    from redlock._transport.connected_nodes import DialWait
    from redlock._transport.connection import NodeConnection
    from redlock._transport.exchange import Exchange
    from redlock._transport.node import Node

CLOSED = "the client was closed in this event loop"


class FlushObserver:
    """The sender of a round: its command waits for the next flush, and it hears of the flush."""

    flushed_ms: int | None = None
    """When the command was sent; None before."""


class LoopSockets:
    """A connection to each node, for an event loop.

    Args:
        nodes: The nodes, in their order.
        codec: Encodes the commands.
        loop: The running event loop.
    """

    def __init__(self, nodes: Sequence[Node], codec: Codec, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.is_closed = False
        self.timeout_ms = nodes[0].timeout_ms
        self.state = NodeConnections(nodes, codec, self.timeout_ms, now_ms())
        self.awaits_dial: dict[object, Callable[[], None]] = {}
        """Called when a dial has ended, by the round that waits for it."""
        self._nodes = nodes
        self._dials: dict[NodeConnection, PendingConnection] = {}
        self._unsent: list[FlushObserver] = []
        self._last_command: Command | None = None
        self._is_flush_due = False

    def make_ready(self, command: Command, until_ms: int) -> DialWait:
        """Read if necessary, drop useless connections, and dial; see `NodeConnections.make_ready`."""
        now = now_ms()
        if self.state.needs_read(now):
            self.read_all()
        dials = self.state.make_ready(command, now, until_ms)
        self._close_lost()
        for connection in self.state.to_dial:
            self._dial(connection)
        self.state.to_dial.clear()
        return dials

    def send_soon(self, round_: FlushObserver, command: Command) -> None:
        """Write the outboxes in this turn of the loop; the round has put its command into them."""
        self._unsent.append(round_)
        self._last_command = command
        self._flush_soon()

    def settle(self) -> None:
        """Carry out the requests of the state machine after new bytes, a new round or the end of a connection."""
        state = self.state
        while state.finished:
            tallies, state.finished = state.finished, []
            for tally in tallies:
                if tally.waiter is not None:
                    cast("Callable[[VoteTally], None]", tally.waiter)(tally)
        if state.to_close:
            self._close_lost()
        if any(one.outbox and not one.is_blocked for one in state.all):
            self._flush_soon()

    def abandon(self, *, forked: bool = False) -> None:
        """Close the connections now.

        Args:
            forked: Whether this process is a child of the process that opened them.
        """
        self.is_closed = True
        for dial in self._dials.values():
            dial.abandon()
        self._dials.clear()
        for connection in self.state.all:
            self.state.lost(connection, CLOSED)
        self._close_lost(forked=forked)

    def _flush_soon(self) -> None:
        if not self._is_flush_due:
            self._is_flush_due = True
            self.loop.call_soon(self.flush)

    def flush(self) -> None:
        """Write the outboxes."""
        self._is_flush_due = False
        if self.is_closed:
            return
        if self._unsent:
            now = now_ms()
            for round_ in self._unsent:
                # Other code may have blocked the loop meanwhile: the time of the nodes begins with the send.
                round_.flushed_ms = now
            self._unsent.clear()
        order = self.state.all if self._last_command is None else self.state.order(self._last_command)
        for connection in order:
            if connection.outbox and not connection.is_blocked:
                self._write(connection)
        self.settle()

    def _write(self, connection: NodeConnection) -> None:
        exchange: Exchange | None = connection.handle
        if exchange is None:
            return
        sock, was_blocked = exchange.sock, connection.is_blocked
        words, connection.outbox = connection.outbox, b""
        try:
            sent = sock.send(words)
        except NOT_NOW:
            sent = 0
        except OSError as exc:
            self.state.lost(connection, reason_of(exc))
            return
        if sent == len(words) and not was_blocked:
            return
        connection.keep(words, sent)
        if not was_blocked:
            self.loop.add_writer(sock, self._on_writable, connection)
        elif not connection.is_blocked:
            self.loop.remove_writer(sock)

    def _on_writable(self, connection: NodeConnection) -> None:
        self._write(connection)
        self.settle()

    def _on_readable(self, connection: NodeConnection) -> None:
        self._read(connection)
        self.settle()

    def read_all(self) -> None:
        """Read once from each connection: a node can send without end."""
        for connection in self.state.all:
            self._read(connection)

    def _read(self, connection: NodeConnection) -> None:
        exchange: Exchange | None = connection.handle
        if exchange is None:
            return
        try:
            data = exchange.sock.recv(READ_BYTES)
        except NOT_NOW:
            return
        except OSError as exc:
            self.state.lost(connection, reason_of(exc))
            return
        self.state.receive(connection, data, now_ms())

    def _close_lost(self, *, forked: bool = False) -> None:
        handles, self.state.to_close = self.state.to_close, []
        for handle in handles:
            exchange = cast("Exchange", handle)
            if not forked and not self.loop.is_closed():
                self.loop.remove_reader(exchange.sock)
                self.loop.remove_writer(exchange.sock)
            exchange.close()

    def _dial(self, connection: NodeConnection) -> None:
        loop = self.loop

        def ended() -> None:
            # The loop may be closed by now.
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(self._dial_ended, connection)

        self._dials[connection] = PendingConnection(self._nodes[connection.place], ended)

    def _dial_ended(self, connection: NodeConnection) -> None:
        dial = self._dials.pop(connection, None)
        if dial is None:
            return
        if dial.result is None:
            self.state.dial_failed(connection, dial.error)
        else:
            exchange, run_id, fingerprint = dial.result
            self.loop.add_reader(exchange.sock, self._on_readable, connection)
            self.state.connected(connection, exchange, run_id, fingerprint)
        for callback in list(self.awaits_dial.values()):
            callback()
        self.settle()
