"""One connection to one node: commands go out in order, answers come back in order and find the ballot that asked.

Rules of this file:
1. Answers are matched by order. A late answer is read before the one that follows it on the same connection,
   and belongs to the ballot of the round that asked, so it is never counted for another attempt.
2. A node that let a round time out is *suspect* until it has answered something: nobody waits for it.
3. What can't be sent at once is not sent later: the connection is dropped. What a dropped connection still
   carries costs at most one TTL.
4. What is held back goes out with the next command, in one piece and before it.
"""

from __future__ import annotations

import selectors
import ssl
from collections import deque
from typing import TYPE_CHECKING

import hiredis

from redlock.wire import LESSONS, SCRIPTS, last_word

if TYPE_CHECKING:
    import socket

    from redlock.ballot import Ballot
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
        self._pending: deque[Ballot | None] = deque()
        self._held_back = b""

    def adopt(self, dialled: Dialled) -> None:
        """Start with a fresh connection: nothing pending, nothing suspected."""
        self._dialled, self.sock, self.run_id = dialled, dialled.sock, dialled.run_id
        self.last_word = last_word(dialled.run_id)
        self._reader, self._tls = hiredis.Reader(), isinstance(dialled.sock, ssl.SSLSocket)
        self._forget()
        self.suspect_since_ms, self.reason = None, ""
        self._selector.register(self.sock, selectors.EVENT_READ, self)

    def drop(self, reason: str) -> None:
        """Close; the node casts no vote until somebody has dialled it again."""
        self.reason = reason
        for ballot in self._pending:
            if ballot is not None:
                ballot.miss(self.place, reason)
        if self.sock is not None:
            self._selector.unregister(self.sock)
        self.abandon()

    def abandon(self) -> None:
        """Close without touching the selector, which a forked child shares with its parent."""
        self.sock = None
        self._forget()
        if self._dialled is not None:
            self._dialled.connection.disconnect()  # type: ignore[no-untyped-call]
            self._dialled = None

    def _forget(self) -> None:
        self._pending.clear()
        self._held_back = b""

    def hold_back(self, words: bytes, ballot: Ballot) -> None:
        """Send a command with the next one, or when `flush` says so."""
        self._pending.append(ballot)
        self._held_back += words

    def flush(self) -> None:
        """Send what was held back."""
        if self._held_back:
            self._put(b"")

    def send(self, words: bytes, ballot: Ballot) -> bool:
        """Send a command at once, whose answer is for this ballot, or drop the connection."""
        if self.sock is None:
            return False
        self._pending.append(ballot)
        return self._put(words)

    def teach(self) -> None:
        """Send all scripts; what the node says to that is for nobody."""
        if self.sock is not None:
            self._pending.extend([None] * len(SCRIPTS))
            self._put(LESSONS)

    def _put(self, words: bytes) -> bool:
        if self.sock is None:
            return False
        if self._held_back:
            words, self._held_back = self._held_back + words, b""
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

    def receive(self) -> list[tuple[Ballot | None, object]]:
        """The answers that have arrived, each with its ballot; drops the connection if it has ended."""
        sock, gone = self.sock, ""
        while sock is not None:
            try:
                data = sock.recv(_READ_SIZE)
            except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
                break
            except OSError as exc:
                gone = (exc.strerror or str(exc)).lower()
                break
            if not data:
                gone = "the node closed the connection"
                break
            self._reader.feed(data)
            # TLS may hold back what it has decrypted already, where nothing arrives any more that would say so.
            if not self._tls and len(data) < _READ_SIZE:
                break
        answers = self._parsed()
        if gone:
            self.drop(gone)
        return answers

    def _parsed(self) -> list[tuple[Ballot | None, object]]:
        answers: list[tuple[Ballot | None, object]] = []
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
