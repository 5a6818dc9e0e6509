"""Tests of a worker's start: refusal of an unsafe setup, wait for a quorum, start with a minority of nodes down."""

from __future__ import annotations

from pathlib import Path

import pytest

from redlock._transport import codec
from redlock.admin.diagnostics import Level
from redlock.testing.redis_server import Cluster
from tests import versions
from tests.integration.tools import CANARY, eventually, kill_all, raw, raws
from tests.integration.worker_fixture import Worker, WorkerFixture

ARGUMENTS = ("-A", "workers.app", "worker", "-c", "1", "--without-gossip", "--without-mingle", "--without-heartbeat")


def starting(fixture: WorkerFixture, directory: Path, **settings: str) -> Worker:
    """A worker that may never be ready."""
    return Worker(directory, fixture.environment | settings, ARGUMENTS)


def log_of(worker: Worker) -> str:
    return worker.log if worker.log_file.exists() else ""


def test_it_refuses_to_start_on_a_node_that_drops_locks(fixture: WorkerFixture, nodes: Cluster, tmp_path: Path) -> None:
    with raw(nodes[0]) as redis:
        redis.config_set("maxmemory", "100mb")
        redis.config_set("maxmemory-policy", "allkeys-lru")
    with starting(fixture, tmp_path) as worker:
        assert worker.process.wait(timeout=200) == Level.UNSAFE
        (line,) = [line for line in log_of(worker).splitlines() if "will not start" in line]
        assert "the setup is unsafe: " in line
        assert "maxmemory-policy is allkeys-lru" in line
        assert "Traceback" not in worker.output.read_text()


def test_it_refuses_a_different_configuration_fingerprint(fixture: WorkerFixture, tmp_path: Path) -> None:
    fixture.start_worker()
    # A child contacts the nodes when it starts, and its worker does not wait for that.
    agreed = lambda: all(redis.hexists(codec.RECORD, "fingerprint") for redis in raws(fixture.nodes.servers))  # noqa: E731
    eventually(agreed, "the first contact of the first worker")
    with starting(fixture, tmp_path, REDLOCK_MAX_TTL="20") as worker:
        assert worker.process.wait(timeout=200) == Level.UNSAFE
        assert "its clients agreed on nodes=5 max_ttl=10s" in log_of(worker)


def test_it_waits_for_a_quorum_and_then_starts(fixture: WorkerFixture, nodes: Cluster, tmp_path: Path) -> None:
    kill_all(nodes.servers[:3])
    with starting(fixture, tmp_path, REDLOCK_MAX_TTL="2", REDLOCK_TTL="2") as worker:
        eventually(lambda: "waiting for the lock nodes" in log_of(worker), "a worker that waits")
        assert "2 of 5 vote, 3 are needed" in log_of(worker)
        assert " ready." not in log_of(worker)
        # A restarted node abstains until max_ttl after its first contact: the worker contacts the node.
        for server in nodes.servers[:3]:
            server.start()
        worker.wait_until_ready()
        assert "a quorum of lock nodes votes: starting" in worker.log
        assert worker.log.count("waiting for the lock nodes") <= 4, "once for each reason, not for each look"


def test_a_worker_that_waits_can_be_stopped(fixture: WorkerFixture, nodes: Cluster, tmp_path: Path) -> None:
    kill_all(nodes.servers[:3])
    with starting(fixture, tmp_path) as worker:
        eventually(lambda: "waiting for the lock nodes" in log_of(worker), "a worker that waits")
        worker.process.terminate()
        worker.process.wait(timeout=200)
        assert " ready." not in log_of(worker)


def test_it_starts_with_a_minority_of_nodes_down_and_says_which(fixture: WorkerFixture, nodes: Cluster) -> None:
    nodes[0].kill()
    nodes[1].kill()
    worker = fixture.start_worker()
    assert worker.log.count("doctor: ") == 2
    fixture.results(fixture.increment("c", 3))
    assert fixture.counter("c") == 3


def test_no_password_gets_into_the_log(fixture: WorkerFixture, nodes: Cluster) -> None:
    with raw(nodes[0]) as redis:
        redis.config_set("requirepass", "the right one")
    urls = [f"{nodes[0].url}?password={CANARY}", *nodes.urls[1:]]
    worker = fixture.start_worker(REDLOCK_NODES=",".join(urls))
    assert "wrong user name or password" in worker.log
    assert CANARY not in worker.log + worker.output.read_text()


@pytest.mark.skipif(versions.CELERY < (5, 7), reason="needs Celery 5.7")
def test_a_worker_that_spawns_its_children_says_so(fixture: WorkerFixture) -> None:
    worker = fixture.start_worker("--pool-start-method", "spawn")
    (line,) = [line for line in worker.log.splitlines() if "spawned-children" in line]
    assert "no LOCK events" in line
    fixture.results(fixture.increment("c", 3))
    assert fixture.counter("c") == 3


def test_a_visibility_timeout_that_is_too_short_is_logged(fixture: WorkerFixture) -> None:
    app = "tests.integration.apps.policies"
    worker = fixture.start_worker("--include", app, COUNTER_TIME_LIMIT="5", COUNTER_VISIBILITY_TIMEOUT="20")
    (line,) = [line for line in worker.log.splitlines() if "visibility-timeout" in line]
    assert "its visibility timeout is 20 s" in line
    assert "the wait of tests.integration.apps.policies.wait is 30 s" in line
