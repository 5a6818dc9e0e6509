"""Accounts that are charged by a Celery task and closed by an endpoint, both under the lock of the account.

Rules of this file:
1. The task reads and writes the account in the fenced store, so a worker that was frozen too long changes nothing.
2. The task id is the operation id, so a second delivery of the task charges nothing more.
3. After an error of Redis or a lost lease the task is repeated until its success. Celery acknowledges a failed task,
   and the charge would be lost.
"""

from __future__ import annotations

import functools
import os
import time
from typing import Any

from celery import Celery, Task
from celery.exceptions import Reject
from celery.utils.log import get_task_logger
from redis import Redis
from redis.exceptions import RedisError

from redlock import LockLost
from redlock.celery import current_lease, locked
from redlock.fencing import FencedStore

REDIS = os.environ.get("SHOP_REDIS", "redis://127.0.0.1:6379")
NODES = os.environ.get("SHOP_NODES", ",".join(f"redis://127.0.0.1:{port}" for port in range(63791, 63796))).split(",")
SECONDS = float(os.environ.get("SHOP_CHARGE_SECONDS", "0.2"))
"""The time that a charge takes."""
CLOSED = "closed"


logger = get_task_logger(__name__)


class PatientTask(Task):  # type: ignore[misc]  # Celery is untyped
    """A task that is repeated until its success, however long a server is away. The task must have no time limit."""

    abstract = True
    max_retries = None
    retry_backoff = True
    retry_backoff_max = 10

    def retry(self, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401 - as Celery's
        """Send the task back to the broker, and wait while the broker takes no message: Celery would drop the task."""
        while True:
            try:
                return super().retry(*args, **kwargs)
            except Reject as refused:
                logger.warning("the broker does not take the retry: %s", refused.reason)
                time.sleep(1)


app = Celery("shop", broker=f"{REDIS}/0", backend=f"{REDIS}/1", task_cls=PatientTask)
app.conf.update(
    task_acks_late=True,
    task_reject_on_worker_lost=True,
    broker_connection_retry_on_startup=True,
    redlock_nodes=NODES,
)


@functools.cache
def store() -> FencedStore:
    """The accounts."""
    return FencedStore(Redis.from_url(f"{REDIS}/2"))


@app.task(bind=True, autoretry_for=(LockLost, RedisError))
@locked("account:{account_id}")
def charge(self: Task, account_id: int, amount: int) -> str:
    """Add an amount to the debt of an account, unless the account is closed; returns the new debt."""

    def change(owed: str | None) -> str:
        time.sleep(SECONDS)
        return CLOSED if owed == CLOSED else str(int(owed or 0) + amount)

    return store().update(f"account:{account_id}", current_lease(), self.request.id, change).value
