"""An app whose beat sends a task faster than the task runs: `celery -A tests.integration.apps.periodic worker -B`."""

from __future__ import annotations

import time

from redis import Redis

from redlock.celery import locked
from workers.app import app, settings

app.conf.beat_schedule = {"report": {"task": f"{__name__}.report", "schedule": 0.1}}


@app.task
@locked("periodic:report", wait=0, on_conflict="skip")
def report() -> None:
    """Take longer than the interval of beat, and record the number of runs at the same time."""
    with Redis.from_url(settings.store_url) as store:
        store.rpush("at-it", store.incr("reports"))
        time.sleep(0.35)  # the task's work, longer than the time to the next one
        store.decr("reports")


__all__ = ["app", "report"]
