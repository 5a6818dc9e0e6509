"""A RabbitMQ server on this machine, for the demo and for tests: on free ports, with its own directories and epmd.

Invariants:
1. The server listens on loopback only.
2. On Linux no process outlives its starter, even if the starter is killed.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import signal
import subprocess
import time
from typing import TYPE_CHECKING

from amqp.exceptions import AMQPError
from kombu.connection import Connection

from redlock import ConfigurationError
from redlock.testing.redis_server import die_with_parent, free_port

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

_START_SECONDS = 100.0
_POLL_SECONDS = 0.1
_SHOWN_CHARACTERS = 500


def program() -> str | None:
    """The path of rabbitmq-server; None if it is not installed."""
    # Debian's program on the PATH changes the user; the first program does not.
    names = ("/usr/lib/rabbitmq/bin/rabbitmq-server", shutil.which("rabbitmq-server"))
    return next((name for name in names if name and os.access(name, os.X_OK)), None)


class RabbitMQ:
    """A RabbitMQ server, whose directory survives a kill and a restart.

    Args:
        directory: An empty directory for its files.
        settings: Further lines of rabbitmq.conf.
        password: The password of its user guest.

    Raises:
        ConfigurationError: RabbitMQ is not installed.
    """

    def __init__(self, directory: Path, settings: Sequence[str] = (), password: str = "guest") -> None:  # noqa: S107 - RabbitMQ's own, on loopback
        found = program()
        if found is None:
            raise ConfigurationError("no rabbitmq-server: install it from your system's packages")
        self._program = found
        self._directory = directory
        self._port, dist, epmd = free_port(), free_port(), free_port()
        self._epmd_port = epmd
        self.url = f"amqp://guest:{password}@127.0.0.1:{self._port}//"
        self._processes: list[subprocess.Popen[bytes]] = []
        lines = [f"listeners.tcp.1 = 127.0.0.1:{self._port}", f"default_pass = {password}", *settings, ""]
        (directory / "rabbitmq.conf").write_text("\n".join(lines))
        (directory / "plugins").write_text("[].\n")
        # With the cookie any user of this machine can run code in the server, and Erlang's own is easy to guess.
        cookie = directory / ".erlang.cookie"
        cookie.touch(0o600)
        cookie.write_text(secrets.token_hex(32))
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
            # Without the address, Erlang listens for its distribution on all interfaces.
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "+S 1:1 +sbwt none -kernel inet_dist_use_interface {127,0,0,1}",
        }

    def start(self, check_caller: Callable[[], None] = lambda: None) -> None:
        """Start the server, and wait until connections are possible.

        Args:
            check_caller: Raises if the caller no longer needs the server. Called repeatedly.

        Raises:
            ConfigurationError: The server did not start; the message has the end of its output.
        """
        self._run("epmd", "-port", str(self._epmd_port), "-address", "127.0.0.1")
        self._run(self._program)
        until = time.monotonic() + _START_SECONDS
        while not self._answers():
            check_caller()
            if self._processes[-1].poll() is not None or time.monotonic() > until:
                raise ConfigurationError(f"RabbitMQ did not start: {self._said()}")
            time.sleep(_POLL_SECONDS)

    def _run(self, *command: str) -> None:
        with (self._directory / "output").open("ab") as output:
            self._processes.append(
                subprocess.Popen(  # noqa: S603 - the program is RabbitMQ's
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
        said = (self._directory / "output").read_text(errors="replace")
        return " ".join(said.split())[-_SHOWN_CHARACTERS:]

    def _answers(self) -> bool:
        with contextlib.suppress(OSError, AMQPError), Connection(self.url, connect_timeout=5) as connection:
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
