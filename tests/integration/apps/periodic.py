"""An app whose beat sends a task faster than the task runs: `celery -A tests.integration.apps.periodic worker -B`."""

from __future__ import annotations

from typing import Any

from celery.signals import task_success
from redis import Redis

from redlock.celery import locked
from tests.integration.tools import eventually
from workers.app import app, settings

app.conf.beat_schedule = {"report": {"task": f"{__name__}.report", "schedule": 0.1}}


@app.task
@locked("periodic:report", wait=0, on_conflict="skip")
def report() -> None:
    """Run until a later run was skipped, and record the number of runs at the same time."""
    with Redis.from_url(settings.store_url) as store:
        store.rpush("at-it", store.incr("reports"))
        before = store.get("skipped-reports")
        eventually(lambda: store.get("skipped-reports") != before, "a run that is skipped", every=0.02)
        store.decr("reports")


@task_success.connect(sender=report)
def _succeeded(result: Any, **_: Any) -> None:  # noqa: ANN401 - Celery's signals pass what they like
    if result is not None:
        with Redis.from_url(settings.store_url) as store:
            store.incr("skipped-reports")


__all__ = ["app", "report"]
