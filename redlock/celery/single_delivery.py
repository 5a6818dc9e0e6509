"""One `Delivery` for all calls of a run: a decorator between `@app.task` and `@locked` can call the task again.

Invariants:
1. A run that ended with `Retry`, `Ignore` or `Reject` has sent or dropped its message. Each further call of this run
   ends in the same way, before its lock.
2. A request keeps its delivery until the end of the run. The two refer to each other, and only the garbage collector
   would free both.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

from celery.exceptions import Ignore, TaskPredicate
from celery.signals import task_postrun

from redlock.celery.delivery import Delivery

if TYPE_CHECKING:
    from collections.abc import Iterator

    from celery import Task

KEPT = "redlock_delivery"
"""The request attribute with the delivery of the run."""


def delivery_of(task: Task | None) -> Delivery | None:
    """The message of this run; None for direct calls and eager runs.

    Raises:
        Retry, Ignore, Reject: The run has ended in this way.
    """
    if task is None or task.request.called_directly or task.request.is_eager:
        return None
    # The request of the message: `Task.__call__`, which can be repeated too, puts a copy on top of it.
    found = vars(task.request_stack.stack[0])
    kept = found.get(KEPT)
    # A header that the sender has invented becomes such an attribute too.
    delivery = kept if isinstance(kept, Delivery) else Delivery(task)
    found[KEPT] = delivery
    if delivery.end is not None:
        raise delivery.end
    if delivery.is_sent:
        raise Ignore("the task is back in the queue")
    return delivery


@contextlib.contextmanager
def noting_end(delivery: Delivery | None) -> Iterator[None]:
    """Note the exception with which the run ends in this block."""
    try:
        yield
    except TaskPredicate as end:
        if delivery is not None:
            delivery.end = end
        raise


@task_postrun.connect
def _forget(task: Any, **_: Any) -> None:
    vars(task.request).pop(KEPT, None)
