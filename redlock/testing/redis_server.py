"""Starts and stops real redis-servers on this machine, for the demo and for tests.

Invariants:
1. A server never outlives the process that started it. On Linux this holds even if that process is killed.
2. Each server has its own directory, which is removed at the stop, and listens on loopback or a unix socket.
3. A forked child neither stops a server of its parent nor removes its directory.
"""

from __future__ import annotations

import contextlib
import ctypes
import itertools
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import weakref
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

from redlock import _process, _validation
from redlock.admin.bootstrap import declare_nodes
from redlock.errors import ConfigurationError
from redlock.testing._programs import executable

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

__all__ = ["Cluster", "Server", "await_stop", "cluster", "die_with_parent", "executable", "free_port", "running"]

_START_SECONDS = 10.0
_STOP_SECONDS = 1.0
_REFUSED = ("-@admin", "-migrate", "-restore", "-restore-asking")
FOR_ANY_USER = ("--user", "default", "on", "nopass", "~*", "&*", "+@all", *_REFUSED, "+client", "+config|get")
"""The options of a server on a TCP port, which every user of this machine can reach: no commands of administration.

With these commands a server before Redis 7 writes files and loads modules as the user that started it, and is damaged
by a value that was made for that. Every server listens on all interfaces.
"""

_USERS = frozenset({"--user", "--aclfile", "--requirepass", "--include"})
"""The options with users or passwords of their own."""
_PR_SET_PDEATHSIG = 1
_LONGEST_SOCKET = 107 if sys.platform == "linux" else 103
_FIRST_PORT, _LAST_PORT = 20_000, 32_000
_ports = itertools.count(secrets.randbelow(_LAST_PORT - _FIRST_PORT))


def free_port() -> int:
    """Return a TCP port of loopback that is free at this moment.

    The port is below the range from which operating systems take the ports of outgoing connections: otherwise any
    connection could take the port before the server starts. Each call of a process returns another port, and each
    process begins at a random port.
    """
    for _ in range(_LAST_PORT - _FIRST_PORT):
        port = _FIRST_PORT + next(_ports) % (_LAST_PORT - _FIRST_PORT)
        with socket.socket() as sock, contextlib.suppress(OSError):
            sock.bind(("127.0.0.1", port))
            return port
    raise ConfigurationError(f"no TCP port from {_FIRST_PORT} to {_LAST_PORT} of 127.0.0.1 is free")


class Server:
    """A redis-server.

    Args:
        port: A TCP port on 127.0.0.1, which every user of this machine can reach; None means a unix socket in the
            server's own directory, which no other user can enter.
        options: Further options, such as `("--appendonly", "yes")`.
        program: Path of another redis-server; None means the result of `executable`.
    """

    def __init__(self, port: int | None = None, options: Sequence[str] = (), program: str | None = None) -> None:
        self.port = port
        self._program = program
        self._options = tuple(options)
        self.directory = Path(tempfile.mkdtemp(prefix="redlock-"))
        """The directory of the server's data and log."""
        # Not `TemporaryDirectory`: a forked child that ends would remove the directory of its parent.
        self._remove_directory = weakref.finalize(self, _remove, self.directory, _process.pid())
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """The server's address. In the path of a socket each character with a meaning in a URL or a list is escaped."""
        if self.port is not None:
            return f"redis://127.0.0.1:{self.port}"
        return f"unix://{quote(os.fsencode(self._socket))}"

    @property
    def _socket(self) -> Path:
        return self.directory / "redis.sock"

    @property
    def pid(self) -> int:
        """The server's process id.

        Raises:
            ConfigurationError: The server does not run.
        """
        process = self._process
        if process is None or process.poll() is not None:
            raise ConfigurationError(f"the server {self.url} does not run; call `start` first")
        return process.pid

    @property
    def is_running(self) -> bool:
        """Whether the server's process runs, perhaps frozen."""
        return self._process is not None and self._process.poll() is None

    def start(self) -> Server:
        """Start the server and wait until it answers.

        On Linux the server ends with the thread that started it, so this thread must live long enough.

        Raises:
            ConfigurationError: The server did not start; the message has the reason, such as a port that is taken. Or
                the server runs already, or was stopped.
        """
        if self.is_running:
            raise ConfigurationError(f"the server {self.url} runs already; `kill` ends it")
        if not self.directory.exists():
            raise ConfigurationError(f"the server {self.url} was stopped and its directory is gone; make a new one")
        if self.port is not None and _reply(self._address(), b"") is not None:
            raise ConfigurationError(
                f"port {self.port} is taken; stop the program that listens there, or choose another"
            )
        if self.port is None and len(os.fsencode(self._socket)) > _LONGEST_SOCKET:
            raise ConfigurationError(
                f"{self._socket} is too long for a unix socket, at most {_LONGEST_SOCKET} bytes; "
                "set TMPDIR to a folder with a shorter name"
            )
        if self.port is None and not _validation.is_utf8(str(self._socket)):
            raise ConfigurationError(f"the path {str(self._socket)!r} is no UTF-8 text; set TMPDIR to another folder")
        listen = ["--port", "0", "--unixsocket", str(self._socket)] if self.port is None else ["--port", str(self.port)]
        command = [
            self._program or executable(), *listen, "--bind", "127.0.0.1", "--dir", str(self.directory),
            "--save", "", "--maxmemory-policy", "noeviction", "--daemonize", "no", *self._options,
        ]  # fmt: skip
        with (self.directory / "redis.log").open("ab") as output:
            self._process = subprocess.Popen(  # noqa: S603 - the program is ours
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
                preexec_fn=die_with_parent,  # noqa: PLW1509 - one prctl, nothing that a fork could break
            )
        self._wait_until_it_answers()
        return self

    def _address(self) -> str | tuple[str, int]:
        return str(self._socket) if self.port is None else ("127.0.0.1", self.port)

    def _wait_until_it_answers(self) -> None:
        assert self._process is not None
        until = time.monotonic() + _START_SECONDS
        while time.monotonic() < until and self._process.poll() is None:
            # A server that loads its data answers, and refuses every command.
            if (reply := _reply(self._address(), b"PING\r\n")) and not reply.startswith(b"-LOADING"):
                return
            time.sleep(0.002)
        self.kill()
        last = (self.directory / "redis.log").read_text(errors="replace").strip().splitlines()[-1:]
        raise ConfigurationError(f"redis-server on {self.url} did not start: {last[0] if last else 'its log is empty'}")

    def kill(self) -> None:
        """SIGKILL: the server stops at once and loses its memory."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def freeze(self) -> None:
        """SIGSTOP: connections stay open, and the server answers nothing."""
        os.kill(self.pid, signal.SIGSTOP)
        await_stop(self.pid)

    def thaw(self) -> None:
        """SIGCONT: the server answers the requests that have come in since `freeze`."""
        os.kill(self.pid, signal.SIGCONT)

    def stop(self) -> None:
        """Stop the server and remove its directory."""
        self.kill()
        self._remove_directory()


def _remove(directory: Path, pid: int) -> None:
    if _process.pid() == pid:
        shutil.rmtree(directory, ignore_errors=True)


def await_stop(pid: int) -> None:
    """Wait until a child process has stopped: after SIGSTOP, threads on other processors go on for a moment."""
    until = time.monotonic() + _STOP_SECONDS
    if hasattr(os, "waitid"):  # macOS has no such function before Python 3.13
        with contextlib.suppress(ChildProcessError):
            while not os.waitid(os.P_PID, pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT | os.WNOHANG):
                if time.monotonic() > until:
                    break  # another thread has sent SIGCONT
                time.sleep(0.001)


def _reply(address: str | tuple[str, int], request: bytes) -> bytes | None:
    """Return the beginning of the reply, empty if there is no request, or None where no server listens."""
    family = socket.AF_UNIX if isinstance(address, str) else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as sock:
        sock.settimeout(1.0)
        try:
            sock.connect(address)
            if not request:
                return b""
            sock.sendall(request)
            return sock.recv(16)
        except OSError:
            return None


def die_with_parent() -> None:
    """On Linux, let the kernel kill this child at the end of the thread that started it. Call this before exec."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


class Cluster:
    """Several independent servers: lock nodes."""

    def __init__(self, servers: Sequence[Server]) -> None:
        self.servers = list(servers)

    @property
    def urls(self) -> list[str]:
        """The addresses, as `Redlock` takes them."""
        return [server.url for server in self.servers]

    def __getitem__(self, index: int) -> Server:
        return self.servers[index]


@contextlib.contextmanager
def cluster(
    nodes: int = 5,
    *,
    ports: Sequence[int] | None = None,
    options: Sequence[str] = (),
    prefix: str = "",
    program: str | None = None,
) -> Iterator[Cluster]:
    """Run lock nodes during the `with` block.

    Args:
        nodes: Number of nodes on unix sockets, 1 or more.
        ports: TCP ports of 127.0.0.1, a node on each, in place of the unix sockets. Every user of this machine can
            reach the nodes, so they refuse commands of administration, such as CONFIG SET.
        options: Further options for every server. With a user, a password or a file among them, nothing is refused.
        prefix: The prefix of the clients for which the nodes vote at once.
        program: The program, as `Server` takes it.

    Raises:
        ConfigurationError: There is no redis-server, a server did not start, or the number of nodes is less than 1.
    """
    count = _validation.count("the number of nodes", nodes if ports is None else len(ports), least=1)
    listened: Sequence[int | None] = [None] * count if ports is None else ports
    if ports is not None and not _USERS.intersection(options):
        options = (*options, *FOR_ANY_USER)
    with running([Server(port, options, program) for port in listened], prefix) as started:
        yield started


@contextlib.contextmanager
def running(servers: Sequence[Server], prefix: str = "") -> Iterator[Cluster]:
    """Run these new servers as lock nodes during the `with` block.

    Raises:
        ConfigurationError: A server did not start, or the prefix cannot be used.
    """
    try:
        prefix = _validation.prefix(prefix)
        for server in servers:
            server.start()
        # These servers are new, so they can't have forgotten a lock.
        declare_nodes([server.url for server in servers], prefix)
        yield Cluster(servers)
    finally:
        for server in servers:
            Server.stop(server)  # the `stop` of a lock node keeps its directory
