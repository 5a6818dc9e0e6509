"""A bank transfer: two accounts under one lock, and two balances that only a current holder can write.

Invariants:
1. Both accounts are locked at once, all or nothing, so two transfers in opposite directions can't wait for each other.
2. Each balance is read and written through the fenced store, under an operation id that is equal in each delivery of
   the task. The second delivery completes half a transfer and repeats nothing.
3. An error between the two updates is no end: the task is repeated until it succeeds. A failed task is acknowledged, so
   the debited money would be gone. For the same reason the task has no time limit.
4. A debit never raises for lack of money. The debit records its decision, so a second delivery reads the same answer.
"""

from __future__ import annotations

import functools
import json
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

REDIS = os.environ.get("BANK_REDIS", "redis://127.0.0.1:6379")


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


app = Celery("bank", broker=f"{REDIS}/0", backend=f"{REDIS}/1", task_cls=PatientTask)
app.conf.update(
    task_acks_late=True,  # acknowledge a transfer at its end,
    task_reject_on_worker_lost=True,  # and deliver the task again if the worker was killed
    worker_prefetch_multiplier=1,
    broker_connection_retry_on_startup=True,
)


@functools.cache
def store() -> FencedStore:
    """The accounts. This Redis owns the money and needs an AOF with `appendfsync always`."""
    return FencedStore(Redis.from_url(f"{REDIS}/2"))


def balance(account: str) -> int:
    """The balance of an account, for display only."""
    return _read(store().read_unfenced(account))


@app.task(bind=True, autoretry_for=(LockLost, RedisError))
@locked(["account:{source}", "account:{target}"])
def transfer(self: Task, source: str, target: str, amount: int) -> str:
    """Move an amount; returns "paid" or "refused"."""
    if amount <= 0 or source == target:
        raise ValueError(f"{amount} from {source} to {target} is not a transfer")
    lease, op_id = current_lease(), self.request.id
    written = store().update(source, lease, f"{op_id}:debit", functools.partial(_debit, amount))
    decision: str = json.loads(written.value)["decision"]
    if decision == "paid":
        store().update(target, lease, f"{op_id}:credit", functools.partial(_credit, amount))
    return decision


@app.task(bind=True, autoretry_for=(LockLost, RedisError))
@locked("account:{account}")
def deposit(self: Task, account: str, amount: int) -> str:
    """Put money on an account."""
    store().update(account, current_lease(), f"{self.request.id}:credit", functools.partial(_credit, amount))
    return "paid"


def _debit(amount: int, state: str | None) -> str:
    left = _read(state) - amount
    return _state(left, "paid") if left >= 0 else _state(_read(state), "refused")


def _credit(amount: int, state: str | None) -> str:
    return _state(_read(state) + amount, "paid")


def _read(state: str | None) -> int:
    return 0 if state is None else int(json.loads(state)["balance"])


def _state(balance: int, decision: str) -> str:
    return json.dumps({"balance": balance, "decision": decision})
