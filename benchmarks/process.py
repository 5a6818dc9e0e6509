"""Peer processes, which exchange lines of JSON with the harness, and programs in the background.

Invariants:
1. Each reply has a timeout, because a lock can hang.
2. A process that hangs or fails is killed. No process outlives the harness.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import time
from typing import TYPE_CHECKING, Any, NamedTuple

from redlock.testing.redis_server import die_with_parent

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from typing_extensions import Self


START_SECONDS = 30.0
"""The time for the start of a peer, and for a command without a time of its own."""


class PeerFailed(Exception):
    """A peer ended or did not answer in time; the message has the reason."""


class Program(NamedTuple):
    """The program of a peer.

    Attributes:
        command: The words of the command.
        directory: The working directory. A peer's Python must find its own packages before those of this project.
        environment: Variables that are added to the environment.
    """

    command: tuple[str, ...]
    directory: Path
    environment: dict[str, str]


@contextlib.contextmanager
def background(command: Sequence[str], directory: Path, environment: Mapping[str, str], log: Path) -> Iterator[None]:
    """Run a program and its children, such as a Celery worker, until the end of the block."""
    with log.open("ab") as output:
        process = subprocess.Popen(
            command,
            cwd=directory,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
            preexec_fn=die_with_parent,  # noqa: PLW1509 - one prctl, which is safe after a fork
        )
    try:
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


class Process:
    """A running peer; the end of the `with` block kills the process.

    Args:
        program: The program to start.
        log: The file for its standard error.
    """

    def __init__(self, program: Program, log: Path) -> None:
        self._name = " ".join(program.command[-2:])
        self._log = log
        self._rest = b""
        with log.open("ab") as errors:
            self._process = subprocess.Popen(
                program.command,
                cwd=program.directory,
                env=os.environ | program.environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                preexec_fn=die_with_parent,  # noqa: PLW1509 - one prctl, which is safe after a fork
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    @property
    def pid(self) -> int:
        """The process id."""
        return self._process.pid

    def kill(self) -> None:
        """Kill the process; a second call has no effect."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            with contextlib.suppress(BrokenPipeError):
                pipe.close()

    def ask(self, do: str, within: float = START_SECONDS, **said: object) -> dict[str, Any]:
        """Send a command and wait for the reply."""
        self.tell(do, **said)
        return self.hear(within)

    def tell(self, do: str, **said: object) -> None:
        """Send a command.

        Raises:
            PeerFailed: The process has ended.
        """
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps({"do": do, **said}).encode() + b"\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise PeerFailed(f"{self._name} has ended; the reason is in {self._log}") from None

    def hear(self, within: float) -> dict[str, Any]:
        """Wait for the reply.

        Args:
            within: Timeout in seconds.

        Raises:
            PeerFailed: The process ended or did not reply in time.
        """
        assert self._process.stdout is not None
        until = time.monotonic() + within
        descriptor = self._process.stdout.fileno()
        parts = [self._rest]
        while b"\n" not in parts[-1]:
            if not select.select([descriptor], [], [], max(0.0, until - time.monotonic()))[0]:
                raise PeerFailed(f"hangs for more than {within:g} s")
            data = os.read(descriptor, 1 << 20)
            if not data:
                raise PeerFailed(f"{self._name} has ended; the reason is in {self._log}")
            parts.append(data)
        line, _, self._rest = b"".join(parts).partition(b"\n")
        answer: dict[str, Any] = json.loads(line)
        return answer
