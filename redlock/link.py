"""One connection to one node: commands go out in order, answers come back in order and keep their ticket.

Rules of this file:
1. Answers are matched by order. A late answer is read before the one that follows it on the same connection,
   and carries the ticket of the round that asked, so it is never counted for another attempt.
2. A node that let a round time out is *suspect* until it has answered something: nobody waits for it.
3. What can't be sent at once is not sent later: the connection is dropped. What a dropped connection still
   carries costs at most one TTL.
"""

from __future__ import annotations

import selectors
import ssl
from collections import deque
from typing import TYPE_CHECKING

import hiredis

from redlock.wire import last_word

if TYPE_CHECKING:
    import socket

    from redlock.model import Vote
    from redlock.nodes import Dial, Dialled, Node

_READ_SIZE = 4_096
_MOST_PENDING = 1_000


class Link:
    """A connection to a node, or the reason why there is none."""

    def __init__(self, place: int, node: Node, selector: selectors.BaseSelector) -> None:
        self.place = place
        self.node = node
        self._selector = selector
        self.sock: socket.socket | None = None
        self.run_id = ""
        self.last_word = b""
        """The node's run_id as the last word of a command that admits."""
        self.refusal: Vote | None = None
        """What the node said last, if that was that other clients work there under other terms."""
        self.dial: Dial | None = None
        self.suspect_since_ms: int | None = None
        self.reason = "not connected yet"
        self._dialled: Dialled | None = None
        self._reader, self._tls = hiredis.Reader(), False
        self._pending: deque[int] = deque()

    def adopt(self, dialled: Dialled) -> None:
        """Start with a fresh connection: nothing pending, nothing suspected."""
        self._dialled, self.sock, self.run_id = dialled, dialled.sock, dialled.run_id
        self.last_word = last_word(dialled.run_id)
        self._reader, self._tls = hiredis.Reader(), isinstance(dialled.sock, ssl.SSLSocket)
        self._pending.clear()
        self.suspect_since_ms, self.reason = None, ""
        self._selector.register(self.sock, selectors.EVENT_READ, self)

    def drop(self, reason: str) -> None:
        """Close; the node casts no vote until somebody has dialled it again."""
        self.reason = reason
        if self.sock is not None:
            self._selector.unregister(self.sock)
        self.abandon()

    def abandon(self) -> None:
        """Close without touching the selector, which a forked child shares with its parent."""
        self.sock = None
        if self._dialled is not None:
            self._dialled.connection.disconnect()  # type: ignore[no-untyped-call]
            self._dialled = None

    def send(self, words: bytes, ticket: int, answers: int = 1) -> bool:
        """Send commands at once, with this ticket on each answer that they will have, or drop the connection."""
        if self.sock is None:
            return False
        for _ in range(answers):
            self._pending.append(ticket)
        try:
            whole = self.sock.send(words) == len(words) and len(self._pending) <= _MOST_PENDING
        except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
            whole = False
        except OSError as exc:
            self.drop((exc.strerror or str(exc)).lower())
            return False
        if not whole:
            self.drop("takes no more commands: its answers are overdue")
        return whole

    def receive(self) -> list[tuple[int, object]]:
        """The answers that have arrived, each with its ticket; drops the connection if it has ended."""
        more = True
        while more and self.sock is not None:
            try:
                data = self.sock.recv(_READ_SIZE)
            except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
                break
            except OSError as exc:
                self.drop((exc.strerror or str(exc)).lower())
                break
            if not data:
                self.drop("the node closed the connection")
                break
            self._reader.feed(data)
            # TLS may hold back what it has decrypted already, where nothing arrives any more that would say so.
            more = self._tls or len(data) == _READ_SIZE
        return self._parsed()

    def _parsed(self) -> list[tuple[int, object]]:
        answers: list[tuple[int, object]] = []
        gets, pending = self._reader.gets, self._pending
        try:
            while (reply := gets()) is not False:
                if not pending:
                    self.drop("answered without being asked")
                    break
                answers.append((pending.popleft(), reply))
        except hiredis.ProtocolError:
            self.drop("answered something that is not the Redis protocol")
        if answers:
            self.suspect_since_ms = None
        return answers
