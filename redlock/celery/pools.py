"""The pool of this worker, and the hard time limit at which the pool kills a task.

Invariants: the main process reads the pool's name and limits before the fork; an unknown pool enforces no limit.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from billiard import get_start_method
from celery.concurrency import get_implementation
from celery.signals import worker_init

if TYPE_CHECKING:
    from celery import Task

_name = ""
_time_limit: float | None = None
_soft_time_limit: float | None = None
"""The worker's own limits: the options `--time-limit` and `--soft-time-limit`, else the settings `task_time_limit` and
`task_soft_time_limit`."""


def name_of(worker: Any) -> str:
    """The name of a worker's pool: the module of its implementation."""
    return str(get_implementation(worker.pool_cls).__module__.rpartition(".")[2])


def spawns(worker: Any) -> bool:
    """Whether the pool of a worker starts new interpreters, which have nothing of the main process, as its children."""
    # Celery has the setting from 5.7 on. The default of billiard 4.3 on macOS is to spawn, also if the setting is fork.
    is_set = getattr(worker, "pool_start_method", "fork") != "fork"
    return _name == "prefork" and (is_set or get_start_method() != "fork")


def hard_limit(task: Task) -> float | None:
    """Seconds after which the pool kills this run of a task; None if the pool ends no body for certain.

    Only prefork kills the process. The threads, solo and eventlet pools have no hard limit. Gevent raises an exception,
    which a body may catch, and which never reaches a body that only computes.
    """
    if _name != "prefork":
        return None
    # The same order as in celery/worker/request.py and billiard/pool.py. From Celery 5.7 on, the task's limit is the
    # app's setting unless the task has its own limit, so that setting wins over the worker's option.
    of_message, _ = task.request.timelimit or (None, None)
    return of_message or task.time_limit or _time_limit


def overtime(task: Task) -> float:
    """Seconds from the soft time limit of this run to the hard limit; infinite if one of them is missing."""
    hard, (_, of_message) = hard_limit(task), task.request.timelimit or (None, None)
    soft = of_message or task.soft_time_limit or _soft_time_limit
    return float("inf") if hard is None or soft is None else hard - soft


@worker_init.connect
def _note(sender: Any, **_: Any) -> None:
    global _name, _time_limit, _soft_time_limit  # noqa: PLW0603 - a process is one worker or none
    _name = name_of(sender)
    _time_limit, _soft_time_limit = sender.time_limit, sender.soft_time_limit
