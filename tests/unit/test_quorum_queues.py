"""`redlock.admin.quorum_queues`: quorum queues beside direct exchanges, and the warnings about them."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from celery import Celery
from kombu import Exchange, Queue, binding

from redlock.admin.quorum_queues import findings
from redlock.admin.visibility_timeout import Locked
from redlock.celery import locked, worker_start

QUORUM = {"x-queue-type": "quorum"}
DIRECT, TOPIC = Exchange("orders"), Exchange("topics", type="topic")
TASKS = [Locked("pay", 1.0, 5.0, None)]


def queue(name: str = "q", exchange: Exchange | None = DIRECT, *, quorum: bool = True, **options: Any) -> Queue:  # noqa: ANN401
    return Queue(name, exchange, name, queue_arguments=QUORUM if quorum else None, **options)


def app_with(*queues: Queue, broker: str | None = "amqp://h//") -> Celery:
    """An app with these queues, or with Celery's default queue."""
    return Celery(set_as_current=False, broker=broker, task_queues=queues or None, redlock_nodes="h:1,h:2,h:3")


@pytest.mark.parametrize(
    ("app", "named"),
    [
        (app_with(queue()), "of q is direct"),
        (app_with(queue(), broker=None), "of q is direct"),
        (app_with(queue("b"), queue("a", quorum=False), queue("t", TOPIC)), "of a, b is direct"),
        (app_with(queue("a", quorum=False), queue("t", TOPIC)), "of a is direct"),
        (app_with(queue(exchange=None)), "of q is direct"),
        (app_with(queue(exchange=None, bindings=[binding(DIRECT, "q")])), "of q is direct"),
        (app_with(queue(exchange=None, bindings=[binding(DIRECT, "q"), binding(TOPIC, "q")])), ""),
        (app_with(queue("t", TOPIC)), ""),
        (app_with(queue(quorum=False)), ""),
        (app_with(), ""),
        (app_with(queue(), broker="redis://h"), ""),
    ],
)
def test_a_direct_exchange_beside_a_quorum_queue_is_found(app: Celery, named: str) -> None:
    found = findings(app, TASKS)
    assert len(found) == bool(named)
    assert named in "".join(finding.what for finding in found)
    assert findings(app, []) == [], "no task under a lock"


def test_a_worker_counts_only_its_own_queues() -> None:
    app = app_with(queue(), queue("t", TOPIC))
    app.amqp.queues.select(["t"])
    assert findings(app, TASKS) == []


def test_a_worker_that_holds_requeued_tasks_says_so(caplog: pytest.LogCaptureFixture) -> None:
    app = app_with(queue())
    app.task(shared=False, name="pay")(locked("x")(app_with))
    worker_start._check(instance=SimpleNamespace(app=app, time_limit=None))
    (line,) = caplog.messages
    assert "direct-exchange why=" in line
