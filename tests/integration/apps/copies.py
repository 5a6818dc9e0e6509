"""Tasks for redelivered messages: each body reports its start, and waits until the test continues the body."""

from __future__ import annotations

import os
import time
from collections.abc import Callable

from celery import Task
from redis import Redis

from redlock.celery import current_lease, locked
from redlock.celery.conflict_policy import OnConflict
from workers.app import app, settings

app.conf.worker_deduplicate_successful_tasks = "COPIES_RUN_AGAIN" not in os.environ
store = Redis.from_url(settings.store_url, decode_responses=True)
_EVERY = 0.01


def work(task: Task, name: str, how: str) -> int:
    """Run until the store says so, then end as asked; the number of this run."""
    number = int(store.incr(f"runs:{task.request.id}"))
    store.hset(f"pids:{task.request.id}", str(number), os.getpid())
    while not store.exists(f"go:{name}:{number}"):
        time.sleep(_EVERY)
    if how == "fail":
        raise ValueError(name)
    return number


def mode(on_conflict: OnConflict) -> Callable[[Task, str, str], int]:
    """A task with this choice; the same key for all."""

    @app.task(bind=True, name=f"{__name__}.{on_conflict}")
    @locked("copies:{name}", wait=0.05, on_conflict=on_conflict)
    def task(self: Task, name: str, how: str = "succeed") -> int:
        return work(self, name, how)

    return task  # type: ignore[no-any-return]  # Celery is untyped


MODES = {on_conflict: mode(on_conflict) for on_conflict in ("requeue", "skip", "raise")}


@app.task(bind=True)
@locked("copies:{name}", wait=30, on_conflict="requeue")
def wait(self: Task, name: str, how: str = "succeed") -> int:
    return work(self, name, how)


@app.task(bind=True, max_retries=1)
@locked("copies:{name}", wait=0.05, on_conflict="skip")
def again(self: Task, name: str) -> object:
    """Retries at once, and holds the lock until the store says so. The retry returns its expiry."""
    number = store.incr(f"runs:{self.request.id}")
    try:
        if number == 1:
            raise self.retry(countdown=0)
    finally:
        while not store.exists(f"go:{name}:{number}"):
            time.sleep(_EVERY)
    return self.request.expires


@app.task(bind=True, retry_on_worker_lost=True, default_retry_delay=0)
@locked("copies:{name}", wait=0.05)
def killed(self: Task, name: str, how: str = "succeed") -> int:
    """Gives its lock up in its first run, so that another client can take it before the run is killed."""
    if not self.request.retries:
        current_lease().release()
    return work(self, name, how)


@app.task
def after(earlier: object, name: str) -> object:
    """The next task, in a chain, a chord or as a link."""
    store.rpush(f"after:{name}", str(earlier))
    return earlier


@app.task
def failed(*_about: object, name: str) -> None:
    """The callback of a failure. Each version of Celery gives it other arguments."""
    store.rpush(f"after:{name}", "failed")
