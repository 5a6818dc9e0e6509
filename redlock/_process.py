"""The process id without a system call: a lease checks its process several times.

The id is right in every child that Python forks: with `os.fork`, multiprocessing, billiard or gevent.
"""

from __future__ import annotations

import os

_pid = os.getpid()


def pid() -> int:
    """The id of this process."""
    return _pid


def _read_pid() -> None:
    global _pid  # noqa: PLW0603 - a process has one id
    _pid = os.getpid()


os.register_at_fork(after_in_child=_read_pid)
