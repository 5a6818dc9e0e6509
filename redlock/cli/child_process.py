"""A program in a process group of its own, and the signals and the terminal that the group shares with this process.

Invariants:
1. Signals that this process receives go to the group.
2. The group does not outlive this process: where this process is killed, a watcher kills the group.
3. The program gets the terminal when it asks for it and the terminal is ours; it can't be suspended from there.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

from redlock.testing.redis_server import die_with_parent

if TYPE_CHECKING:
    from collections.abc import Sequence

# The pipe ends when this process ends, however it ends. The number of the group is in it before the program begins.
_WATCHER = """
import os, signal, sys
group = int(sys.stdin.readline())
sys.stdin.read()
os.killpg(group, signal.SIGKILL)
"""
_FROM_THE_TERMINAL = frozenset({signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU})


class Stopped(BaseException):
    """A signal came while there was no program yet to pass it on to."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


class Program:
    """A program in a process group of its own.

    Args:
        command: The program and its arguments.
    """

    def __init__(self, command: Sequence[str]) -> None:
        self.command = command
        self._process: subprocess.Popen[bytes] | None = None
        self._watcher: subprocess.Popen[bytes] | None = None
        self._starting = False
        self._early: list[int] = []
        self._terminal: int | None = None

    def receive(self, number: int, _frame: object) -> None:
        """A signal has come to us: it is the program's, or, where there is none yet, the end of our waiting.

        Raises:
            Stopped: There is none yet.
        """
        if self._process is not None:
            self.signal(number)
        elif self._starting:
            self._early.append(number)
        else:
            raise Stopped(number)

    def start(self, environment: dict[str, str]) -> None:
        """Start it.

        Raises:
            OSError: It can't be started.
        """
        self._starting = True
        try:
            pipe = self._start_watcher()
            self._process = subprocess.Popen(  # noqa: S603 - running what one is told is the point
                self.command,
                env=environment,
                preexec_fn=lambda: _alone(pipe),  # noqa: PLW1509 - nothing in it takes a lock
            )
        except OSError:
            self.stop_watching()
            raise
        finally:
            self._starting = False
        for number in self._early:
            self.signal(number)

    def _start_watcher(self) -> int:
        """Start the watcher, and return the end of its pipe that stays open as long as this process lives."""
        self._watcher = subprocess.Popen(  # noqa: S603 - the program is ours
            [sys.executable, "-I", "-S", "-c", _WATCHER],
            stdin=subprocess.PIPE,
            # It must keep nothing open: not the output that a caller reads to its end, and no folder.
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd="/",
            env={},
            start_new_session=True,
            preexec_fn=_ignore_signals,  # noqa: PLW1509 - nothing in it takes a lock
        )
        assert self._watcher.stdin is not None
        return self._watcher.stdin.fileno()

    def stop_watching(self) -> None:
        """The program has ended: what it left in the background runs on, also after the end of this process."""
        if self._watcher is not None:
            # Before its pipe is closed, else it would kill the group.
            self._watcher.kill()
            self._watcher.communicate()
            self._watcher = None

    def signal(self, number: int) -> None:
        """Send a signal to all of its group."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, number)

    def wait(self) -> int:
        """Its exit status, 128 + n if signal n ended it."""
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
        """Whether nothing of its group is left."""
        assert self._process is not None
        try:
            os.killpg(self._process.pid, 0)
        except ProcessLookupError:
            return True
        except PermissionError:
            return False
        return False

    def _lend_terminal(self) -> bool:
        """Let it read what is typed: it asked for it, and may have it where it is ours to lend."""
        assert self._process is not None
        try:
            if self._terminal is None:
                terminal = os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)
                if os.tcgetpgrp(terminal) != os.getpgrp():
                    os.close(terminal)
                    return False
                self._terminal = terminal
                signal.signal(signal.SIGTTOU, signal.SIG_IGN)
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
            signal.signal(signal.SIGTTOU, signal.SIG_DFL)


def _alone(pipe: int) -> None:
    os.setpgid(0, 0)
    os.write(pipe, b"%d\n" % os.getpid())
    # The watcher would do. But a watcher that was killed would not.
    die_with_parent()


def _ignore_signals() -> None:
    # A service manager sends its SIGTERM to every process of the service.
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
