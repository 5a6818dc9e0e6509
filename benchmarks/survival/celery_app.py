"""The app of the Celery scenarios: a task under the lock that `SURVIVAL_LOCK` names, in that library's environment.

Invariants:
1. The settings are those of each library's README. `SURVIVAL_TIMEOUT` replaces the default timeout.
2. Each run of the body adds a line to a list, and the scenarios judge these lines.
"""

from __future__ import annotations

import importlib
import json
import os
import time
from typing import Any

from celery import Celery
from celery.signals import worker_ready
from redis import Redis

STORE = os.environ["SURVIVAL_STORE"]
_LOCK = os.environ["SURVIVAL_LOCK"]
_NODE = os.environ["REDLOCK_NODES"].split(",")[0]
_TIMEOUT = int(os.environ["SURVIVAL_TIMEOUT"]) if os.environ.get("SURVIVAL_TIMEOUT") else None

app = Celery("survival", broker=os.environ["SURVIVAL_BROKER"])
_task: Any


def _say(what: str, number: int | None = None, task_id: str | None = None) -> None:
    line = {"what": what, "number": number, "id": task_id, "at": time.monotonic(), "worker": os.getppid()}
    with Redis.from_url(STORE) as redis:
        redis.rpush("log", json.dumps(line))


@worker_ready.connect
def _ready(**_: object) -> None:
    _say("ready")


def _body(self: Any, name: str, number: int, seconds: float, retries: int = 0) -> None:  # noqa: ANN401 - Celery's task
    """Take some time; the first `retries` runs end in a retry."""
    del name
    _say("in", number, self.request.id)
    if self.request.retries < retries:
        raise self.retry(countdown=0.2)
    time.sleep(seconds)
    _say("out", number, self.request.id)


if _LOCK == "celery-once":
    app.conf.ONCE = {"backend": "celery_once.backends.Redis", "settings": {"url": _NODE, "default_timeout": 60 * 60}}
    _once = {"keys": ["name"]} | ({} if _TIMEOUT is None else {"timeout": _TIMEOUT})
    _base = importlib.import_module("celery_once").QueueOnce
    _task = app.task(bind=True, name="work", base=_base, once=_once)(_body)
elif _LOCK == "celery-singleton":
    app.conf.singleton_backend_url = _NODE
    _base = importlib.import_module("celery_singleton").Singleton
    _task = app.task(bind=True, name="work", base=_base, unique_on=["name"], lock_expiry=_TIMEOUT)(_body)
else:
    _locked = importlib.import_module("redlock.celery").locked
    _task = app.task(bind=True, name="work")(
        _locked("{name}", ttl=None if _TIMEOUT is None else float(_TIMEOUT))(_body)
    )

work = _task
