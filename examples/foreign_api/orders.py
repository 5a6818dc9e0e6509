"""A foreign API with a rate limit: an effect that can't check a fencing token.

The lock separates calls while its holder runs. No lock can prevent the late call of a holder that was frozen beyond its
lease, so each task makes a late call harmless in one of two ways:

1. `place_order`: the API knows idempotency keys, and the key is the task's id. The id is equal in each retry and
   delivery, so the order is placed once. Any error of the call may come after the API has placed the order, so the task
   is retried after each.
2. `send_receipt`: the API has no such keys. The task records the call in the fenced store *before* the call, and makes
   the call only if the record is new. If the worker dies in between, the call never happens.
"""

from __future__ import annotations

import functools
import json
import os
import time
from http.client import HTTPException
from typing import TYPE_CHECKING
from urllib.request import Request, urlopen

from celery import Celery
from redis import Redis

from redlock import LockLost
from redlock.celery import current_lease, locked
from redlock.fencing import FencedStore

if TYPE_CHECKING:
    from celery import Task

REDIS = os.environ.get("ORDERS_REDIS", "redis://127.0.0.1:6379")
API = os.environ.get("ORDERS_API", "http://127.0.0.1:8000")
INTERVAL = float(os.environ.get("ORDERS_INTERVAL", "0.1"))
"""Seconds that the API wants between two calls."""
LONGEST_CALL = 2.0

app = Celery("orders", broker=f"{REDIS}/0", backend=f"{REDIS}/1")
app.conf.update(task_acks_late=True, task_reject_on_worker_lost=True, broker_connection_retry_on_startup=True)


@functools.cache
def store() -> FencedStore:
    """The records of the calls."""
    return FencedStore(Redis.from_url(f"{REDIS}/2"))


# A call ends with an OSError or an HTTPException, and a connection that is lost in the answer leaves half a JSON text.
@app.task(
    bind=True,
    autoretry_for=(OSError, HTTPException, ValueError, LockLost),
    retry_backoff=True,
    max_retries=8,
)
@locked("foreign-api")
def place_order(self: Task, item: str) -> str:
    """Place an order once; return the foreign order number."""
    return _call("/orders", {"item": item}, key=self.request.id)


@app.task
@locked("foreign-api")
def send_receipt(order: str) -> str:
    """Send a receipt at most once; return "sent", or "known" after an earlier attempt."""
    record = f"receipt:{order}"
    earlier = store().open(record, current_lease())
    # The value tells for good; the store remembers the id of an operation for a week.
    if earlier.value is not None or not store().write(earlier, "sent", record).applied:
        return "known"
    return _call("/receipts", {"order": order})


def _call(path: str, body: dict[str, str], key: str = "") -> str:
    request = Request(API + path, json.dumps(body).encode(), {"Idempotency-Key": key})  # noqa: S310 - the address is configuration
    # Right before the call, so that a lost lease is rarely unnoticed. A small window remains.
    current_lease().ensure_valid()
    try:
        with urlopen(request, timeout=LONGEST_CALL) as answer:  # noqa: S310 - as above
            found = json.load(answer)
    finally:
        # The lock is held for the interval after the call, so no other task calls sooner.
        time.sleep(INTERVAL)
    # Half of a number is a number; half of a text is none.
    if not isinstance(found, str):
        raise ValueError("the answer of the API is no text")  # noqa: TRY004 - as that of half an answer
    return found
