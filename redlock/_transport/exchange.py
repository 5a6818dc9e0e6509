"""Questions and answers on one blocking socket: a greeting, a waiting connection, a look at a node.

Invariants:
1. Every call has one deadline for all that it sends and reads, however slowly the bytes come.
2. A reply that can't be read ends the call with an error; after any error the connection is to be closed.
"""

from __future__ import annotations

import errno
import os
import socket
import time
from collections import deque
from contextlib import suppress

import hiredis

from redlock import _process
from redlock._transport.reply_reader import ReplyReader

_READ_BYTES = 16_384


def pack(*words: str | bytes) -> bytes:
    """One command as the bytes that Redis reads."""
    packed: bytes = hiredis.pack_command(words)  # type: ignore[arg-type]  # its stub means one word
    return packed


class Exchange:
    """A connection on which each command is answered before the next one is sent.

    Args:
        sock: A connected socket, which belongs to the exchange from now on.
        admin: Whether replies can be long; see `ReplyReader`.
    """

    def __init__(self, sock: socket.socket, *, admin: bool = False) -> None:
        self.sock = sock
        self._reader = ReplyReader(admin=admin)
        self._replies: deque[object] = deque()
        self._pid = _process.pid()

    @property
    def is_silent(self) -> bool:
        """Whether every reply that was read has been asked for."""
        return not self._replies

    def send(self, words: bytes, until: float) -> None:
        """Send all of this by the deadline, in seconds of the steady clock."""
        self.sock.settimeout(_left(until))
        self.sock.sendall(words)

    def answer(self, until: float | None) -> object:
        """The next reply by the deadline; without a deadline one that has arrived already.

        Raises:
            OSError: There is none, or the connection has ended.
            UnreadableReply: It is no reply.
        """
        while not self._replies:
            self.sock.settimeout(0 if until is None else _left(until))
            data = self.sock.recv(_READ_BYTES)
            if not data:
                raise ConnectionResetError(errno.ECONNRESET, "the node closed the connection")
            self._replies.extend(self._reader.read(data))
        return self._replies.popleft()

    def ask(self, words: bytes, count: int, until: float) -> list[object]:
        """The replies to so many commands; error replies are among them, as `hiredis.ReplyError`."""
        self.send(words, until)
        return [self.answer(until) for _ in range(count)]

    def close(self) -> None:
        """End the connection; in a forked child close the copy of the socket without a word to the node."""
        if _process.pid() == self._pid:
            with suppress(OSError):
                self.sock.shutdown(socket.SHUT_RDWR)
        self.sock.close()


def _left(until: float) -> float:
    left = until - time.monotonic()
    if left <= 0:
        raise TimeoutError(errno.ETIMEDOUT, os.strerror(errno.ETIMEDOUT))
    return left
