"""A `celery` command of the local cluster in a process of its own."""

from __future__ import annotations

import collections
import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING

from redlock.testing import redis_server

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_SHOWN_LINES = 12


class ClusterError(Exception):
    """A part of the local cluster could not start or ended by itself; the message names the part and the reason."""


class Program:
    """A `celery` command in its own process. The last lines of its output are kept for an error message."""

    def __init__(self, name: str, arguments: Sequence[str], environment: Mapping[str, str]) -> None:
        self.name = name
        self._output: collections.deque[str] = collections.deque(maxlen=_SHOWN_LINES)
        self._process = subprocess.Popen(  # noqa: S603 - the program is ours
            [sys.executable, "-m", "celery", "-A", "workers.app", *arguments],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,
            preexec_fn=redis_server.die_with_parent,  # noqa: PLW1509 - one prctl, the same as for the servers
        )
        self._listener = threading.Thread(target=self._listen, name=f"output of {name}", daemon=True)

    def listen(self) -> None:
        """Begin to read the output. Called after the start of all programs, because a fork must not copy threads."""
        self._listener.start()

    def _listen(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._output.append(line.rstrip())

    def check(self) -> None:
        """Raise if the program has ended by itself.

        Raises:
            ClusterError: The program has ended; unless a signal killed the program, the message has its last lines.
        """
        status = self._process.poll()
        if status is not None:
            self._listener.join(1.0)
            if status < 0:
                raise ClusterError(f"{self.name} was killed by signal {-status}")
            lines = [f"{self.name} ended with status {status}; its last lines:", *(self._output or ["(none)"])]
            raise ClusterError("\n    ".join(lines))

    def signal(self, number: int) -> None:
        """Send a signal to all processes of the program."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, number)

    def terminate(self) -> None:
        """Send SIGTERM. A worker finishes its running tasks first."""
        self._process.terminate()

    def stop(self, until: float) -> None:
        """Wait for the end of the program until this time, then kill the program and its children."""
        try:
            self._process.wait(max(0.0, until - time.monotonic()))
        except subprocess.TimeoutExpired:
            self.signal(signal.SIGKILL)
            self._process.wait()
        if self._listener.is_alive():
            self._listener.join(1.0)
