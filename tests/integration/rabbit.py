"""A RabbitMQ server for tests: on free ports, with directories and an epmd of its own."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from redlock.testing.redis_server import die_with_parent, free_port
from tests.integration.tools import eventually

if TYPE_CHECKING:
    from collections.abc import Iterator

_PROGRAMS = ("/usr/lib/rabbitmq/bin/rabbitmq-server", shutil.which("rabbitmq-server"))
"""Debian's program on the PATH changes the user; this program does not."""
PROGRAM = next((name for name in _PROGRAMS if name and os.access(name, os.X_OK)), None)
needs_rabbitmq = pytest.mark.skipif(PROGRAM is None, reason="no rabbitmq-server")


class Rabbit:
    """A RabbitMQ server, whose directory survives a kill and a restart."""

    def __init__(self, directory: Path, *settings: str) -> None:
        self._directory = directory
        self._port, dist, epmd = free_port(), free_port(), free_port()
        self._epmd_port = epmd
        self.url = f"amqp://guest:guest@127.0.0.1:{self._port}//"
        self._processes: list[subprocess.Popen[bytes]] = []
        lines = [f"listeners.tcp.1 = 127.0.0.1:{self._port}", *settings, ""]
        (directory / "rabbitmq.conf").write_text("\n".join(lines))
        (directory / "plugins").write_text("[].\n")
        self._environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(directory),
            "LANG": "C.UTF-8",
            "ERL_EPMD_PORT": str(epmd),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODENAME": f"rabbit-{self._port}@localhost",
            "RABBITMQ_NODE_PORT": str(self._port),
            "RABBITMQ_DIST_PORT": str(dist),
            "RABBITMQ_CONFIG_FILE": str(directory / "rabbitmq.conf"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(directory / "plugins"),
            "RABBITMQ_MNESIA_BASE": str(directory / "data"),
            "RABBITMQ_LOG_BASE": str(directory / "log"),
            # No shell in between, because a shell would die with this process and leave the server running.
            "RUNNING_UNDER_SYSTEMD": "true",
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "+S 1:1 +sbwt none",
        }

    def start(self) -> None:
        """Start the server, and wait until connections are possible."""
        self._run("epmd", "-port", str(self._epmd_port), "-address", "127.0.0.1")
        self._run(str(PROGRAM))
        eventually(self._answers, f"RabbitMQ on {self.url}: {self._said()}", within=100, every=0.1)

    def _run(self, *command: str) -> None:
        with (self._directory / "output").open("ab") as output:
            self._processes.append(
                subprocess.Popen(
                    command,
                    env=self._environment,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    start_new_session=True,
                    preexec_fn=die_with_parent,  # noqa: PLW1509 - one prctl
                )
            )

    def _said(self) -> str:
        return (self._directory / "output").read_text(errors="replace")[-500:]

    def _answers(self) -> bool:
        assert self._processes[-1].poll() is None, self._said()
        from kombu.connection import Connection  # noqa: PLC0415 - few tests need it

        with contextlib.suppress(OSError), Connection(self.url, connect_timeout=5) as connection:
            connection.connect()
            return True
        return False

    def kill(self) -> None:
        """Kill the server; confirmed messages are on the disk."""
        for process in reversed(self._processes):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        self._processes.clear()

    def restart(self) -> None:
        """Kill the server, and start the server again on its directory."""
        self.kill()
        self.start()


@contextlib.contextmanager
def rabbit(*settings: str) -> Iterator[Rabbit]:
    """Run a fresh server with these lines of configuration during the block."""
    with tempfile.TemporaryDirectory(prefix="rabbit-", ignore_cleanup_errors=True) as directory:
        server = Rabbit(Path(directory), *settings)
        try:
            server.start()
            yield server
        finally:
            server.kill()
