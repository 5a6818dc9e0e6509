"""The pool in which this worker runs its tasks, and what it enforces.

Invariants: the name is noted in the main process before the fork; where it is unknown, nothing is enforced.
"""

from __future__ import annotations

from typing import Any

from celery.concurrency import get_implementation
from celery.signals import worker_init

_name = ""


def enforces_hard_limits() -> bool:
    """Whether the body of a task is certainly over when its hard time limit is.

    Only prefork kills. The threads and solo pools have no limits; gevent raises an exception, which a body may catch
    and which a body that computes never meets; eventlet has no limits either.
    """
    return _name == "prefork"


@worker_init.connect
def _note(sender: Any, **_: Any) -> None:  # noqa: ANN401 - Celery's signals pass what they like
    global _name  # noqa: PLW0603 - a process is one worker or none
    _name = get_implementation(sender.pool_cls).__module__.rpartition(".")[2]
