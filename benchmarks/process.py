"""One peer process, and how the harness talks with it: a line of JSON each way; and programs that it only starts.

Rules: every answer is waited for only so long, because hanging is one of the things that locks do; a process that
hung or failed is killed; none outlives the harness.
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


class PeerFailed(Exception):
    """A peer ended instead of answering, or did not answer in time; the message says which."""


class Program(NamedTuple):
    """How a peer is started.

    Attributes:
        command: The words of the command.
        directory: The working directory: a peer's Python must not find this project's packages before its own.
        environment: Variables that are added to the environment.
    """

    command: tuple[str, ...]
    directory: Path
    environment: dict[str, str]


@contextlib.contextmanager
def background(command: Sequence[str], directory: Path, environment: Mapping[str, str], log: Path) -> Iterator[None]:
    """A program with this environment and children of its own, such as a Celery worker, until the block ends."""
    with log.open("ab") as output:
        process = subprocess.Popen(
            command,
            cwd=directory,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
            preexec_fn=die_with_parent,  # noqa: PLW1509 - one prctl, nothing that a fork could break
        )
    try:
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


class Process:
    """A peer that runs; killed at the end of the `with` block.

    Args:
        program: What to start.
        log: Where its standard error goes.
    """

    def __init__(self, program: Program, log: Path) -> None:
        self._name = program.command[-1]
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
                preexec_fn=die_with_parent,  # noqa: PLW1509 - one prctl, nothing that a fork could break
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def kill(self) -> None:
        """SIGKILL; again does nothing."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            with contextlib.suppress(BrokenPipeError):
                pipe.close()

    def ask(self, do: str, within: float, **said: object) -> dict[str, Any]:
        """Tell it to do something and wait for the answer."""
        self.tell(do, **said)
        return self.hear(within)

    def tell(self, do: str, **said: object) -> None:
        """Tell it to do something.

        Raises:
            PeerFailed: It has ended.
        """
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps({"do": do, **said}).encode() + b"\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise PeerFailed(f"{self._name} has ended; {self._log} says why") from None

    def hear(self, within: float) -> dict[str, Any]:
        """Its answer.

        Args:
            within: Seconds to wait for it.

        Raises:
            PeerFailed: It ended, or this time is over.
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
                raise PeerFailed(f"{self._name} has ended; {self._log} says why")
            parts.append(data)
        line, _, self._rest = b"".join(parts).partition(b"\n")
        answer: dict[str, Any] = json.loads(line)
        return answer
