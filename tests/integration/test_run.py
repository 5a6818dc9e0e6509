"""`redlock run`: a program under the lock, its exit status and signals, and its end after a lost lock."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import pytest

from redlock import Redlock
from redlock.cli import run
from redlock.testing.redis_server import Cluster
from tests.integration.processes import children
from tests.integration.shell import Shell, is_running, is_running_in, python, talking
from tests.integration.tools import eventually, holders, is_free, kill_all, leased, raws, run_out
from tests.no_threads import no_thread

NAME = "report"

# The program prints its process id, ignores signals and runs until SIGKILL.
STUBBORN = """
import os, signal
signal.signal(signal.SIGTERM, lambda *_: print("asked to end"))
print("pid", os.getpid())
while True:
    signal.pause()
"""

# The program prints each signal and ends at the last signal of its arguments.
LISTENING = """
import signal, sys
def tell(number, _):
    print("got", signal.Signals(number).name)
    if number == signal.SIGTERM:
        sys.exit(9)
for number in (signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGTERM):
    signal.signal(number, tell)
print("ready")
while True:
    signal.pause()
"""


@pytest.fixture
def shell(nodes: Cluster, tmp_path: Path) -> Shell:
    return Shell(nodes, tmp_path)


def pid_in(said: str) -> int:
    return int(said.partition("pid ")[2].split(maxsplit=1)[0])


@pytest.mark.parametrize("status", [0, 1, 7, 75, 255])
def test_it_ends_with_the_exit_status_of_the_program(shell: Shell, nodes: Cluster, status: int) -> None:
    done = shell.call("run", NAME, "--", "sh", "-c", f"echo out; echo err >&2; exit {status}")
    assert (done.returncode, done.stdout, done.stderr) == (status, "out\n", "err\n")
    assert is_free(nodes.servers, NAME)


def test_the_program_knows_the_resource_and_a_growing_token(shell: Shell) -> None:
    told = [shell.call("run", NAME, "--", "sh", "-c", "echo $REDLOCK_FENCE $REDLOCK_RESOURCE").stdout for _ in range(2)]
    first, second = (line.split() for line in told)
    assert int(first[0]) < int(second[0])
    assert first[1] == second[1] == NAME


def test_the_program_may_use_the_lock_itself(shell: Shell) -> None:
    inner = (sys.executable, "-m", "redlock", "run", "another", "--", "sh", "-c", "echo $REDLOCK_RESOURCE")
    assert shell.call("run", NAME, "--", *inner).stdout == "another\n"


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV, signal.SIGTERM])
def test_a_program_that_a_signal_ended_is_128_and_the_signal(shell: Shell, number: signal.Signals) -> None:
    assert shell.call("run", NAME, "--", "sh", "-c", f"kill -{int(number)} $$").returncode == 128 + number


@pytest.mark.parametrize(("program", "status"), [("/nowhere/x", run.NOT_FOUND), ("/etc/passwd", run.CANNOT_RUN)])
def test_a_program_that_can_not_be_run_is_one_line(shell: Shell, nodes: Cluster, program: str, status: int) -> None:
    done = shell.call("run", NAME, "--", program)
    assert done.returncode == status
    assert done.stderr.startswith(f"redlock: {program}: ")
    assert done.stderr.count("\n") == 1
    assert is_free(nodes.servers, NAME)


def test_a_program_does_not_run_without_its_watchdog(client: Redlock, capsys: pytest.CaptureFixture[str]) -> None:
    """The lock must not become free while the program runs."""
    before = children()
    with no_thread("redlock-watchdog"):
        status = run.run(client, NAME, [sys.executable, "-c", STUBBORN], {}, wait=0, grace=0)
    assert status == run.CANNOT_RUN
    assert capsys.readouterr().err.startswith(f"redlock: {sys.executable}: this process can't start a thread; raise")
    assert children() == before


def test_the_lock_is_held_and_renewed_while_the_program_runs(shell: Shell, nodes: Cluster, tmp_path: Path) -> None:
    log, go_on = tmp_path / "log", tmp_path / "go-on"
    program = ("sh", "-c", f"until test -e {go_on}; do sleep 0.02; done")
    with shell.started("run", NAME, "--ttl", "6", "--log-file", str(log), "--", *program) as command:
        eventually(lambda: log.exists() and log.read_text().count("extended") >= 2, "two renewals")
        holder = holders(nodes.servers, NAME)[0]
        assert holder is not None
        assert f":sh[{command.process.pid}]@" in holder
        go_on.touch()
        assert command.end() == 0, command.said
    assert is_free(nodes.servers, NAME)
    assert "released" in log.read_text()


def test_signals_go_to_the_program_once_each(shell: Shell, nodes: Cluster) -> None:
    with shell.started("run", NAME, "--", *python(LISTENING), says="ready") as command:
        for number in (signal.SIGHUP, signal.SIGUSR1):
            command.process.send_signal(number)
            command.until_it_says(f"got {number.name}")
        command.press_ctrl_c()
        command.until_it_says("got SIGINT")
        command.process.send_signal(signal.SIGTERM)
        assert command.end() == 9
        assert sorted(command.said.split()[2::2]) == ["SIGHUP", "SIGINT", "SIGTERM", "SIGUSR1"]
    assert is_free(nodes.servers, NAME)


def test_ctrl_c_ends_a_program_without_a_signal_handler(shell: Shell, nodes: Cluster) -> None:
    with shell.started("run", NAME, "--", "sh", "-c", "echo ready; exec sleep 60", says="ready") as command:
        command.press_ctrl_c()
        assert command.end() == 128 + signal.SIGINT
        assert command.said == "ready\n", "nothing is said, and there is no traceback"
    assert is_free(nodes.servers, NAME)


def test_in_a_terminal_input_ctrl_z_and_ctrl_c_reach_the_program(nodes: Cluster) -> None:
    words = [sys.executable, "-m", "redlock", "run", "--nodes", ",".join(nodes.urls), NAME, "--", "cat"]
    source = f"import os, pty, sys; sys.exit(os.waitstatus_to_exitcode(pty.spawn({words!r})))"
    with talking("-c", source) as (process, stdin, stdout):

        def type_in(text: str) -> None:
            stdin.write(text)
            stdin.flush()

        type_in("first\n")
        assert [stdout.readline().strip() for _ in range(2)] == ["first", "first"], "the terminal's echo, then cat's"
        type_in("\x1a")
        assert "^Z" in stdout.read(2)
        type_in("second\n")
        assert [stdout.readline().strip() for _ in range(2)][-1] == "second"
        type_in("\x03")
        assert process.wait(timeout=200) == 128 + signal.SIGINT
    assert is_free(nodes.servers, NAME)


def test_a_held_lock_is_75_and_names_the_holder(shell: Shell, client: Redlock, tmp_path: Path) -> None:
    with client.lock(NAME):
        done = shell.call("run", NAME, "--wait", "0", "--", "touch", str(tmp_path / "run"))
    assert done.returncode == run.CONTENDED
    assert done.stderr.startswith(f"redlock: lock '{NAME}' is not free: held by ")
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_it_waits_for_the_lock_by_default(shell: Shell, client: Redlock, tmp_path: Path) -> None:
    log, lease = tmp_path / "log", leased(client, NAME, renew=True)
    with shell.started("run", NAME, "--log-file", str(log), "--", "echo", "inside") as command:
        eventually(lambda: log.exists() and " retry " in log.read_text(), "a refusal")
        assert "inside" not in command.said
        lease.release()
        assert command.end() == 0
        assert command.said == "inside\n"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_during_the_wait_ends_it_before_the_program(
    shell: Shell, nodes: Cluster, client: Redlock, tmp_path: Path, number: signal.Signals
) -> None:
    log = tmp_path / "log"
    with client.lock(NAME, ttl=10) as lease:
        eventually(lambda: holders(nodes.servers, NAME) == [lease.owner] * 5, "the lock on all nodes")
        with shell.started("run", NAME, "--log-file", str(log), "--", "echo", "inside") as command:
            eventually(lambda: log.exists() and " retry " in log.read_text(), "a refusal")
            command.process.send_signal(number)
            assert command.end() == 128 + number
            assert not command.said
        assert holders(nodes.servers, NAME) == [lease.owner] * 5
    assert is_free(nodes.servers, NAME)


def test_too_few_nodes_are_69(shell: Shell, nodes: Cluster) -> None:
    kill_all(nodes.servers[:3])
    done = shell.call("run", NAME, "--wait", "0", "--", "echo", "inside")
    assert (done.returncode, done.stdout) == (run.NO_QUORUM, "")
    assert done.stderr.startswith(f"redlock: no quorum for '{NAME}'")
    assert done.stderr.count("\n") == 1


def test_a_lost_lock_kills_a_program_that_ignores_sigterm(shell: Shell, nodes: Cluster) -> None:
    # The shell ends at SIGTERM, but its child does not.
    family = ("sh", "-c", f"'{sys.executable}' -u -c '{STUBBORN}' & wait")
    with shell.started("run", NAME, "--ttl", "3", "--grace", "1.5", "--", *family, says="pid ") as command:
        kill_all(nodes.servers[:3])
        assert command.end() == run.LOST
        assert "asked to end" in command.said
        assert f"redlock: lock '{NAME}' could not be renewed" in command.said
        assert "Traceback" not in command.said
        pid = pid_in(command.said)
        eventually(lambda: not is_running(pid), "the end of all that was started")


def test_a_program_that_obeys_sigterm_has_time_to_clean_up(shell: Shell, nodes: Cluster) -> None:
    program = ("sh", "-c", "trap 'sleep 0.2; echo cleaned up; exit 0' TERM; echo ready; while :; do sleep 0.02; done")
    with shell.started("run", NAME, "--ttl", "4", "--grace", "2", "--", *program, says="ready") as command:
        kill_all(nodes.servers[:3])
        assert command.end() == run.LOST
        assert "cleaned up" in command.said


def test_a_program_whose_lock_was_taken_away_is_ended(shell: Shell, nodes: Cluster) -> None:
    with shell.started("run", NAME, "--ttl", "6", "--", *python(STUBBORN), says="pid ") as command:
        assert shell.call("release", NAME, "--force", "--yes").returncode == 0
        assert command.end() == run.LOST
        assert "a quorum of nodes no longer has it: ending" in command.said
        assert not is_running(pid_in(command.said))
    assert is_free(nodes.servers, NAME)


def test_an_unnoticed_loss_is_70_for_any_status_of_the_program(shell: Shell, nodes: Cluster, tmp_path: Path) -> None:
    go_on = tmp_path / "go-on"
    program = ("sh", "-c", f"echo ready; until test -e {go_on}; do sleep 0.02; done")
    with shell.started("run", NAME, "--ttl", "10", "--", *program, says="ready") as command:
        run_out(nodes.servers, NAME)
        go_on.touch()
        assert command.end() == run.LOST
        assert f"lock '{NAME}' was lost" in command.said


def test_a_program_does_not_outlive_a_redlock_that_was_killed(shell: Shell) -> None:
    with shell.started("run", NAME, "--", *python(STUBBORN), says="pid ") as command:
        pid = pid_in(command.said)
        assert is_running(pid)
        os.kill(command.process.pid, signal.SIGKILL)
        eventually(lambda: not is_running(pid), "the end of the program")


def test_a_pipeline_does_not_outlive_a_killed_redlock(shell: Shell) -> None:
    pipeline = ("sh", "-c", f"'{sys.executable}' -u -c '{STUBBORN}' | cat")
    with shell.started("run", NAME, "--", *pipeline, says="pid ") as command:
        group = os.getpgid(pid_in(command.said))
        os.kill(command.process.pid, signal.SIGKILL)
        eventually(lambda: not is_running_in(group), "the end of the whole pipeline")


def test_a_watcher_survives_a_sigterm_to_every_process(shell: Shell) -> None:
    """A service manager stops a service like this, and then kills the remaining processes."""
    program = ("sh", "-c", f"'{sys.executable}' -u -c '{STUBBORN}' | cat; sleep 60")
    with shell.started("run", NAME, "--", *program, says="pid ") as command:
        group = os.getpgid(pid_in(command.said))
        (watcher,) = [pid for pid in children(command.process.pid) if os.getpgid(pid) != group]
        os.kill(watcher, signal.SIGTERM)
        os.kill(command.process.pid, signal.SIGKILL)
        eventually(lambda: not is_running_in(group) and not is_running(watcher), "the end of program and watcher")


def test_a_process_left_in_the_background_runs_on(shell: Shell) -> None:
    """`redlock run` ends with its program, and its output ends there too, though a background process lives."""
    done = shell.call("run", NAME, "--", "sh", "-c", "sleep 60 >/dev/null 2>&1 & echo pid $!")
    assert done.returncode == 0
    pid = pid_in(done.stdout)
    assert is_running(pid)
    os.kill(pid, signal.SIGKILL)


def test_a_full_disk_stops_neither_the_program_nor_the_lock(shell: Shell, nodes: Cluster) -> None:
    done = shell.call("run", NAME, "--log-file", "/dev/full", "--", "sh", "-c", "echo inside; exit 3")
    assert (done.returncode, done.stdout) == (3, "inside\n")
    assert done.stderr == "redlock: log file '/dev/full': no space left on device; going on without it\n"
    assert is_free(nodes.servers, NAME)


def test_an_unwritable_message_keeps_the_exit_status(shell: Shell, client: Redlock) -> None:
    arguments = ("run", NAME, "--wait", "0", "--", "true")
    with client.lock(NAME), shell.started(*arguments, errors=Path("/dev/full")) as command:
        assert command.end() == run.CONTENDED


def test_an_unusable_log_file_is_73_and_no_program_runs(shell: Shell) -> None:
    done = shell.call("run", NAME, "--log-file", "/nowhere/log", "--", "echo", "inside")
    assert (done.returncode, done.stdout) == (run.CANNOT_CREATE, "")
    assert done.stderr == "redlock: log file '/nowhere/log': no such file or directory\n"
    done = shell.call("simulate", "--log-file", "/nowhere/log")
    assert done.stderr == "redlock: log file '/nowhere/log': no such file or directory; name another with --log-file\n"


def test_a_holders_name_cannot_drive_the_terminal(shell: Shell, nodes: Cluster) -> None:
    for redis in raws(nodes.servers):
        redis.set(NAME, f"{'0' * 32}:\x1b]0;title\x07\x9b2J\u202e\x00\nredlock: forged", px=60_000)
    done = shell.call("run", NAME, "--wait", "0", "--", "true")
    assert done.returncode == run.CONTENDED
    (line,) = done.stderr.splitlines()
    assert line.isprintable()
    assert "title" in line
