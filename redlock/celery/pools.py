"""The pool of this worker, and whether the pool enforces hard time limits.

Invariants: the main process reads the pool's name before the fork; an unknown pool enforces no limit.
"""

from __future__ import annotations

from typing import Any

from celery.concurrency import get_implementation
from celery.signals import worker_init

_name = ""


def enforces_hard_limits() -> bool:
    """Whether the pool ends a task's body at the hard time limit.

    Only prefork kills the process. The threads, solo and eventlet pools have no hard limit. Gevent raises an exception,
    which a body may catch, and which never reaches a body that only computes.
    """
    return _name == "prefork"


@worker_init.connect
def _note(sender: Any, **_: Any) -> None:  # noqa: ANN401 - Celery's signals pass what they like
    global _name  # noqa: PLW0603 - a process is one worker or none
    _name = get_implementation(sender.pool_cls).__module__.rpartition(".")[2]
