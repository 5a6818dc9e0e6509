"""A task that wants to be interrupted when its lease is lost."""

from __future__ import annotations

import time

from redlock.celery import locked
from workers.app import app


@app.task
@locked("interrupted:{name}", ttl=4.0, on_lost="raise")
def sleep(name: str, seconds: float) -> str:
    """Sleep, which only a signal can end."""
    time.sleep(seconds)
    return name
