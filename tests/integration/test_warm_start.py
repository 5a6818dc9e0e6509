"""A program in a fork behaves as in an interpreter of its own."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

import pytest

from tests.integration.shell import run_python
from tests.integration.tools import ROOT, eventually
from tests.integration.warm_start import ForkedProgram, can_fork

MODULE = "tests.integration.apps.statement"


@pytest.mark.parametrize(
    "statement",
    [
        "print(__name__, sys.argv[1:], sys.modules['__main__'].sys is sys, open(0).read())",
        "import os; print(sorted(os.environ.items()), os.getcwd(), os.getsid(0) == os.getpid(), sys.path[0])",
        "import signal; print([signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM, signal.SIGCHLD)])",
        "import tempfile; print(tempfile.gettempdir())",
        "import logging; logging.warning('%s', logging.LogRecord('', 0, '', 0, '', (), None).processName)",
        "import sys, threading; threading.Timer(0.1, print, ['a thread']).start(); sys.exit(300)",
        "import atexit; atexit.register(print, 'the end')",
        "sys.exit('a text')",
        "sys.exit(None)",
        "import os; os.abort()",
    ],
)
def test_a_fork_says_and_ends_as_an_interpreter_does(tmp_path: Path, statement: str) -> None:
    environment = {"PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8", "ONE": "1", "TMPDIR": str(tmp_path)}
    expected = run_python("-m", MODULE, statement, env=environment, stdin=subprocess.DEVNULL, start_new_session=True)
    output, errors = tmp_path / "output", tmp_path / "errors"
    program = ForkedProgram(MODULE, [statement], environment=environment, folder=ROOT, output=output, errors=errors)
    status = program.wait(200)
    assert (status, output.read_text(), errors.read_text()) == (
        expected.returncode,
        expected.stdout,
        expected.stderr,
    )


def test_a_program_that_has_just_started_leads_its_group(tmp_path: Path) -> None:
    for _ in range(20):
        program = ForkedProgram(
            MODULE, ["import signal; signal.pause()"], environment={}, folder=ROOT, output=tmp_path / "output"
        )
        os.killpg(program.pid, signal.SIGKILL)
        assert program.wait(200) == -signal.SIGKILL


def test_an_exception_is_printed_and_is_status_1(tmp_path: Path) -> None:
    output = tmp_path / "output"
    program = ForkedProgram(
        MODULE, ["import atexit; atexit.register(print, 'the end'); 1 / 0"], environment={}, folder=ROOT, output=output
    )
    assert program.wait(200) == 1
    assert output.read_text().endswith("ZeroDivisionError: division by zero\nthe end\n")


def test_a_signal_ends_a_fork(tmp_path: Path) -> None:
    output = tmp_path / "output"
    program = ForkedProgram(
        MODULE,
        ["import signal; print('ready', flush=True); signal.pause()"],
        environment={},
        folder=ROOT,
        output=output,
    )
    eventually(lambda: output.read_text() if output.exists() else "", "a program that is ready")
    with pytest.raises(subprocess.TimeoutExpired):
        program.wait(0)
    assert program.poll() is None
    program.terminate()
    assert program.wait(200) == program.poll() == -signal.SIGTERM
    program.kill()


def test_a_signal_to_a_fork_that_ends_is_no_error(tmp_path: Path) -> None:
    """Its process is gone a moment before its exit status is known."""
    for _ in range(20):
        program = ForkedProgram(MODULE, ["pass"], environment={}, folder=ROOT, output=tmp_path / "output")
        while program.poll() is None:
            program.kill()


@pytest.mark.parametrize(
    ("arguments", "settings", "expected"),
    [
        (["-P", "prefork"], {"REDLOCK_TTL": "2"}, True),
        (["-P", "gevent"], {}, False),
        (["--pool=eventlet"], {}, False),
        ([], {"PYTHONHASHSEED": "7"}, False),
        ([], {"LD_PRELOAD": "clock.so"}, False),
        (["-P", "prefork"], {"REMAP_SIGTERM": "SIGQUIT"}, False),
    ],
)
def test_what_only_a_new_interpreter_can_do_is_no_fork(
    arguments: list[str], settings: dict[str, str], expected: object
) -> None:
    assert can_fork(arguments, os.environ | settings) == expected
