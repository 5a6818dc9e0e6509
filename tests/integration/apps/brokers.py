"""An app on any broker; its worker writes down each message that arrives."""

from __future__ import annotations

import json
import os
from typing import Any

from celery import Celery, Task
from celery.signals import task_prerun, task_received
from kombu.entity import Exchange, Queue
from redis import Redis

from redlock import Stale
from redlock.celery import current_lease, locked

KIND = os.environ.get("BROKERS_KIND", "classic")
TYPE = os.environ.get("BROKERS_EXCHANGE", "topic" if KIND == "quorum" else "direct")
ARGUMENTS = {"x-queue-type": "quorum"} if KIND == "quorum" else {"x-max-priority": 9}
NAME = os.environ["BROKERS_NAME"]
MAIN, SIDE = f"main-{NAME}", f"side-{NAME}"

app = Celery("brokers", broker=os.environ["BROKERS_URL"], backend=os.environ["BROKERS_RESULTS"])
app.conf.update(
    accept_content=["json", "pickle"],
    task_acks_late=True,
    task_reject_on_worker_lost=True,
    task_default_queue=MAIN,
    task_default_exchange=MAIN,
    task_default_exchange_type=TYPE,
    task_default_routing_key="main",
    task_queues=[
        Queue(MAIN, Exchange(MAIN, type=TYPE), routing_key="main", queue_arguments=ARGUMENTS),
        Queue(SIDE, Exchange(SIDE, type=TYPE), routing_key="side.door", queue_arguments=ARGUMENTS),
    ],
    broker_connection_retry_on_startup=True,
    worker_prefetch_multiplier=1,
    redlock_nodes=os.environ["BROKERS_NODES"].split(","),
    redlock_node_timeout=0.9,
)
store = Redis.from_url(os.environ["BROKERS_RESULTS"], decode_responses=True)


@task_received.connect
def _write_down(request: Any, **_: Any) -> None:  # noqa: ANN401 - Celery's signals pass what they like
    message = request.message
    properties = {name: value for name, value in message.properties.items() if name != "delivery_tag"}
    about = {
        "headers": dict(message.headers),
        "properties": properties,
        "content_type": message.content_type,
        "exchange": message.delivery_info.get("exchange"),
        "routing_key": message.delivery_info.get("routing_key"),
        "embedded": message.payload[2],
    }
    store.rpush(f"arrived:{request.id}", json.dumps(about, default=str))


@task_prerun.connect
def _note_process(task_id: str, **_: Any) -> None:  # noqa: ANN401 - as above
    store.set(f"pid:{task_id}", os.getpid())


def ran(task: Task, *about: object) -> None:
    """Write down that a body ran."""
    store.rpush(f"ran:{task.request.id}", json.dumps(about, default=sorted))


@app.task(bind=True, max_retries=0)
@locked("brokers:{name}", wait=0.02)
def look(self: Task, name: str, **about: object) -> str:
    """Go back to the queue until the lock is free."""
    ran(self, name, about)
    return name


class Stubborn(Task):  # type: ignore[misc]  # Celery is untyped
    """A task that can't be sent from a worker."""

    abstract = True

    def shadow_name(self, *_: object) -> None:
        """Fail as an exchange that Celery can't delay messages for does."""
        raise ValueError("countdown must be a positive number")


def run(self: Task, name: str) -> str:
    ran(self, name)
    return name


def add(task: str, lock: dict[str, Any], **options: Any) -> None:  # noqa: ANN401 - Celery is untyped
    """Add a task of this name that writes down its runs under a lock."""
    app.task(bind=True, name=f"{__name__}.{task}", **options)(locked("brokers:{name}", **lock)(run))


add("mute", {"wait": 0.02}, ignore_result=True)
# Waits in the slot, because the task can't go back to the queue.
add("stay", {"wait": 0.02}, base=Stubborn, autoretry_for=(Exception,))
# Waits in the slot for a minute before the return to the queue.
add("linger", {"wait": 60}, acks_late=False)
add("once", {"wait": 60, "max_requeues": 1})


@app.task(bind=True)
@locked("brokers:{order[id]}", wait=1)
def alter(self: Task, order: dict[str, Any]) -> int:
    """Change the argument and the request, then have the first write refused."""
    ran(self, order)
    self.request.span = object()
    number = int(order.pop("id"))
    order["row"] = object()
    if len(store.lrange(f"ran:{self.request.id}", 0, -1)) == 1:
        raise Stale("brokers", current_lease().fence, current_lease().fence + 1)
    return number


@app.task(bind=True)
def after(self: Task, *about: object) -> None:
    """The next task of a chain."""
    ran(self, *about)
