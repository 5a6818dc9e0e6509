"""A command that is a fork of a warm interpreter behaves as in an interpreter of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.integration.shell import is_running
from tests.integration.tools import ROOT, eventually
from tests.integration.warm_commands import WarmInterpreter, warm_interpreter

MODULE = "tests.integration.apps.statement"
ENVIRONMENT = {"LC_ALL": "C.UTF-8", "PYTHONPATH": "/one:/two", "ONE": "1"}


def ended(python: str | Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [python, *arguments], cwd=ROOT, env=ENVIRONMENT | environment, input="typed", capture_output=True, text=True,
        check=False, start_new_session=True, timeout=200,
    )  # fmt: skip


@pytest.mark.parametrize(
    "statement",
    [
        "import sys; print(__name__, sys.argv, sys.path, sys.modules['__main__'].sys is sys, open(0).read())",
        "import os, sys; print(sorted(os.environ.items()), os.getcwd(), input()); print('error', file=sys.stderr)",
        "import os, signal; print([signal.getsignal(n) for n in (2, 15, 17)], os.getsid(0) == os.getpid())",
        "import sys; print([(s.mode, s.errors, s.line_buffering) for s in (sys.stdin, sys.stdout, sys.stderr)])",
        "import sys; print([name for name in sys.modules if name.partition('.')[0] == 'redlock'])",
        "import sys, threading; threading.Timer(0.1, print, ['a thread']).start(); sys.exit(300)",
        "import atexit, sys; atexit.register(print, 'the end'); sys.exit(False)",
        "import sys; sys.exit('a text')",
        "import os; os.abort()",
        "import os; os.kill(os.getpid(), 9)",
    ],
)
def test_a_command_says_and_ends_as_an_interpreter_does(commands: Path, tmp_path: Path, statement: str) -> None:
    file = tmp_path / "file.py"
    file.write_text(statement)
    for arguments in ("-c", statement, "more"), ("-m", MODULE, statement), (str(file), "more"):
        one, other = ended(sys.executable, *arguments), ended(commands / "python", *arguments)
        assert (other.returncode, other.stdout, other.stderr) == (one.returncode, one.stdout, one.stderr)


@pytest.mark.parametrize(("statement", "status"), [("1 / 0", 1), ("raise KeyboardInterrupt", -signal.SIGINT)])
def test_an_exception_is_printed_and_is_the_status(commands: Path, statement: str, status: int) -> None:
    other = ended(commands / "python", "-c", f"import atexit; atexit.register(print, 'the end'); {statement}")
    assert (other.returncode, other.stdout) == (status, "the end\n")
    assert other.stderr.splitlines()[-1].startswith(("ZeroDivisionError", "KeyboardInterrupt"))


@pytest.mark.parametrize(
    ("arguments", "environment", "is_fork"),
    [
        (("-c", "import os; print(os.getppid())"), {}, True),
        (("-c", "import os; print(os.getppid())", "--pool=gevent"), {}, False),
        (("-c", "import os; print(os.getppid())"), {"PYTHONHASHSEED": "7"}, False),
        (("-c", "import os; print(os.getppid())"), {"LD_PRELOAD": ""}, False),
        (("-I", "-c", "import os; print(os.getppid())"), {}, False),
    ],
)
def test_what_only_a_new_interpreter_can_do_is_no_fork(
    commands: Path, arguments: tuple[str, ...], environment: dict[str, str], *, is_fork: bool
) -> None:
    parent = int(ended(commands / "python", *arguments, **environment).stdout)
    assert (parent != os.getpid()) == is_fork


def test_scripts_of_the_environment_are_run(commands: Path) -> None:
    assert ended(commands / "redlock", "--version").stdout.startswith("redlock ")
    assert ended(commands / "celery", "--version").returncode == 0


WITH_A_CHILD = (
    "import os, signal, subprocess, sys; "
    "child = subprocess.Popen(['sleep', '999'], stdout=-3, stderr=-3); "
    "print(os.getpid(), child.pid, flush=True); signal.pause()"
)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
@pytest.mark.parametrize("nested", [False, True])
def test_a_signal_ends_the_fork(warm: WarmInterpreter, tmp_path: Path, number: int, *, nested: bool) -> None:
    python = warm.commands(tmp_path / "bin", nested=nested) / "python"
    with subprocess.Popen(
        [python, "-c", WITH_A_CHILD], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as one:
        assert one.stdout is not None
        pids = [int(pid) for pid in one.stdout.readline().split()]
        one.send_signal(number)
        one.communicate(timeout=200)
        assert one.returncode == -number
    eventually(lambda: not is_running(pids[0]), "the end of the fork")
    if not nested and number == signal.SIGKILL:
        eventually(lambda: not is_running(pids[1]), "the end of its child")
    else:
        os.kill(pids[1], signal.SIGKILL)


def test_the_end_of_the_last_test_run_ends_the_interpreter(tmp_path: Path) -> None:
    with warm_interpreter(sys.executable, tmp_path), warm_interpreter(sys.executable, tmp_path) as warm:
        python = warm.commands(tmp_path / "bin") / "python"
        one = subprocess.Popen([python, "-c", WITH_A_CHILD.replace("'sleep', '999'", "'true'")], stdout=subprocess.PIPE)
        assert one.stdout is not None
        fork = int(one.stdout.readline().split()[0])
        folder = Path((tmp_path / "address").read_text()).parent
        assert folder.exists()
    assert one.wait(200) == 1
    one.stdout.close()
    eventually(lambda: not is_running(fork), "the end of the fork")
    assert not folder.exists()
    with warm_interpreter(sys.executable, tmp_path):
        assert ended(python, "-c", "0").returncode == 1, "the address has changed"
