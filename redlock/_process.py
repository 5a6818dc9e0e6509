"""The process id without a system call, hooks after a fork, signals, and whether another process lives.

Invariants: the id is right in every child that Python forks, with `os.fork`, multiprocessing, billiard or gevent.
"""

from __future__ import annotations

import os
import signal
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

_pid = os.getpid()


def pid() -> int:
    """The id of this process."""
    return _pid


def after_fork_in_child(function: Callable[[], object]) -> None:
    """Call this function in every child that Python forks. Windows has no fork."""
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=function)


def signals(*names: str) -> tuple[signal.Signals, ...]:
    """The signals with these names that this platform has."""
    return tuple(getattr(signal, name) for name in names if hasattr(signal, name))


def is_alive(pid: int) -> bool:
    """Whether there is a process with this id, or in the group with this negative id.

    True on Windows, where the usual test ends the process.
    """
    if sys.platform == "win32":
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _read_pid() -> None:
    global _pid  # noqa: PLW0603 - a process has one id
    _pid = os.getpid()


after_fork_in_child(_read_pid)
