"""Commands and replies on a blocking socket, for the greeting, for waiting and for node probes.

Invariants:
1. Every call has one deadline for all its bytes, however slowly the bytes arrive.
2. A reply that is not valid ends the call with an error. After any error the caller closes the connection.
"""

from __future__ import annotations

import socket
import ssl
import time
import weakref
from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING, TypeVar

from redlock import _process
from redlock._transport.readiness import await_socket
from redlock._transport.reply_reader import ReplyReader
from redlock._transport.socket_errors import ConnectionFailed, NoReply, reason_of

if TYPE_CHECKING:
    from collections.abc import Callable

READ_BYTES = 16_384
"""The largest piece that TLS decrypts: no data stays in a buffer that `poll` does not see."""

D = TypeVar("D")
R = TypeVar("R")


class Exchange:
    """A connection on which each command is answered before the next command is sent.

    Args:
        sock: A connected socket, which the exchange owns from now on.
        admin: Whether replies can be long; see `ReplyReader`.
    """

    def __init__(self, sock: socket.socket, *, admin: bool = False) -> None:
        self.sock = sock
        self.run_id = self.fingerprint = ""
        """From the greeting: the `run_id`, and the configuration fingerprint of the server's clients, empty if none."""
        # With a timeout of the socket, its end could not be told from the `TimeoutError` of a signal handler.
        sock.settimeout(0)
        self._reader = ReplyReader(admin=admin)
        self._replies: deque[object] = deque()
        self._pid = _process.pid()
        # A client can be dropped without `close`, and an exception can drop a set of connections. The finalizer runs
        # before the socket's own, which would warn.
        self._close_socket = weakref.finalize(self, sock.close)
        self._close_socket.atexit = False

    @property
    def is_inherited(self) -> bool:
        """Whether this process is a child of the process that opened the connection."""
        return _process.pid() != self._pid

    @property
    def is_silent(self) -> bool:
        """Whether no reply beyond the requested replies was read."""
        return not self._replies

    def send(self, words: bytes, until: float) -> None:
        """Send all bytes by the deadline, in seconds of the steady clock.

        Raises:
            ConnectionFailed: The connection has ended, or the time is over.
        """
        rest = memoryview(words)
        try:
            while rest:
                rest = rest[self._when_ready(self.sock.send, rest, until, room=True) :]
        except BaseException:
            # Nothing may follow half of a command.
            self.close()
            raise

    def answer(self, until: float | None) -> object:
        """The next reply by the deadline; without a deadline, a reply that has arrived already.

        Raises:
            NoReply: No reply came.
            ConnectionFailed: The connection has ended.
            UnreadableReply: The bytes are not a valid reply.
        """
        while not self._replies:
            data = self._when_ready(self.sock.recv, READ_BYTES, until)
            if not data:
                raise ConnectionFailed("the node closed the connection")
            self._replies.extend(self._reader.read(data))
        return self._replies.popleft()

    def _when_ready(self, call: Callable[[D], R], argument: D, until: float | None, *, room: bool = False) -> R:
        """Call this function of the socket as soon as the socket has data, or room, for it."""
        while True:
            try:
                return call(argument)
            except (ssl.SSLWantReadError, ssl.SSLWantWriteError) as exc:
                # TLS may have to write before a read, and to read before a write.
                room = isinstance(exc, ssl.SSLWantWriteError)
            except BlockingIOError:
                pass
            except OSError as exc:
                raise ConnectionFailed(reason_of(exc)) from exc
            left = 0.0 if until is None else until - time.monotonic()
            if left <= 0:
                raise NoReply("no answer in time")
            await_socket(self.sock, left, room=room)

    def ask(self, words: bytes, count: int, until: float) -> list[object]:
        """The replies to `count` commands; error replies appear as `ReplyError`."""
        self.send(words, until)
        return [self.answer(until) for _ in range(count)]

    def end_sending(self) -> None:
        """Send nothing more. The node can still reply, so the node reads every command that was sent."""
        self._shut_down(socket.SHUT_WR)

    def await_end(self, until: float) -> None:
        """After `end_sending`, wait by the deadline until the node has read all commands and ends the connection."""
        with suppress(ConnectionFailed, NoReply):
            while self._when_ready(self.sock.recv, READ_BYTES, until) and time.monotonic() < until:
                pass

    def close(self) -> None:
        """End the connection. The node may drop commands that it has not read.

        A forked child closes only its copy of the socket, so the parent stays connected.
        """
        self._shut_down(socket.SHUT_RDWR)
        self._close_socket()

    def _shut_down(self, how: int) -> None:
        if not self.is_inherited:
            with suppress(OSError):
                self.sock.shutdown(how)
