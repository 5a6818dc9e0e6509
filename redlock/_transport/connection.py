"""One connection to one node: commands go out in order, answers come back in order and find the ballot that asked.

Rules of this file:
1. Answers are matched by order. A late answer is read before the one that follows it on the same connection,
   and belongs to the ballot of the round that asked, so it is never counted for another attempt.
2. A node that let a round time out is *suspect* until it has answered something: nobody waits for it.
3. What the kernel does not take at once waits in the outbox, and goes out first when the socket takes more.
4. What is held back goes out with the next command, in one piece and before it.
5. A node with too many replies overdue, or one that sends what is no reply, loses the connection. What a dropped
   connection still carries costs at most one TTL.
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
"""As much as TLS decrypts in one piece: nothing that has arrived stays behind where `select` does not see it."""
_MOST_PENDING = 4_096
_NOT_NOW = (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError)


class NodeConnection:
    """A connection to a node, or the reason why there is none."""

    def __init__(self, place: int, node: Node, selector: selectors.BaseSelector) -> None:
        self.place = place
        self.node = node
        self._selector = selector
        self.sock: socket.socket | None = None
        self.run_id = ""
        self.run_id_argument = b""
        """The node's run_id as the last word of a command that admits."""
        self.refusal: Vote | None = None
        """The node's answer, if it has rejected this client's configuration and has not accepted it since."""
        self.agreed = False
        """Whether the node is known to work under this client's configuration."""
        self.twins: tuple[NodeConnection, ...] = ()
        """Links whose addresses lead to the same server as this one's."""
        self.dial: PendingConnection | None = None
        self.suspect_since_ms: int | None = None
        self.reason = "not connected yet"
        self._dialled: Connected | None = None
        self.taught: VoteTally | None = None
        """Whose command was the last for which the node lacked the scripts."""
        self._reader = ReplyReader()
        self._pending: deque[VoteTally | None] = deque()
        self._held_back = b""
        self._outbox = bytearray()

    @property
    def is_awaited(self) -> bool:
        """Whether the node still has a command to answer, and has not let a round time out."""
        return bool(self._pending) and self.sock is not None and self.suspect_since_ms is None

    @property
    def may_agree(self) -> bool:
        """Whether the node agrees, or may do so with an answer that is still to come."""
        asked = (tally for tally in self._pending if tally is not None)
        return self.agreed or (self.refusal is None and any(SCRIPTS[type(one.command)].admits for one in asked))

    def adopt(self, connected: Connected) -> None:
        """Start with a fresh connection: nothing pending, nothing suspected."""
        self._dialled, self.sock, self.run_id = connected, connected.sock, connected.run_id
        self.run_id_argument = run_id_argument(connected.run_id)
        self._reader = ReplyReader()
        self._forget()
        self.suspect_since_ms, self.reason = None, ""
        self.refusal, self.agreed = None, False
        self._selector.register(self.sock, selectors.EVENT_READ, self)

    def drop(self, reason: str) -> None:
        """Close; the node casts no vote until somebody has dialled it again."""
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
        self._forget()
        if self._dialled is not None:
            self._dialled.close()
            self._dialled = None
        if self.dial is not None:
            self.dial.abandon()
            self.dial = None

    def _forget(self) -> None:
        self._pending.clear()
        self._held_back = b""
        self._outbox.clear()

    def hold_back(self, words: bytes, tally: VoteTally) -> None:
        """Send a command with the next one, or when `flush` says so."""
        self._pending.append(tally)
        self._held_back += words

    def flush(self) -> None:
        """Send what was held back."""
        if self._held_back:
            self._put(b"")

    def send(self, words: bytes, tally: VoteTally) -> bool:
        """Send a command at once, whose answer is for this ballot, or drop the connection."""
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
        """Send all scripts; what the node says to that is for nobody."""
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
        """Keep what the kernel has not taken; False, and the connection dropped, if it has ended."""
        if error is not None and not isinstance(error, _NOT_NOW):
            self.drop(_why(error))
            return False
        self._outbox += memoryview(words)[sent:]
        self._selector.modify(sock, selectors.EVENT_READ | selectors.EVENT_WRITE, self)
        return True

    def write(self) -> bool:
        """Send of the outbox what the kernel takes now; False if the connection has ended."""
        sock = self.sock
        if sock is None:
            return False
        try:
            del self._outbox[: sock.send(self._outbox)]
        except _NOT_NOW:
            return True
        except OSError as exc:
            self.drop(_why(exc))
            return False
        if not self._outbox:
            self._selector.modify(sock, selectors.EVENT_READ, self)
        return True

    def receive(self) -> list[tuple[VoteTally | None, object]]:
        """The answers that have arrived, each with its ballot; drops the connection if it has ended."""
        sock, pending = self.sock, self._pending
        if sock is None:
            return []
        try:
            data = sock.recv(_READ_BYTES)
            replies = self._reader.read(data)
        except _NOT_NOW:
            return []
        except (OSError, UnreadableReply) as exc:
            self.drop(_why(exc))
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


def _why(exc: OSError | UnreadableReply) -> str:
    text = exc.strerror if isinstance(exc, OSError) else None
    return text.lower() if text else str(exc)
