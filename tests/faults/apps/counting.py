"""Increments that write their steps to the history; `--include` adds them to a worker of the example.

Invariants:
1. Every task does the same read-modify-write as `tasks.counter` and notes each step.
2. `control` is the same body without lock and fence, and loses updates.
3. The environment sets the time until a redelivery.
"""

from __future__ import annotations

import functools
import os
import random
import time
from collections.abc import Callable
from typing import Any, TypeVar

import redis
from celery import Task
from kombu.transport.redis import QoS

from redlock import LockLost, Stale
from redlock.celery import current_lease, locked
from redlock.fencing import FencedStore
from tests.faults.history import note
from tests.versions import KOMBU
from workers.app import app, settings

R = TypeVar("R")

app.conf.broker_transport_options = app.conf.broker_transport_options | {
    "visibility_timeout": float(os.environ.get("FAULTS_VISIBILITY", "60")),
    "unacked_restore_interval": 1,
}
# kombu below 5.7 has no such option, and looks for messages of dead workers every 100 s; here at each turn, every 10 s.
if KOMBU < (5, 7):
    QoS.restore_visible = functools.partialmethod(QoS.restore_visible, interval=1)
app.conf.worker_soft_shutdown_timeout = float(os.environ.get("FAULTS_SOFT_SHUTDOWN", "0"))
_PATIENT = {"autoretry_for": (LockLost, redis.RedisError), "max_retries": None, "retry_backoff": True}


@functools.cache
def server() -> redis.Redis:
    """The store's server; a write that is not confirmed in time may still arrive."""
    return redis.Redis.from_url(settings.store_url, socket_timeout=2, socket_connect_timeout=1)


def noted(function: Callable[..., R]) -> Callable[..., R]:
    """Note the begin, the release of the lock and the success of a task. Stands above `@locked`."""

    @functools.wraps(function)
    def run(self: Task, *args: Any, **kwargs: Any) -> R:  # noqa: ANN401 - whatever the task takes
        op = self.request.id
        note("invoke", op)
        try:
            result = function(self, *args, **kwargs)
            note("ack", op)
            return result
        finally:
            note("end", op)

    run.__signature__ = function.__signature__  # type: ignore[attr-defined]  # as `@locked` has made it
    return run


def section(op: str, name: str, between: Callable[[], None], afterwards: Callable[[], None]) -> int:
    """Read, modify and write under the lease of the running task; returns the written value."""
    lease = current_lease()

    def step(what: str, **fields: object) -> None:
        until = (time.monotonic() + lease.remaining()) * 1e6 if not lease.is_lost else 0
        note(what, op, name=name, fence=lease.fence, until=int(until), **fields)

    # A signal that strikes while this is written down must find its way to the end that says "leave".
    try:
        step("grant")
        store = FencedStore(server())
        opened = store.open(name, lease)
        step("open", section=opened.number)
        between()
        value = int(opened.value or 0) + 1
        step("writing", section=opened.number, value=value)
        written = store.write(opened, str(value), op)
        step("wrote", section=opened.number, value=int(written.value), applied=written.applied)
        afterwards()
    except Stale as stale:
        step("stale", seen=stale.seen)
        raise
    finally:
        step("leave")
    return int(written.value)


@app.task(bind=True, retry_backoff_max=2, **_PATIENT)
@noted
@locked("faults:{name}")
def add(self: Task, name: str, most: float = 0.0, least: float = 0.0) -> int:
    """Increment, with so many seconds between read and write."""
    return section(self.request.id, name, lambda: time.sleep(random.uniform(least, most)), lambda: None)


@app.task(bind=True)
def control(self: Task, name: str, most: float = 0.0) -> int:
    """The same under the lock, read and written past the fence: loses updates where a holder outlives its lease."""
    try:
        with_lock = _unfenced(self.request.id, name, most)
    except LockLost:
        return -1
    return with_lock


@locked("faults:{name}")
def _unfenced(op: str, name: str, most: float) -> int:
    store = FencedStore(server())
    value = int(store.read_unfenced(name) or 0)
    note("open", op, name=name, fence=current_lease().fence)
    time.sleep(random.uniform(0, most))
    store.write_unfenced(name, str(value + 1))
    note("wrote", op, name=name, value=value + 1)
    return value + 1
