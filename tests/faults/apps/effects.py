"""Tasks of all three modes whose effects are counted by the fenced store, on any broker.

Invariants:
1. An effect appends the task's id to the value of its key, once for any number of runs of the task.
2. Each end of a task that Celery announces is recorded beside the results.
"""

from __future__ import annotations

import os
import random
import time
from typing import Any

from celery import Celery, Task
from celery.signals import task_failure, task_revoked, task_success
from kombu.entity import Exchange, Queue
from redis import Redis

from redlock.celery import current_lease, locked
from redlock.celery.conflict_policy import OnConflict
from redlock.fencing import FencedStore

KIND = os.environ["EFFECTS_KIND"]
_TYPE, _ARGUMENTS = ("topic", {"x-queue-type": "quorum"}) if KIND == "quorum" else ("direct", {})

app = Celery("effects", broker=os.environ["EFFECTS_BROKER"], backend=os.environ["EFFECTS_RESULTS"])
app.conf.update(
    task_acks_late=True,
    task_reject_on_worker_lost=True,
    task_track_started=True,
    worker_deduplicate_successful_tasks=True,
    worker_prefetch_multiplier=1,
    task_default_queue="effects",
    task_default_exchange="effects",
    task_default_exchange_type=_TYPE,
    task_default_routing_key="effects",
    task_queues=[Queue("effects", Exchange("effects", type=_TYPE), routing_key="effects", queue_arguments=_ARGUMENTS)],
    broker_connection_retry_on_startup=True,
    broker_connection_max_retries=None,
    result_backend_always_retry=True,
    redlock_nodes=os.environ["EFFECTS_NODES"].split(","),
    redlock_ttl=3.0,
    redlock_node_timeout=0.9,
    redlock_max_ttl=6.0,
)
if KIND == "redis":
    app.conf.broker_transport_options = {
        "visibility_timeout": 15,
        "unacked_restore_interval": 1,
        "unacked_restore_throttle": 1,
        "unacked_mutex_expire": 10,
        "socket_timeout": 30,
    }
_ends = Redis.from_url(os.environ["EFFECTS_RESULTS"])
_store = FencedStore(os.environ["EFFECTS_STORE"])


def _task(on_conflict: OnConflict, wait: float) -> Any:  # noqa: ANN401 - Celery is untyped
    @app.task(bind=True, name=f"effects.{on_conflict}")
    @locked("effects:{name}", wait=wait, on_conflict=on_conflict)
    def task(self: Task, name: str, most: float) -> str:
        lease = current_lease()
        opened = _store.open(name, lease)
        time.sleep(random.uniform(0, most))
        _store.write(opened, f"{opened.value or ''} {self.request.id}", self.request.id)
        return "done"

    return task


MODES = {"requeue": _task("requeue", 0.2), "skip": _task("skip", 0), "raise": _task("raise", 0)}


@task_success.connect
def _succeeded(sender: Any, **_: Any) -> None:  # noqa: ANN401 - Celery's signals pass what they like
    _ends.rpush(f"ended:{sender.request.id}", "SUCCESS")


@task_failure.connect
def _failed(task_id: str, **_: Any) -> None:  # noqa: ANN401 - as above
    _ends.rpush(f"ended:{task_id}", "FAILURE")


@task_revoked.connect
def _revoked(request: Any, **_: Any) -> None:  # noqa: ANN401 - as above
    _ends.rpush(f"ended:{request.id}", "REVOKED")
