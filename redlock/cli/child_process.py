"""Runs a program in its own process group, and shares signals and the terminal with this group.

Invariants:
1. Signals that this process receives go to the group.
2. The group does not outlive this process: if this process is killed, a watcher kills the group.
3. A program that reads from the terminal gets the terminal, if this process has it. The terminal can't suspend the
   program.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING, Any

from redlock._process import is_alive, signals
from redlock.testing.redis_server import die_with_parent

if TYPE_CHECKING:
    from collections.abc import Sequence

# The pipe closes at any end of this process. The pipe has the number of the group before the program begins.
_WATCHER = """
import os, signal, sys
group = int(sys.stdin.readline())
sys.stdin.read()
os.killpg(group, signal.SIGKILL)
"""
_FROM_THE_TERMINAL = frozenset(signals("SIGTSTP", "SIGTTIN", "SIGTTOU"))


class Stopped(BaseException):
    """A signal came before the start of the program."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


class Program:
    """A program in its own process group."""

    def __init__(self, command: Sequence[str]) -> None:
        self.command = command
        self._process: subprocess.Popen[bytes] | None = None
        self._watcher: subprocess.Popen[bytes] | None = None
        self._starting = False
        self._early: list[int] = []
        self._terminal: int | None = None
        self._on_ttou: Any = signal.SIG_DFL

    def receive(self, number: int, _frame: object) -> None:
        """Handle a signal: pass the signal on to the program, or end the wait for the lock.

        Raises:
            Stopped: The program has not been started.
        """
        if self._process is not None:
            self.signal(number)
        elif self._starting:
            self._early.append(number)
        else:
            raise Stopped(number)

    def start(self, environment: dict[str, str]) -> None:
        """Start the program.

        Raises:
            OSError: The program can't be started.
        """
        self._starting = True
        try:
            pipe = self._start_watcher()
            self._process = subprocess.Popen(  # noqa: S603 - the user names the program
                self.command,
                env=environment,
                preexec_fn=lambda: _enter_own_group(pipe),  # noqa: PLW1509 - the function takes no lock
            )
        except OSError:
            self.stop_watching()
            raise
        finally:
            self._starting = False
        for number in self._early:
            self.signal(number)

    def _start_watcher(self) -> int:
        """Start the watcher, and return the end of its pipe that is open during the life of this process."""
        self._watcher = subprocess.Popen(  # noqa: S603 - the program is ours
            [sys.executable, "-I", "-S", "-c", _WATCHER],
            stdin=subprocess.PIPE,
            # The watcher must not hold a folder, or an output that the caller reads until its end.
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd="/",
            env={},
            start_new_session=True,
            preexec_fn=_ignore_signals,  # noqa: PLW1509 - the function takes no lock
        )
        assert self._watcher.stdin is not None
        return self._watcher.stdin.fileno()

    def stop_watching(self) -> None:
        """Stop the watcher after the program's end. Background processes of the program run on."""
        if self._watcher is not None:
            # A closed pipe would make the watcher kill the group.
            self._watcher.kill()
            self._watcher.communicate()
            self._watcher = None

    def signal(self, number: int) -> None:
        """Send a signal to the whole group."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, number)

    def wait(self) -> int:
        """Wait for the program's end, and return its exit status, or 128 + n if signal n ended the program."""
        assert self._process is not None
        while True:
            _, status = os.waitpid(self._process.pid, os.WUNTRACED)
            if not os.WIFSTOPPED(status):
                break
            reason = os.WSTOPSIG(status)
            if reason in _FROM_THE_TERMINAL and (reason == signal.SIGTSTP or self._lend_terminal()):
                self.signal(signal.SIGCONT)
        code = os.waitstatus_to_exitcode(status)
        self._process.returncode = code
        self._take_terminal_back()
        return code if code >= 0 else 128 - code

    def is_gone(self) -> bool:
        """Whether all processes of the group have ended."""
        assert self._process is not None
        return not is_alive(-self._process.pid)

    def _lend_terminal(self) -> bool:
        """Make the group the foreground of the terminal, if this process is the foreground."""
        assert self._process is not None
        try:
            if self._terminal is None:
                terminal = os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)
                if os.tcgetpgrp(terminal) != os.getpgrp():
                    os.close(terminal)
                    return False
                self._terminal = terminal
                self._on_ttou = signal.signal(signal.SIGTTOU, signal.SIG_IGN)
            os.tcsetpgrp(self._terminal, self._process.pid)
        except OSError:
            return False
        return True

    def _take_terminal_back(self) -> None:
        if self._terminal is not None:
            with contextlib.suppress(OSError):
                os.tcsetpgrp(self._terminal, os.getpgrp())
            os.close(self._terminal)
            self._terminal = None
            signal.signal(signal.SIGTTOU, self._on_ttou)


def _enter_own_group(pipe: int) -> None:
    os.setpgid(0, 0)
    os.write(pipe, b"%d\n" % os.getpid())
    # The watcher itself may be killed.
    die_with_parent()


def _ignore_signals() -> None:
    # A service manager sends its SIGTERM to every process of the service.
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
