"""The command line in a separate process, as a user or cron calls the command."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any

from redlock.testing.redis_server import Cluster
from tests.integration.tools import PATIENT, ROOT, eventually
from tests.integration.warm_start import ForkedProgram


class Shell:
    """Calls `redlock` on these nodes.

    Args:
        nodes: The lock nodes.
        directory: A directory for files.
    """

    def __init__(self, nodes: Cluster, directory: Path) -> None:
        self.nodes = nodes
        self.directory = directory
        clean = {name: value for name, value in os.environ.items() if not name.startswith("REDLOCK_")}
        self._environment = clean | {
            "REDLOCK_NODES": ",".join(nodes.urls),
            "REDLOCK_NODE_TIMEOUT": PATIENT,
        }

    def call(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run the command to its end, without input."""
        output, errors = self.directory / "output of call", self.directory / "errors of call"
        with self._running(arguments, output, errors) as process:
            status = process.wait(timeout=200)
        return subprocess.CompletedProcess(arguments, status, output.read_text(), errors.read_text())

    @contextlib.contextmanager
    def started(self, *arguments: str, errors: Path | None = None, says: str = "") -> Iterator[Started]:
        """Start the command in a new process group. The block begins with this output; its end kills the command."""
        output = self.directory / "output"
        with self._running(arguments, output, errors or output) as process:
            command = Started(process, output)
            command.until_it_says(says)
            yield command

    @contextlib.contextmanager
    def _running(self, arguments: Sequence[str], output: Path, errors: Path) -> Iterator[ForkedProgram]:
        for path in {output, errors}:
            path.write_bytes(b"")
        process = ForkedProgram(
            "redlock", arguments, environment=self._environment, folder=ROOT, output=output, errors=errors
        )
        try:
            yield process
        finally:
            process.kill()
            process.wait()


class Started:
    """A running command, and the output of the command and its program."""

    def __init__(self, process: ForkedProgram, output: Path) -> None:
        self.process = process
        self._output = output

    @property
    def said(self) -> str:
        return self._output.read_text()

    def until_it_says(self, text: str) -> None:
        """Wait until a line of the output has this text; a program may write a line in pieces."""
        eventually(lambda: text in whole_lines(self.said) or self.process.poll() is not None, f"{text!r} said")
        assert text in whole_lines(self.said), self.said

    def end(self) -> int:
        return self.process.wait(timeout=200)

    def press_ctrl_c(self) -> None:
        """Send SIGINT to the process group of the command, as a terminal does."""
        os.killpg(self.process.pid, signal.SIGINT)


def whole_lines(said: str) -> str:
    """An output without a line that is not complete."""
    return said[: said.rfind("\n") + 1]


def is_running(pid: int) -> bool:
    """Whether this process runs; a zombie does not run."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def is_running_in(group: int) -> bool:
    """Whether a process of this group runs; a zombie does not run."""
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            state, _, found, *_ = stat.read_text().rpartition(")")[2].split()
            if int(found) == group and state != "Z":
                return True
    return False


def run_python(*arguments: str, check: bool = False, **options: Any) -> subprocess.CompletedProcess[str]:  # noqa: ANN401 - of `run`
    """Run Python with these arguments to its end; its status and its output. Other options are those of `run`."""
    usual: dict[str, Any] = {"cwd": ROOT, "capture_output": True, "text": True, "timeout": 200}
    return subprocess.run([sys.executable, *arguments], check=check, **usual | options)


@contextlib.contextmanager
def talking(*arguments: str) -> Iterator[tuple[subprocess.Popen[str], IO[str], IO[str]]]:
    """Run a Python process; give the process, its input and its output. The end of the block kills the process."""
    process = subprocess.Popen(
        [sys.executable, *arguments], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            yield process, process.stdin, process.stdout
        finally:
            process.kill()


def python(source: str) -> Sequence[str]:
    return (sys.executable, "-u", "-c", source)
