"""Which process this is, without asking the kernel at every turn: a lease looks several times whose it is.

Rules: right in every child that Python forks, be it by `os.fork`, multiprocessing, billiard or gevent.
"""

from __future__ import annotations

import os

_pid = os.getpid()


def pid() -> int:
    """This process' id."""
    return _pid


def _look() -> None:
    global _pid  # noqa: PLW0603 - a process has one id
    _pid = os.getpid()


os.register_at_fork(after_in_child=_look)
