"""Lock nodes that serve one test after another: the start of five servers takes longer than most tests.

Invariants:
1. A test finds servers without data, scripts, clients and statistics, at addresses that no earlier test knew.
2. A server with a changed process, setting, user or file serves no further test.
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator
from pathlib import Path

from redlock.admin.bootstrap import declare_nodes
from redlock.testing.redis_server import Cluster, Server

_SECONDS = 5.0
_CLEAR = (
    "CLIENT KILL TYPE normal SKIPME yes", "CLIENT KILL TYPE pubsub SKIPME yes", "FLUSHALL", "SCRIPT FLUSH",
    "CONFIG RESETSTAT", "SLOWLOG RESET", "LATENCY RESET", "ACL LOG RESET",
)  # fmt: skip
_LOOK = ("CONFIG GET *", "ACL LIST", "MODULE LIST")


class _SpareServer(Server):
    """A server with its socket in another folder for each test."""

    def __init__(self) -> None:
        super().__init__()
        self._moves = 0
        self._move_to_new_folder()
        self.start()
        self._begun = self._process
        self._known = self._say(_LOOK)

    @property
    def _socket(self) -> Path:
        return self.directory / str(self._moves) / "redis.sock"

    def _move_to_new_folder(self) -> None:
        before, self._moves = self.directory / str(self._moves), self._moves + 1
        (self.directory / str(self._moves)).mkdir()
        if before.exists():
            (before / "redis.sock").rename(self._socket)
            before.rmdir()

    def is_as_new(self) -> bool:
        """Clear the server and move its socket; False after a change that this can not undo."""
        if self._process is not self._begun:
            return False
        with contextlib.suppress(OSError):
            self.thaw()
            self._say(_CLEAR)
            found = {path.name for path in self.directory.iterdir()}
            if found == {"redis.log", str(self._moves)} and self._say(_LOOK) == self._known:
                self._move_to_new_folder()
                return True
        return False

    def _say(self, commands: tuple[str, ...]) -> bytes:
        """The replies to these commands, as bytes."""
        said, end = b"", b"$3\r\nend\r\n"
        with socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(_SECONDS)
            sock.connect(str(self._socket))
            sock.sendall("".join(f"{command}\r\n" for command in (*commands, "ECHO end")).encode())
            while not said.endswith(end):
                if not (more := sock.recv(65_536)):
                    raise ConnectionError("the server has closed the connection")
                said += more
        return said


class SpareNodes:
    """Five lock nodes for one test at a time."""

    def __init__(self) -> None:
        self._servers: list[_SpareServer] = []

    @property
    def pids(self) -> set[int]:
        """The processes that wait for the next test."""
        return {server.pid for server in self._servers}

    @contextlib.contextmanager
    def lent(self) -> Iterator[Cluster]:
        servers, self._servers = self._servers, []
        try:
            while len(servers) < 5:
                servers.append(_SpareServer())
            declare_nodes([server.url for server in servers])
            yield Cluster(servers)
        finally:
            for server in servers:
                if server.is_as_new():
                    self._servers.append(server)
                else:
                    server.stop()

    def stop(self) -> None:
        """Stop the servers that wait for a test."""
        for server in self._servers:
            server.stop()
        self._servers = []
