"""A foreign API with a rate limit: an effect that can't check a fencing token. What then?

The lock keeps calls apart, as long as its holder runs. What a holder does that was frozen beyond its lease, no lock
can prevent, so each call is made harmless in one of two ways:

1. The API knows idempotency keys: send the task's id as the key. It stays the same over retries and deliveries, so
   the order is placed once, however often it is sent. `place_order`.
2. The API knows nothing: write down in the fenced store *before* the call that it is made, and make it only if that
   was news. Then it is made once or, if the worker dies in between, not at all. `send_receipt`.
"""

from __future__ import annotations

import functools
import json
import os
import time
from typing import TYPE_CHECKING
from urllib.error import URLError
from urllib.request import Request, urlopen

from celery import Celery
from redis import Redis

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
    """Where it is written down which calls were made."""
    return FencedStore(Redis.from_url(f"{REDIS}/2"))


@app.task(bind=True, autoretry_for=(URLError, TimeoutError), retry_backoff=True, max_retries=8)
@locked("foreign-api")
def place_order(self: Task, item: str) -> str:
    """Place an order, once; returns the foreign order number."""
    return _call("/orders", {"item": item}, key=self.request.id)


@app.task
@locked("foreign-api")
def send_receipt(order: str) -> str:
    """Have a receipt sent, at most once; returns "sent", or "known" if that was tried before."""
    first = store().update(f"receipt:{order}", current_lease(), f"receipt:{order}", lambda _: "sent")
    if not first.applied:
        return "known"
    return _call("/receipts", {"order": order})


def _call(path: str, body: dict[str, str], key: str = "") -> str:
    request = Request(API + path, json.dumps(body).encode(), {"Idempotency-Key": key})  # noqa: S310 - ours to configure
    # Right before the call: it narrows the window in which a lost lease goes unnoticed; it can't close it.
    current_lease().ensure_valid()
    try:
        with urlopen(request, timeout=LONGEST_CALL) as answer:  # noqa: S310 - as above
            return str(json.load(answer))
    finally:
        # The lock is held for this long after the call, so nobody else calls any sooner.
        time.sleep(INTERVAL)
