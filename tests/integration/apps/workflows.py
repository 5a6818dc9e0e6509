"""Locked tasks in canvases, as classes, shared and with pydantic, for a worker's `--include`.

The names of the locks are those of `policies`, which has the plain tasks for each policy.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from celery import Task, shared_task
from pydantic import BaseModel

from redlock.celery import current_lease, locked
from tests.integration.apps.policies import about
from workers.app import app

logger = logging.getLogger(__name__)


@app.task(bind=True, autoretry_for=(Exception,), max_retries=0, retry_backoff=True)
@locked("policy:{name}", wait=0.02, on_conflict="requeue")
def requeue(self: Task, name: str) -> dict[str, Any]:  # noqa: ARG001 - names the lock
    """Go back to the queue. The task would be retried for any error, but has no retries."""
    return about(self)


@app.task
@locked("policy:{name}", wait=20, on_conflict="raise")
def wait(name: str) -> list[object]:
    """Wait in the worker's slot; returns the arguments and the token."""
    return [name, current_lease().fence]


@app.task
@locked("policy:{name}", wait=0.02, on_conflict="requeue")
def fail(name: str) -> None:
    raise ValueError(name)


@app.task(bind=True)
@locked("policy:{names[0]}", wait=0.02, on_conflict="requeue")
def call_itself(self: Task, names: Sequence[str]) -> str:
    """Calls itself in its own process, for the other names."""
    return names[0] + (self(names[1:]) if len(names) > 1 else "")


class Charge(Task):  # type: ignore[misc]  # Celery is untyped
    name = "tests.integration.apps.workflows.Charge"

    @locked("policy:{account}", wait=0.02, on_conflict="requeue")
    def run(self, account: str, amount: int = 1) -> dict[str, Any]:
        return about(self) | {"account": account, "amount": amount}


app.register_task(Charge())


@shared_task(bind=True)
@locked("policy:{name}", wait=0.02, on_conflict="requeue")
def shared(self: Task, name: str) -> dict[str, Any]:  # noqa: ARG001 - names the lock
    """A task that belongs to no app."""
    return about(self)


class Order(BaseModel):
    account: str
    amount: int


@app.task(pydantic=True)
@locked("policy:{order.account}", wait=0.02, on_conflict="requeue")
def pay(order: Order) -> Order:
    """Gets a model and gives one back."""
    return Order(account=order.account, amount=order.amount + 1)


@app.task
def note(told: object) -> None:
    """Note the argument of a link; for an errback, the id of the failed task."""
    logger.info("noted %s", told)


@app.task
def gather(results: object) -> dict[str, object]:
    """The end of a chord."""
    return {"gathered": results}
