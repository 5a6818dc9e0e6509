"""A task goes back to its own queue, and to no other queue of the exchange."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import Any

import pytest
from amqp.exceptions import ChannelError
from celery import Celery
from kombu.entity import Exchange
from redis import Redis

from redlock import Redlock
from redlock.testing import redis_server
from tests.integration.rabbit import needs_rabbitmq, rabbit
from tests.integration.tools import client_of, eventually, sixth_redis
from tests.integration.worker_fixture import Worker

APP = "tests.integration.apps.exchanges"
on_rabbitmq = [pytest.param("rabbitmq-prefork", marks=needs_rabbitmq)]


class Site:
    """Two workers, each with a queue of its own and the queue of broadcasts; the first has the queue of orders too."""

    def __init__(self, workers: list[Worker], store: Redis, app: Celery, client: Redlock) -> None:
        self.workers, self.client = workers, client
        self._store, self._app = store, app

    def send(self, name: str, exchange: str, kind: str, key: str) -> str:
        """Send a task to an exchange that has the type `kind`; its id."""
        place = Exchange(exchange, type=kind)
        return str(self._app.send_task(f"{APP}.work", (name,), exchange=place, routing_key=key, declare=[place]).id)

    def ran(self, task_id: str) -> list[str]:
        """The workers in which the body ran."""
        return sorted(str(name) for name in self._store.lrange(f"ran:{task_id}", 0, -1))

    def is_idle(self) -> bool:
        """Whether no message waits, in a queue or in a worker."""
        with self._app.connection_for_read() as connection:
            if any(_size(connection.default_channel, name) for name in ("orders", "paris", "london")):
                return False
        asked = self._app.control.inspect(limit=len(self.workers), timeout=10)
        found = [asked.active() or {}, asked.reserved() or {}, asked.scheduled() or {}]
        return all(len(each) == len(self.workers) and not any(each.values()) for each in found)

    def came_back(self, task_id: str, *, times: int) -> bool:
        """Whether each worker that got this task has sent the task back so often."""
        each = [
            worker.log.count(f"requeued task={task_id} ") + worker.log.count(f"duplicate task={task_id} ")
            for worker in self.workers
            if task_id in worker.log
        ]
        return bool(each) and min(each) >= times


def _size(channel: Any, queue: str) -> int:  # noqa: ANN401 - kombu is untyped
    try:
        return int(channel.queue_declare(queue, passive=True).message_count)
    except ChannelError:
        # In Redis an empty queue does not exist.
        return 0


@pytest.fixture(scope="module", params=["redis-prefork", "redis-threads", *on_rabbitmq])
def site(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """Servers and workers for all tests here."""
    kind, pool = str(request.param).split("-")
    with contextlib.ExitStack() as stack:
        nodes, redis = stack.enter_context(redis_server.cluster()), stack.enter_context(sixth_redis())
        client = stack.enter_context(client_of(nodes.urls))
        url = f"{redis.url}/0" if kind == "redis" else stack.enter_context(rabbit()).url
        environment = os.environ | {
            "BROKERS_URL": url,
            "BROKERS_RESULTS": f"{redis.url}/1",
            "BROKERS_NODES": ",".join(nodes.urls),
        }
        store = Redis.from_url(f"{redis.url}/1", decode_responses=True)
        app = Celery("sender", broker=url, backend="disabled://", set_as_current=False)
        stack.callback(app.close)
        workers: list[Worker] = []
        for name, queues in (("w0", "paris,orders,everywhere"), ("w1", "london,everywhere")):
            directory = tmp_path_factory.mktemp(name)
            arguments = ["-A", APP, "worker", "-n", f"{name}@%h", "-c", "2", "-Q", queues, "-P", pool]
            arguments += ["--without-gossip", "--without-mingle", "-l", "INFO", "-f", str(directory / "logger.log")]
            workers.append(stack.enter_context(Worker(directory, environment, arguments)))
        for worker in workers:
            worker.wait_until_ready()
        yield Site(workers, store, app, client)


def test_a_task_whose_key_fits_a_pattern_is_not_lost(site: Site) -> None:
    with site.client.lock("exchanges:topic"):
        task = site.send("topic", "shop", "topic", "orders.eu")
        eventually(lambda: site.came_back(task, times=2), "the second way back")
    eventually(lambda: site.ran(task), "the body")
    eventually(site.is_idle, "the end of the task")
    assert site.ran(task) == ["w0"]


def test_a_task_goes_back_to_one_of_two_queues(site: Site) -> None:
    """The exchange has made two messages of a single message."""
    with site.client.lock("exchanges:direct"):
        task = site.send("direct", "sync", "direct", "sync")
        eventually(lambda: all(task in worker.log for worker in site.workers), "both messages")
        eventually(lambda: site.came_back(task, times=2), "the second way back of both")
    eventually(lambda: len(site.ran(task)) >= 2, "both bodies")
    eventually(site.is_idle, "the end of both messages")
    assert site.ran(task) == ["w0", "w1"]


def test_a_broadcast_runs_in_each_worker(site: Site) -> None:
    """A broadcast has no queue in Redis, so the task waits in the worker's slot; in RabbitMQ the task goes back."""
    with site.client.lock("exchanges:fanout"):
        task = site.send("fanout", "everywhere", "fanout", "celery")
        waits = [f"requeue-failed task={task}", f"requeued task={task}"]
        eventually(lambda: all(any(wait in worker.log for wait in waits) for worker in site.workers), "both waits")
    eventually(lambda: len(site.ran(task)) >= 2, "both bodies")
    eventually(site.is_idle, "the end of both messages")
    assert site.ran(task) == ["w0", "w1"]
