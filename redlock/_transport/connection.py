"""A connection to a node: commands go out in order, and each reply is matched by order to the tally of its round.

Invariants:
1. A late reply belongs to the tally of its own round and never counts for another attempt.
2. A node that let a round time out is *suspect* until its next reply, and no round waits for a suspect node.
3. Bytes that the kernel does not accept at once wait in the outbox and go out first.
4. Commands that were held back go out in one piece with the next command, and before it.
5. A node with too many overdue replies, or with a reply that is not valid, loses the connection. Commands that are lost
   with a connection cost at most one TTL.
"""

from __future__ import annotations

import selectors
import ssl
from collections import deque
from typing import TYPE_CHECKING

from redlock._transport.codec import LOAD_SCRIPTS, SCRIPTS, run_id_argument
from redlock._transport.reply_reader import ReplyReader, UnreadableReply

if TYPE_CHECKING:
    import socket

    from redlock._core.vote_tally import VoteTally
    from redlock._core.votes import Vote
    from redlock._transport.node import Connected, Node, PendingConnection

_READ_BYTES = 16_384
"""The largest piece that TLS decrypts: no data stays in a buffer that `select` does not see."""
_MOST_PENDING = 4_096
_NOT_NOW = (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError)


class NodeConnection:
    """A connection to a node, or the reason why no connection exists."""

    def __init__(self, place: int, node: Node, selector: selectors.BaseSelector) -> None:
        self.place = place
        self.node = node
        self._selector = selector
        self.sock: socket.socket | None = None
        self.run_id = ""
        self.run_id_argument = b""
        """The node's run_id as the last argument of a command whose script admits."""
        self.refusal: Vote | None = None
        """The node's reply, if the node has rejected this client's configuration and not accepted it since."""
        self.agreed = False
        """Whether the node is known to accept this client's configuration."""
        self.duplicates: tuple[NodeConnection, ...] = ()
        """Connections whose addresses lead to the same server."""
        self.dial: PendingConnection | None = None
        self.suspect_since_ms: int | None = None
        self.reason = "not connected yet"
        self._connected: Connected | None = None
        self.scripts_sent_for: VoteTally | None = None
        """The tally of the last command for which the node lacked the scripts."""
        self._reader = ReplyReader()
        self._pending: deque[VoteTally | None] = deque()
        self._held_back = b""
        self._outbox = bytearray()

    @property
    def is_awaited(self) -> bool:
        """Whether the node still has to answer a command and is not suspect."""
        return bool(self._pending) and self.sock is not None and self.suspect_since_ms is None

    @property
    def may_agree(self) -> bool:
        """Whether the node accepts the configuration, or may accept it with a reply that is still pending."""
        asked = (tally for tally in self._pending if tally is not None)
        return self.agreed or (self.refusal is None and any(SCRIPTS[type(tally.command)].admits for tally in asked))

    def adopt(self, connected: Connected) -> None:
        """Use a new connection, with no reply pending and no suspicion."""
        self._connected, self.sock, self.run_id = connected, connected.sock, connected.run_id
        self.run_id_argument = run_id_argument(connected.run_id)
        self._reader = ReplyReader()
        self._clear()
        self.suspect_since_ms, self.reason = None, ""
        self.refusal, self.agreed = None, False
        self._selector.register(self.sock, selectors.EVENT_READ, self)

    def drop(self, reason: str) -> None:
        """Close the connection; the node casts no vote until the next dial succeeds."""
        self.reason = reason
        for tally in self._pending:
            if tally is not None:
                tally.record_silence(self.place, reason)
        if self.sock is not None:
            self._selector.unregister(self.sock)
        self.abandon()

    def abandon(self) -> None:
        """Close without touching the selector, which a forked child shares with its parent."""
        self.sock = None
        self._clear()
        if self._connected is not None:
            self._connected.close()
            self._connected = None
        if self.dial is not None:
            self.dial.abandon()
            self.dial = None

    def _clear(self) -> None:
        self._pending.clear()
        self._held_back = b""
        self._outbox.clear()

    def hold_back(self, words: bytes, tally: VoteTally) -> None:
        """Keep a command back until the next command or `flush`."""
        self._pending.append(tally)
        self._held_back += words

    def flush(self) -> None:
        """Send the commands that were held back."""
        if self._held_back:
            self._put(b"")

    def send(self, words: bytes, tally: VoteTally) -> bool:
        """Send a command whose reply belongs to this tally, or drop the connection; False if not sent."""
        sock, pending = self.sock, self._pending
        if sock is None:
            return False
        pending.append(tally)
        if self._held_back or self._outbox or len(pending) > _MOST_PENDING:
            return self._put(words)
        try:
            sent = sock.send(words)
        except OSError as exc:
            return self._keep(sock, words, 0, exc)
        return sent == len(words) or self._keep(sock, words, sent)

    def load_scripts(self) -> None:
        """Send all scripts; the replies are ignored."""
        if self.sock is not None:
            self._pending.extend([None] * len(SCRIPTS))
            self._put(LOAD_SCRIPTS)

    def _put(self, words: bytes) -> bool:
        sock = self.sock
        if sock is None:
            return False
        if self._held_back:
            words, self._held_back = self._held_back + words, b""
        if len(self._pending) > _MOST_PENDING:
            self.drop("takes no more commands: its answers are overdue")
            return False
        if self._outbox:
            self._outbox += words
            return self.write()
        try:
            sent = sock.send(words)
        except OSError as exc:
            return self._keep(sock, words, 0, exc)
        return sent == len(words) or self._keep(sock, words, sent)

    def _keep(self, sock: socket.socket, words: bytes, sent: int, error: OSError | None = None) -> bool:
        """Keep the bytes that the kernel did not accept; False after a drop, if the connection has ended."""
        if error is not None and not isinstance(error, _NOT_NOW):
            self.drop(_reason_of(error))
            return False
        self._outbox += memoryview(words)[sent:]
        self._selector.modify(sock, selectors.EVENT_READ | selectors.EVENT_WRITE, self)
        return True

    def write(self) -> bool:
        """Send as much of the outbox as the kernel accepts; False if the connection has ended."""
        sock = self.sock
        if sock is None:
            return False
        try:
            del self._outbox[: sock.send(self._outbox)]
        except _NOT_NOW:
            return True
        except OSError as exc:
            self.drop(_reason_of(exc))
            return False
        if not self._outbox:
            self._selector.modify(sock, selectors.EVENT_READ, self)
        return True

    def receive(self) -> list[tuple[VoteTally | None, object]]:
        """The replies that have arrived, each with its tally. Drops a connection that has ended."""
        sock, pending = self.sock, self._pending
        if sock is None:
            return []
        try:
            data = sock.recv(_READ_BYTES)
            replies = self._reader.read(data)
        except _NOT_NOW:
            return []
        except (OSError, UnreadableReply) as exc:
            self.drop(_reason_of(exc))
            return []
        count = len(replies)
        if count == 1 and pending:
            # Nearly always.
            self.suspect_since_ms = None
            return [(pending.popleft(), replies[0])]
        if not data or count > len(pending):
            self.drop("answered without being asked" if data else "the node closed the connection")
            return []
        if replies:
            self.suspect_since_ms = None
        return [(pending.popleft(), reply) for reply in replies]


def _reason_of(exc: OSError | UnreadableReply) -> str:
    text = exc.strerror if isinstance(exc, OSError) else None
    return text.lower() if text else str(exc)
