"""An app whose queues have exchanges of all types."""

from __future__ import annotations

import os

from celery import Celery, Task
from kombu.common import Broadcast
from kombu.entity import Exchange, Queue
from redis import Redis

from redlock.celery import locked

SYNC = Exchange("sync", type="direct")

app = Celery("exchanges", broker=os.environ["BROKERS_URL"], backend=os.environ["BROKERS_RESULTS"])
app.conf.update(
    task_acks_late=True,
    task_queues=[
        Queue("orders", Exchange("shop", type="topic"), routing_key="orders.#"),
        Queue("paris", SYNC, routing_key="sync"),
        Queue("london", SYNC, routing_key="sync"),
        Broadcast("everywhere"),
    ],
    broker_connection_retry_on_startup=True,
    worker_prefetch_multiplier=1,
    redlock_nodes=os.environ["BROKERS_NODES"].split(","),
    redlock_node_timeout=0.9,
)
store = Redis.from_url(os.environ["BROKERS_RESULTS"], decode_responses=True)


@app.task(bind=True)
@locked("exchanges:{name}", wait=0.02)
def work(self: Task, name: str) -> str:
    """Write down the worker."""
    store.rpush(f"ran:{self.request.id}", self.request.hostname.partition("@")[0])
    return name
