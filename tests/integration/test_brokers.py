"""A task that goes back to the queue is the same message, on Redis and on RabbitMQ's classic and quorum queues."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from celery import Celery
from celery.exceptions import SoftTimeLimitExceeded
from redis import Redis

from redlock.celery import delivery as delivery_module
from redlock.testing import redis_server
from redlock.testing.redis_server import Cluster, Server
from tests import versions
from tests.integration.processes import listening
from tests.integration.rabbit import needs_rabbitmq, rabbit
from tests.integration.tools import client_of, comes_true, eventually, sixth_redis, unsubscribe
from tests.integration.worker_fixture import Worker
from tests.versions import needs_celery_5_5
from workers.rabbitmq import RabbitMQ

BROKERS = "tests.integration.apps.brokers"
KINDS = [
    "redis",
    pytest.param("classic", marks=needs_rabbitmq),
    pytest.param("quorum", marks=[needs_rabbitmq, needs_celery_5_5]),
]


class Place:
    """A broker, lock nodes and workers, with access to the notes of the tasks."""

    def __init__(self, url: str, results: Server, nodes: Cluster, directory: Path, **settings: str) -> None:
        self.nodes, self.name = nodes, directory.name
        self._results = f"{results.url}/1"
        self._directory = directory
        self._environment = (
            os.environ
            | {
                "BROKERS_URL": url,
                "BROKERS_RESULTS": self._results,
                # One server serves all tests of this file: each test has queues of its own there.
                "BROKERS_NAME": directory.name,
                # The tests include pickle, and containers run the tests as root.
                "C_FORCE_ROOT": "1",
                "BROKERS_NODES": ",".join(nodes.urls),
            }
            | settings
        )
        self._workers: list[Worker] = []
        self.store = Redis.from_url(self._results, decode_responses=True)
        self.client = client_of(nodes.urls)
        self.app = Celery("sender", broker=url, backend="disabled://", set_as_current=False)
        self.results = Celery("results", backend=self._results, set_as_current=False).backend

    def start_worker(self, *extra: str, concurrency: int = 2, **settings: str) -> Worker:
        """Start another worker and wait until the worker takes tasks."""
        directory = self._directory / f"worker-{len(self._workers)}"
        directory.mkdir(parents=True)
        arguments = ["-A", BROKERS, "worker", "-n", f"w{len(self._workers)}@%h", "-c", str(concurrency)]
        arguments += ["--without-gossip", "--without-mingle", "--loglevel", "INFO"]
        worker = Worker(
            directory, self._environment | settings, [*arguments, "-f", str(directory / "logger.log"), *extra]
        )
        self._workers.append(worker)
        worker.wait_until_ready()
        return worker

    @property
    def log(self) -> str:
        return "".join(worker.log for worker in self._workers)

    def send(self, task: str, *args: object, **options: Any) -> str:  # noqa: ANN401 - Celery's options
        """Send a task to the side door, as a sender that declares no queues; its id."""
        place = {"exchange": f"side-{self.name}", "routing_key": "side.door", "declare": []}
        return str(self.app.send_task(f"{BROKERS}.{task}", args, **place | options).id)

    def arrived(self, task_id: str) -> list[dict[str, Any]]:
        """The messages of a task, as they arrived."""
        return [json.loads(text) for text in self.store.lrange(f"arrived:{task_id}", 0, -1)]

    def ran(self, task_id: str) -> list[Any]:
        """The notes of a task's bodies."""
        return [json.loads(text) for text in self.store.lrange(f"ran:{task_id}", 0, -1)]

    def reach_the_soft_limit(self, task_id: str, waits: str, times: int = 1) -> None:
        """Send the signal of Celery's timer when the log says that often that the task waits.

        On a busy machine the timer could strike before the wait, or in the body after it.
        """
        eventually(lambda: self.log.count(waits) >= times, "a task that waits", every=0.05)
        os.kill(int(str(self.store.get(f"pid:{task_id}"))), signal.SIGUSR1)

    def close(self) -> None:
        for worker in self._workers:
            worker.kill()
        self.app.close()
        unsubscribe(self.results)
        self.client.close()
        self.store.close()


@pytest.fixture(scope="module")
def rabbitmq() -> Iterator[RabbitMQ]:
    with rabbit() as server:
        yield server


@needs_rabbitmq
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_the_broker_of_the_demo_is_closed_to_other_machines(rabbitmq: RabbitMQ) -> None:
    found = set[str]().union(*(listening(process.pid) for process in rabbitmq._processes))
    assert "0100007F" in found
    assert found <= {"0100007F", "00000000000000000000000001000000"}, "not only loopback"


@pytest.fixture(scope="module", params=KINDS)
def at(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """A place on each kind of broker, with a worker of two processes."""
    kind, directory = str(request.param), tmp_path_factory.mktemp(str(request.param))
    with redis_server.cluster() as nodes, sixth_redis() as results:
        url = f"{results.url}/0" if kind == "redis" else request.getfixturevalue("rabbitmq").url
        place = Place(url, results, nodes, directory, BROKERS_KIND=kind)
        try:
            place.start_worker()
            yield place
        finally:
            place.close()


def sent(at: Place, task_id: str) -> None:
    """A message that uses everything that a sender can say."""
    stamps = {"customer": "c-7", "stamped_headers": ["customer"]}
    at.send(
        "look", "all", kwargs={"found": {1, 2}}, task_id=task_id, root_id="root",
        serializer="pickle", compression="gzip", priority=3, delivery_mode=1,
        headers={"traceparent": "00-ab-cd-01", "headers": {"sentry-trace": "s-1"}},
        reply_to="answers", correlation_id="c-1", app_id="billing", message_id="m-1", type="t",
        expires=600, time_limit=500, soft_time_limit=400,
        ignore_result=True, shadow="nice", argsrepr="(hidden)", kwargsrepr="{hidden}",
        link=at.app.signature(f"{BROKERS}.after", task_id=f"{task_id}-link", immutable=True),
        link_error=at.app.signature(f"{BROKERS}.after", task_id=f"{task_id}-error"),
        **stamps,
    )  # fmt: skip


def essence(message: dict[str, Any]) -> dict[str, Any]:
    """The constant part of a returned message: all but the times, the counts and RabbitMQ's headers."""
    own = ("eta", "expires", "traceparent", "headers", "sentry-trace", "parent_id")
    headers = {name: value for name, value in message["headers"].items() if name not in own}
    properties = message["properties"]
    return {
        "headers": {name: value for name, value in headers.items() if not name.startswith(("x-", "redlock_"))},
        "properties": {
            name: properties.get(name)
            for name in ("reply_to", "correlation_id", "priority", "delivery_mode", "app_id", "message_id", "type")
        },
        "content_type": message["content_type"],
        "embedded": message["embedded"],
    }


def test_a_task_that_goes_back_is_the_same_message(at: Place) -> None:
    with at.client.lock("brokers:all"):
        sent(at, "all-1")
        eventually(lambda: len(at.arrived("all-1")) >= 3, "the second way back", every=0.05)
    eventually(lambda: at.ran("all-1-link"), "what is linked to it", every=0.05)

    first, *others = at.arrived("all-1")
    for other in others:
        assert essence(other) == essence(first)
        # RabbitMQ's delay of a message in a quorum queue leads through the exchange.
        assert other["routing_key"] == f"side-{at.name}" or other["routing_key"].endswith("1.side.door")
        assert other["headers"]["traceparent"] == "00-ab-cd-01"
        assert other["headers"]["sentry-trace"] == "s-1"
        assert other["headers"]["parent_id"] is None
        assert other["headers"]["expires"][:19] == first["headers"]["expires"][:19]
    assert at.ran("all-1") == [["all", {"found": [1, 2]}]]
    assert at.ran("all-1-link") == [[]]
    assert at.ran("all-1-error") == []
    if versions.CELERY >= (5, 6):
        # Older versions store that a task has started, also if its sender ignores the result.
        assert not at.store.exists("celery-task-meta-all-1")


def test_a_task_of_protocol_1_goes_back_too(at: Place) -> None:
    """Such a message has no choice about the result, so the choice of the task counts in each of its runs."""
    with Celery(broker=at.app.conf.broker_url, backend="disabled://", set_as_current=False) as older:
        older.conf.task_protocol = 1
        place = {"exchange": f"side-{at.name}", "routing_key": "side.door", "declare": []}
        with at.client.lock("brokers:older"):
            task = older.send_task(f"{BROKERS}.mute", ("older",), compression="gzip", **place).id
            # The worker writes down messages of protocol 2, as which the task goes back.
            eventually(lambda: at.arrived(task), "the message that went back", every=0.05)
    eventually(lambda: f"mute[{task}] succeeded" in at.log, "the end of the task", every=0.05)
    assert at.ran(task) == [["older"]]
    assert at.arrived(task)[0]["headers"]["compression"] == "application/x-gzip"
    assert not at.store.exists(f"celery-task-meta-{task}")


def test_a_task_that_cannot_be_sent_waits_in_its_slot(at: Place) -> None:
    with at.client.lock("brokers:slot"):
        task = at.send("stay", "slot")
        eventually(lambda: f"requeue-failed task={task}" in at.log, "the failure in the log")
    eventually(lambda: at.ran(task), "the body", every=0.05)

    assert len(at.arrived(task)) == 1
    assert "countdown must be a positive number" in at.log
    assert at.app.AsyncResult(task, backend=at.results).get(timeout=30) == "slot"


def test_a_soft_time_limit_in_the_slot_returns_the_message(at: Place) -> None:
    with at.client.lock("brokers:over"):
        task = at.send("stay", "over", soft_time_limit=600)
        at.reach_the_soft_limit(task, f"requeue-failed task={task} ")
        eventually(lambda: len(at.arrived(task)) >= 2, "the message for the second time", every=0.05)
    eventually(lambda: at.ran(task), "the body", every=0.05)

    assert at.app.AsyncResult(task, backend=at.results).get(timeout=30) == "over"
    assert at.ran(task) == [["over"]]
    assert at.arrived(task)[-1]["headers"]["retries"] == 0


def test_a_soft_time_limit_in_the_wait_requeues_the_task(at: Place) -> None:
    with at.client.lock("brokers:early"):
        task = at.send("linger", "early", soft_time_limit=600)
        at.reach_the_soft_limit(task, "waiting resource=brokers:early ")
        eventually(lambda: len(at.arrived(task)) >= 2, "the message for the second time", every=0.05)
    eventually(lambda: at.ran(task), "the body", every=0.05)

    assert at.arrived(task)[-1]["headers"]["redlock_requeues"] >= 1
    assert at.app.AsyncResult(task, backend=at.results).get(timeout=30) == "early"


def test_a_soft_time_limit_ends_a_task_that_went_back_often(at: Place) -> None:
    with at.client.lock("brokers:once"):
        task = at.send("once", "once", soft_time_limit=600)
        for times in (1, 2):
            at.reach_the_soft_limit(task, "waiting resource=brokers:once ", times)
        with pytest.raises(SoftTimeLimitExceeded):
            at.app.AsyncResult(task, backend=at.results).get(timeout=60)
    assert len(at.arrived(task)) == 2
    assert at.ran(task) == []


def test_a_stale_run_begins_again_with_the_same_arguments(at: Place) -> None:
    task = at.send("alter", {"id": 7, "items": ["book"]})
    eventually(lambda: len(at.ran(task)) >= 2, "the second body", every=0.05)

    assert at.app.AsyncResult(task, backend=at.results).get(timeout=30) == 7
    assert at.ran(task) == [[{"id": 7, "items": ["book"]}]] * 2


@pytest.mark.long
@needs_rabbitmq
@pytest.mark.parametrize("kind", KINDS[1:])
def test_a_task_that_goes_back_survives_a_restart_of_the_broker(tmp_path: Path, kind: str) -> None:
    """A worker's connection for sending is dead, and the worker does not know that yet."""
    with redis_server.cluster() as nodes, sixth_redis() as results, rabbit() as server:
        at = Place(server.url, results, nodes, tmp_path, BROKERS_KIND=kind)
        try:
            at.start_worker()
            with at.client.lock("brokers:restart"):
                tasks = [at.send("look", "restart") for _ in range(8)]
                eventually(lambda: all(len(at.arrived(task)) >= 2 for task in tasks), "two arrivals of each", every=0.2)
                server.restart()
                before = {task: len(at.arrived(task)) for task in tasks}
                some = tasks[:4]
                arrivals = lambda: all(len(at.arrived(task)) >= before[task] + 2 for task in some)  # noqa: E731
                comes_true(arrivals, within=20, every=0.2)
            eventually(lambda: all(at.ran(task) for task in tasks), "all bodies", within=60, every=0.2)
        finally:
            at.close()


@needs_rabbitmq
def test_a_silent_broker_holds_no_task_for_ever(rabbitmq: RabbitMQ, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delivery_module, "_CONFIRM_SECONDS", 0.3)
    app = Celery("sender", backend="disabled://", set_as_current=False)

    @app.task(name="nothing")
    def task() -> None: ...

    app.conf.broker_url = rabbitmq.url
    place = {"exchange": "", "routing_key": "silent"}
    task.push_request(id="one", args=(), kwargs={}, delivery_info=place, called_directly=False)
    delivery = delivery_module.Delivery(task)
    delivery.requeue(1.0)
    server = rabbitmq._processes[-1]
    server.send_signal(signal.SIGSTOP)
    redis_server.await_stop(server.pid)
    with ThreadPoolExecutor(1) as pool:
        sending = pool.submit(delivery.requeue, 1.0)
        try:
            assert sending.exception(timeout=30) is not None
        finally:
            server.send_signal(signal.SIGCONT)
    delivery.requeue(1.0)
    app.close()
