"""A shared counter: read, think, write. With the lock no update is lost; without the lock the demo counts losses.

Invariants:
1. `increment` and `increment_unlocked` run the same body, `_add`.
2. The operation id is the task id, which is the same in retries and redeliveries. So an increment that is delivered
   twice counts once.
"""

from __future__ import annotations

import functools
import time
from typing import TYPE_CHECKING, TypedDict

from redis import Redis
from redis.exceptions import ConnectionError as StoreGone
from redis.exceptions import TimeoutError as StoreSilent

from redlock import ConfigurationError, LockLost
from redlock.celery import current_lease, locked
from redlock.fencing import FencedStore
from workers.app import app, settings

if TYPE_CHECKING:
    from celery import Task


class Incremented(TypedDict):
    """The result of an increment."""

    value: int
    fence: int
    waited_ms: int


@functools.cache
def store() -> FencedStore:
    """The store of the counters. The store connects at the first use, and again after a fork."""
    return FencedStore(Redis.from_url(settings.store_url, socket_timeout=5, socket_connect_timeout=2))


@app.task(
    bind=True,
    autoretry_for=(LockLost, StoreGone, StoreSilent),
    max_retries=None,
    retry_backoff=True,
    retry_backoff_max=10,
)
@locked("counter:{name}")
def increment(self: Task, by: int = 1, name: str = "hits", *, op_id: str | None = None) -> Incremented:
    """Add to a counter exactly once, despite failures, retries and redeliveries.

    Args:
        self: The task.
        by: The number to add.
        name: The name of the counter.
        op_id: A business key that identifies the operation; default: the task id.

    Returns:
        The written value, the fencing token of the write, and the milliseconds of the wait for the lock.
    """
    _check(by)
    lease = current_lease()
    written = store().update(name, lease, op_id or self.request.id, functools.partial(_add, by))
    return {"value": int(written.value), "fence": written.fence, "waited_ms": lease.waited_ms}


@app.task
def increment_unlocked(by: int = 1, name: str = "hits") -> int:
    """The same body without lock and fence, for comparison. Concurrent calls lose updates."""
    _check(by)
    value = _add(by, store().read_unfenced(name))
    store().write_unfenced(name, value)
    return int(value)


def _add(by: int, value: str | None) -> str:
    time.sleep(settings.think)
    return str(int(value or 0) + by)


def _check(by: object) -> None:
    if isinstance(by, bool) or not isinstance(by, int):
        raise ConfigurationError(f"by is {by!r:.60}; it must be a whole number")
