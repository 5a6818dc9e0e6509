"""Runs Python modules as programs, in forks of a process that has imported their packages already.

Otherwise imports take most of the CPU of a worker that runs a few tasks, and of a command.

Invariants:
1. A program has its own session, environment, signal handlers and output, as one that `python -m` runs.
2. The modules that are imported early are those of packages. A program imports the modules that read its settings.
3. A program ends with the test run, also if that is killed.
"""

from __future__ import annotations

import atexit
import contextlib
import multiprocessing
import os
import runpy
import signal
import subprocess
import sys
import tempfile
import threading
import traceback
from collections.abc import Mapping, Sequence
from multiprocessing import forkserver
from pathlib import Path

from redlock.testing.redis_server import die_with_parent
from tests.integration.tools import eventually

_EARLY = [
    "celery.apps.worker",
    "celery.backends.redis",
    "celery.bin.celery",
    "celery.concurrency.prefork",
    "celery.concurrency.solo",
    "celery.concurrency.thread",
    "celery.worker.consumer",
    "concurrent_log_handler",
    "flower.command",
    "kombu.transport.redis",
    "redlock.celery",
    "redlock.cli.main",
]
_BEFORE_IMPORTS = ("gevent", "eventlet")
"""Pools that replace parts of the standard library before anything imports them."""
_READ_LATE = (
    "REDLOCK_",
    "COUNTER_",
    "FAULTS_",
    "BROKERS_",
    "TRANSFERS_",
    "TMPDIR",
    "PYTEST_",
    "C_FORCE_ROOT",
    "FLOWER_UNAUTHENTICATED_API",
)
"""The variables that are read when a program runs. Interpreters and packages read others at their start or import."""

_context = multiprocessing.get_context("forkserver")


def can_fork(arguments: Sequence[str], environment: Mapping[str, str]) -> bool:
    """Whether a fork does the same as a new interpreter with these arguments and this environment."""
    changed = {name for name, _ in environment.items() ^ os.environ.items()}
    return all(name.startswith(_READ_LATE) for name in changed) and not any(
        pool in argument for argument in arguments for pool in _BEFORE_IMPORTS
    )


def fork_server() -> int | None:
    """The process of which the programs are children; None before the first program."""
    pid: int | None = forkserver._forkserver._forkserver_pid  # type: ignore[attr-defined]
    return pid


class ForkedProgram:
    """A program in a fork; its methods are those of `subprocess.Popen`."""

    def __init__(
        self,
        module: str,
        arguments: Sequence[str],
        *,
        environment: Mapping[str, str],
        folder: Path,
        output: Path,
        errors: Path | None = None,
    ) -> None:
        _context.set_forkserver_preload(_EARLY)
        # A log line has the name of the process.
        self._process = _context.Process(
            name="MainProcess",
            target=_run,
            args=(module, list(arguments), dict(environment), folder, (output, errors or output)),
        )
        self._process.start()
        assert self._process.pid is not None
        self.pid = self._process.pid
        # As after `subprocess.Popen`: from now on a signal to the process group reaches the program.
        eventually(self._leads_its_group, "a program that leads its process group")

    def _leads_its_group(self) -> bool:
        try:
            return os.getpgid(self.pid) == self.pid
        except ProcessLookupError:
            return True

    def poll(self) -> int | None:
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        self._process.join(timeout)
        if (status := self.poll()) is None:
            raise subprocess.TimeoutExpired(str(self.pid), timeout or 0.0)
        return status

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            # The process that forks takes the exit status first, and passes it on a moment later.
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


def _run(
    module: str, arguments: list[str], environment: dict[str, str], folder: Path, outputs: tuple[Path, Path]
) -> None:
    """In the fork: become the program."""
    os.setsid()
    # The process that forks lives as long as this end of its pipe is open anywhere.
    os.close(forkserver._forkserver._forkserver_alive_fd)  # type: ignore[attr-defined]
    die_with_parent()
    test_run = multiprocessing.parent_process()
    if test_run is None or not test_run.is_alive():
        # The test run was killed before the line above, which looks at later ends only.
        os._exit(1)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    # Python has found it already, for the process that forks.
    tempfile.tempdir = None
    for descriptor, path in enumerate(outputs, 1):
        with path.open("ab") as file:
            os.dup2(file.fileno(), descriptor)
    sys.argv[1:] = arguments
    sys.path.insert(0, str(folder))
    os._exit(_status_of(module))


def _status_of(module: str) -> int:
    """Run a module as the interpreter does; its exit status."""
    status: object = 0
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    except SystemExit as end:
        status = end.code
    except BaseException:  # noqa: BLE001 - an interpreter prints any
        traceback.print_exc()
        status = 1
    if not (status is None or isinstance(status, int)):
        print(status, file=sys.stderr)  # noqa: T201 - as above
        status = 1
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError):
            stream.flush()
    return int(status or 0) & 0xFF
