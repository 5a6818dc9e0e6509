"""All calls of a run share a `Delivery`: a decorator between `@app.task` and `@locked` can call the task again.

Invariants:
1. After the message was sent back or dropped, the run has ended. Each further call ends in the same way, before its
   lock.
2. A delivery never outlives its run. A request that the application pushes can stay on the stack of its task. So no
   request keeps a delivery, and no run begins with a delivery.
"""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING, Any

from celery.exceptions import Ignore
from celery.signals import task_postrun, task_prerun

from redlock._locking.caller_context import package_variable
from redlock.celery.delivery import Delivery

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextvars import ContextVar

    from celery import Task


class _Run:
    """The run of a message."""

    delivery: Delivery | None = None


_run: ContextVar[_Run | None] = package_variable("redlock_run", None)
"""The run of this thread or greenlet."""


def delivery_of(task: Task | None) -> Delivery | None:
    """The message of this run; None for direct calls and eager runs.

    Raises:
        Retry, Ignore, Reject: The run has ended in this way.
    """
    if task is None or task.request.called_directly or task.request.is_eager:
        return None
    run = _run.get()
    if run is None:
        return Delivery(task)
    delivery = run.delivery
    if delivery is None:
        run.delivery = delivery = Delivery(task)
    if delivery.end is not None:
        raise delivery.end
    if delivery.is_sent:
        raise Ignore("the task is back in the queue")
    if delivery.has_run:
        # The time of an earlier body is no wait.
        delivery.since = time.time()
    return delivery


@contextlib.contextmanager
def noting_end(delivery: Delivery | None, *kinds: type[Exception]) -> Iterator[None]:
    """Note an exception of these kinds, with which the run ends in this block."""
    try:
        yield
    except kinds as end:
        if delivery is not None:
            delivery.end = end
        raise


@task_prerun.connect
def _begin(task: Any, **_: Any) -> None:
    if not task.request.is_eager:
        _run.set(_Run())


@task_postrun.connect
def _end(task: Any, **_: Any) -> None:
    run = _run.get()
    if run is not None and not task.request.is_eager:
        if run.delivery is not None:
            # The frames of its traceback have the delivery.
            run.delivery.end = None
        _run.set(None)
