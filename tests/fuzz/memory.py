"""Nodes in memory: sockets without a network, whose other end answers each command at once, as it is told to.

A socket without data does not wait: the read times out at once.
"""

from __future__ import annotations

import contextlib
import socket
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from typing import Any
from unittest import mock

from redlock._clock import wall_us
from redlock._core.commands import Acquire, Confirm, Extend, Repair
from redlock._transport import codec, exchange, node
from redlock._transport.readiness import READABLE
from redlock._transport.reply_reader import ReplyReader
from redlock._transport.socket_errors import NoReply

Answer = Callable[[list[bytes]], bytes]
"""The bytes that a node sends after a command."""

INFO = (
    "redis_version:8.2.0\r\nredis_mode:standalone\r\nrun_id:{run_id}\r\nrole:master\r\nmaxmemory:0\r\n"
    "used_memory:1000\r\nmaxmemory_policy:noeviction\r\naof_enabled:0\r\nblocked_clients:0\r\n"
)


def resp(value: object) -> bytes:
    if isinstance(value, list):
        return b"*%d\r\n" % len(value) + b"".join(map(resp, value))
    if isinstance(value, int):
        return b":%d\r\n" % value
    if value is None:
        return b"$-1\r\n"
    text = value if isinstance(value, bytes) else str(value).encode()
    return b"$%d\r\n%s\r\n" % (len(text), text)


class Good:
    """An honest node on which every lock is free."""

    def __init__(self, place: int) -> None:
        self.run_id = f"{place}" * 40
        self._granted = {codec.SCRIPTS[kind].sha for kind in (Acquire, Confirm, Extend, Repair)}

    def __call__(self, words: list[bytes]) -> bytes:
        name = words[0].upper()
        if name == b"EVALSHA" and words[1] in self._granted:
            return resp([1, wall_us() // 1_000, 7])
        answers: Mapping[bytes, object] = {
            b"EVALSHA": [1, 0, 0],
            b"INFO": INFO.format(run_id=self.run_id),
            b"HMGET": [self.run_id, "", ""][: len(words) - 2],
            b"TIME": [str(wall_us() // 1_000_000), "0"],
            b"SCAN": ["0", ["a", "b"]],
            b"CONFIG": ["save", ""],
            b"EVAL": [],
            b"BLPOP": None,
            b"SET": None,
        }
        if name == b"SCRIPT":
            return resp(next(script.sha for script in codec.SCRIPTS.values() if script.source == words[2]))
        return resp(answers[name]) if name in answers else b"+OK\r\n"


class Socket:
    """A connection to a node in memory."""

    def __init__(self, answer: Answer) -> None:
        self._answer = answer
        self._commands = ReplyReader(admin=True)
        self._inbox: deque[bytes] = deque()

    def settimeout(self, seconds: float | None) -> None:
        """As a socket."""

    def send(self, words: bytes) -> int:
        """As a socket; the node answers at once."""
        for command in self._commands.read(bytes(words)):
            assert isinstance(command, list)
            self._inbox.append(self._answer(command))
        return len(words)

    @property
    def is_ready(self) -> bool:
        while self._inbox and not self._inbox[0]:
            self._inbox.popleft()
        return bool(self._inbox)

    def recv(self, size: int) -> bytes:
        if not self.is_ready:
            raise BlockingIOError
        piece = self._inbox.popleft()
        if len(piece) > size:
            self._inbox.appendleft(piece[size:])
        return piece[:size]

    def shutdown(self, how: int) -> None:
        """As a socket."""

    def close(self) -> None:
        """As a socket."""


class LoopSocket(Socket):
    """A connection that an event loop can watch: the node's bytes pass through a pair of sockets."""

    def __init__(self, answer: Answer) -> None:
        super().__init__(answer)
        self._client, self._node = socket.socketpair()
        self._client.settimeout(0)
        self._node.settimeout(0)

    def fileno(self) -> int:
        return self._client.fileno()

    def send(self, words: bytes) -> int:
        """As a socket; bytes that the system does not accept at once are lost."""
        sent = super().send(words)
        with contextlib.suppress(OSError):
            while self.is_ready:
                self._node.send(self._inbox.popleft())
        return sent

    def recv(self, size: int) -> bytes:
        return self._client.recv(size)

    def close(self) -> None:
        self._client.close()
        self._node.close()


class Readiness:
    """As the class of this name, for these sockets; waits for nothing."""

    def __init__(self) -> None:
        self._sockets: dict[int, Socket] = {}
        self.connections: dict[int, Any] = {}

    def watch(self, sock: Socket, connection: object) -> None:
        self._sockets[id(sock)], self.connections[id(sock)] = sock, connection

    def watch_room(self, sock: Socket, *, wanted: bool) -> None:
        """A socket in memory has room."""

    def forget(self, sock: Socket) -> None:
        del self._sockets[id(sock)], self.connections[id(sock)]

    def wait(self, _wait_ms: int) -> list[tuple[int, int]]:
        return [(number, READABLE) for number, sock in self._sockets.items() if sock.is_ready]


@contextlib.contextmanager
def answering(answers: Mapping[int, Answer], kind: type[Socket] = Socket) -> Iterator[None]:
    """Clients dial these nodes, by port, for as long as the `with` block lasts."""

    def open_socket(options: Any, *_: float) -> Socket:  # noqa: ANN401 - a connection of redis-py
        return kind(answers[options.port])

    def await_socket(*_: object, **__: object) -> None:
        raise NoReply("no answer in time")

    with contextlib.ExitStack() as stack:
        stack.enter_context(mock.patch.object(node, "open_socket", open_socket))
        stack.enter_context(mock.patch.object(exchange, "await_socket", await_socket))
        if kind is Socket:
            stack.enter_context(mock.patch("redlock._transport.sockets.Readiness", Readiness))
        yield
