"""A task for each value of `on_conflict`; `--include` adds them to a worker of the example."""

from __future__ import annotations

import logging
import os
from typing import Any

from celery import Task
from redis import Redis

from redlock import LockContended, Stale
from redlock.celery import client_for, current_lease, locked
from tests.repeated_calls import again
from workers.app import app, settings

store = Redis.from_url(settings.store_url)
logger = logging.getLogger(__name__)


def about(task: Task) -> dict[str, Any]:
    """The details of the running task and its lease."""
    delivered = task.request.delivery_info or {}
    return {
        "id": task.request.id,
        "retries": task.request.retries,
        "trace": (task.request.headers or {}).get("x-trace"),
        "priority": delivered.get("priority"),
        "queue": delivered.get("routing_key"),
        "time_limit": task.request.timelimit,
        "waited_ms": current_lease().waited_ms,
        "fence": current_lease().fence,
        "pid": os.getpid(),
    }


def run(self: Task, name: str) -> dict[str, Any]:  # noqa: ARG001 - names the lock
    return about(self)


def add(task: str, lock: dict[str, Any], **options: Any) -> Any:  # noqa: ANN401 - Celery is untyped
    """Add a task of this name that gives its details under a lock."""
    return app.task(bind=True, name=f"{__name__}.{task}", **options)(locked("policy:{name}", **lock)(run))


BACK: dict[str, Any] = {"wait": 0.02, "on_conflict": "requeue"}
requeue = add("requeue", BACK, max_retries=0)
add("requeue_once", BACK | {"max_requeues": 1})
add("skip", {"wait": 0, "on_conflict": "skip"})
add("fail", {"wait": 0, "on_conflict": "raise"})
add(
    "retry",
    {"wait": 0, "on_conflict": "raise"},
    autoretry_for=(LockContended,),
    retry_kwargs={"countdown": 0.1, "max_retries": 500},
)
add("wait", {"wait": 30, "on_conflict": "raise"}, max_retries=0)


@app.task(bind=True, max_retries=0)
@again
@locked("policy:{name}", **BACK)
def requeue_repeated(self: Task, name: str) -> dict[str, Any]:  # noqa: ARG001 - names the lock
    """Goes back to the queue under a decorator that repeats the call."""
    return about(self)


@app.task(bind=True, max_retries=0)
@locked("policy:{name}", on_conflict="requeue", max_requeues=2)
def stale(self: Task, name: str, times: int) -> int:
    """Is refused by the store in its first runs; gives the number of its runs."""
    runs = int(store.incr(f"runs:{self.request.id}"))
    if runs <= times:
        raise Stale(name, current_lease().fence, current_lease().fence)
    return runs


@app.task(bind=True)
@locked("policy:{name}", wait=0.02, on_conflict="requeue")
def replaced(self: Task, name: str) -> None:
    """Another task with the same lock takes the place of this task."""
    self.replace(requeue.si(name))


@app.task
def after(earlier: object) -> dict[str, object]:
    """The next task of a chain or a chord."""
    return {"after": earlier}


@app.task
def log(text: str) -> None:
    """Writes to the log, once as a line and once as a traceback."""
    try:
        raise ValueError(text)
    except ValueError:
        logger.exception("this was said: %s", text)


@app.task
@locked("body:{name}")
def wait_in_body(name: str) -> int:
    """Wait in the body for a second lock, through the library."""
    with client_for(app).lock(f"second:{name}") as lease:
        return lease.fence
