"""Commands on a full disk, before a closed pipe and at a terminal: the exit status counts, and no traceback comes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from redlock.cli import main
from redlock.testing.redis_server import Cluster, free_port
from tests.integration.processes import children
from tests.integration.shell import run_python
from tests.integration.tools import client_of, eventually

FULL = Path("/dev/full")
LOST = "redlock: the output can't be written: no space left on device\n"
SIMULATE = ("simulate", "--delays", "0,0", "--hold", "0", "--retries", "0")

# The program gets a signal at the import of a module.
PAUSED = """
import os, signal, sys
class Pause:
    def find_spec(self, name, *_):
        if name == {module!r}:
            sys.meta_path.remove(self)
            os.kill(os.getpid(), signal.SIGINT)
sys.meta_path.insert(0, Pause())
sys.argv[1:] = ["--version"]
"""


def redlock(words: Sequence[str], stdout: int, stderr: int = subprocess.PIPE) -> subprocess.CompletedProcess[str]:
    """Run the command with its output buffered, as outside of tests."""
    clean = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    return run_python(
        "-m", "redlock", *words,
        env=clean, stdin=subprocess.DEVNULL, capture_output=False, stdout=stdout, stderr=stderr,
    )  # fmt: skip


@pytest.fixture
def full_disk() -> Iterator[int]:
    """A file that has no room."""
    if not FULL.exists():
        pytest.skip("this system has no /dev/full")
    descriptor = os.open(FULL, os.O_WRONLY)
    yield descriptor
    os.close(descriptor)


@pytest.fixture
def closed_pipe() -> Iterator[int]:
    """A pipe without a reader, as behind `| head -1`."""
    reader, writer = os.pipe()
    os.close(reader)
    yield writer
    os.close(writer)


@pytest.fixture
def no_nodes() -> str:
    """The option with an address where no server listens."""
    return f"--nodes=127.0.0.1:{free_port()}"


@pytest.mark.parametrize("words", ["doctor --json", "doctor", "status", "status --json", "status --watch"])
def test_a_lost_report_keeps_its_status(full_disk: int, closed_pipe: int, no_nodes: str, words: str) -> None:
    for stdout, said in ((full_disk, LOST), (closed_pipe, "")):
        done = redlock([*words.split(), no_nodes], stdout)
        assert (done.returncode, done.stderr) == (main.NO_QUORUM, said)


@pytest.mark.parametrize("words", ["--help", "--version"])
def test_help_before_a_closed_pipe_is_no_error(full_disk: int, closed_pipe: int, words: str) -> None:
    assert redlock([words], full_disk).returncode == 0
    done = redlock([words], closed_pipe)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(("words", "status"), [("status --most -1", 2), ("nope", 2), ("--version", 0)])
def test_two_full_outputs_keep_the_status(full_disk: int, words: str, status: int) -> None:
    assert redlock(words.split(), full_disk, full_disk).returncode == status


def test_init_and_release_work_without_an_output(nodes: Cluster, full_disk: int) -> None:
    listed = f"--nodes={','.join(nodes.urls)}"
    done = redlock(["init", "--yes", listed], full_disk)
    assert (done.returncode, done.stderr) == (0, LOST)
    with client_of(nodes.urls) as client:
        assert client.lock("x").acquire()
        done = redlock(["release", "x", "--force", "--yes", listed], full_disk)
        assert (done.returncode, done.stderr) == (0, LOST)
        assert client.lock("x").acquire(blocking=False)


def test_simulate_works_without_an_output(nodes: Cluster, full_disk: int, closed_pipe: int, tmp_path: Path) -> None:
    log = tmp_path / "log"
    words = [*SIMULATE, "--nodes", ",".join(nodes.urls)]
    done = redlock([*words, "--log-file", str(log)], closed_pipe)
    assert (done.returncode, done.stderr) == (0, "")
    assert log.read_text().count("redlock: simulated client=") >= 5
    done = redlock([*words, "--log-file", str(FULL)], full_disk)
    assert done.returncode == 0
    assert "Traceback" not in done.stderr
    assert set(done.stderr.splitlines(keepends=True)) == {
        LOST, "redlock: log file '/dev/full': no space left on device; going on without it\n"
    }  # fmt: skip


def test_an_answer_that_is_no_text_is_a_no(no_nodes: str) -> None:
    words = [sys.executable, "-m", "redlock", "init", no_nodes]
    terminal, child_side = os.openpty()
    environment = os.environ | {"PYTHONIOENCODING": "utf-8"}
    child = subprocess.Popen(words, stdin=child_side, stdout=child_side, stderr=child_side, env=environment)
    os.close(child_side)
    said = b""

    def says(text: bytes) -> bool:
        nonlocal said
        said += os.read(terminal, 1_000)
        return text in said

    eventually(lambda: says(b"Go on?"), "the question")
    os.write(terminal, b"\xe9\n")
    eventually(lambda: says(b"Nothing was changed."), "the answer")
    assert child.wait() == main.DECLINED
    os.close(terminal)


COMMAND = "from _redlock_command import main; sys.exit(main())"
MODULE = "import runpy; runpy.run_module('redlock', run_name='__main__')"


@pytest.mark.parametrize(
    ("module", "start"),
    [("redis", COMMAND), ("redlock.cli.commands", COMMAND), ("redlock.cli.commands", MODULE)],
    ids=["command, redis", "command, its own modules", "python -m"],
)
def test_ctrl_c_during_the_start_is_130_and_says_nothing(module: str, start: str) -> None:
    done = run_python("-c", PAUSED.format(module=module) + start)
    assert (done.returncode, done.stdout, done.stderr) == (main.INTERRUPTED, "", "")


def test_ctrl_c_ends_simulate_during_its_start(nodes: Cluster, tmp_path: Path) -> None:
    words = [sys.executable, "-m", "redlock", "simulate", "--nodes", ",".join(nodes.urls)]
    with subprocess.Popen(
        [*words, "--delays", "0,9,9,9", "--log-file", str(tmp_path / "log")],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
    ) as process:  # fmt: skip
        # The clients are processes that import the package.
        eventually(lambda: len(children(process.pid)) == 5, "four clients and a helper of multiprocessing")
        os.killpg(process.pid, signal.SIGINT)
        _, errors = process.communicate(timeout=200)
    assert (process.returncode, errors) == (main.INTERRUPTED, "")
