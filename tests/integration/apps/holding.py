"""Tasks that hold a lock for longer than its lease; `--include` brings them into a worker of the example."""

from __future__ import annotations

import contextlib
import time

import billiard
from redis import Redis

from redlock.celery import current_lease, locked
from redlock.celery.task_registry import own_slot
from workers.app import app, settings

store = Redis.from_url(settings.store_url)


def work() -> None:
    """Wait for an element that never comes, in a call that an exception can interrupt."""
    store.blpop("never", timeout=0.05)


@app.task
@locked("holding:{name}", ttl=4.0)
def look(name: str, seconds: float) -> float:  # noqa: ARG001 - names the lock
    """Hold the lock for so many seconds and check all the time; returns the remaining time of the lease."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        current_lease().ensure_valid()
        work()
    return current_lease().remaining()


@app.task
@locked("holding:{name}", ttl=4.0)
def outlast(name: str, seconds: float) -> float:
    """Hold the lock for so many seconds, and swallow every exception meanwhile."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        with contextlib.suppress(BaseException):
            store.incrby("outlasted", 1)
            work()
    store.set(f"remained:{name}", str(current_lease().remaining()))
    return current_lease().remaining()


@app.task
@locked("holding:{name}", ttl=4.0)
def sleep(name: str, seconds: float) -> str:
    """Hold the lock for so many seconds without a check."""
    time.sleep(seconds)  # the task's work
    return name


@app.task
def slots() -> list[int | None]:
    """The slot of this process, and that of a process that this task starts."""
    with billiard.Pool(1) as pool:
        return [own_slot(), pool.apply(own_slot)]
