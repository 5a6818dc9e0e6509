"""Renewal and loss of leases in Celery's pools."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from celery.exceptions import TimeLimitExceeded

from redlock import LockLost, Redlock
from tests import versions
from tests.integration.tools import eventually, holders, is_free, raws, run_out
from tests.integration.worker_fixture import UNLIMITED, WorkerFixture, fresh_fixture, refuses_to_start

HOLDING = "tests.integration.apps.holding"
FLOWS = "tests.integration.apps.workflows"
POLICIES = "tests.integration.apps.policies"
INTERRUPTED = "tests.integration.apps.interrupted"
IN_LONG_RUNS = tuple(pytest.param(pool, marks=pytest.mark.long) for pool in ("eventlet", "solo"))


@pytest.fixture(scope="module")
def in_pool(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[WorkerFixture]:
    """A worker with the pool of this name, for all tests that need no other settings."""
    with fresh_fixture(tmp_path_factory.mktemp("workers")) as fixture:
        settings = {"COUNTER_TIME_LIMIT": "100", "COUNTER_THINK": "0.005"}
        concurrency = 2 if request.param == "prefork" else 20
        fixture.start_worker("-P", request.param, "--include", HOLDING, concurrency=concurrency, **settings)
        yield fixture


@pytest.mark.parametrize("in_pool", ["prefork", "threads", "gevent", *IN_LONG_RUNS], indirect=True)
def test_a_task_may_be_longer_than_its_lease_in_every_pool(in_pool: WorkerFixture) -> None:
    tasks = [in_pool.send(f"{HOLDING}.look", name, 5.0) for name in ("a", "b")]
    assert all(remaining > 0 for remaining in in_pool.results(tasks))
    assert is_free(in_pool.nodes.servers, "holding:a")


@pytest.mark.parametrize("in_pool", ["threads", "gevent", *IN_LONG_RUNS], indirect=True)
def test_a_limit_that_the_pool_does_not_enforce_ends_no_lease(in_pool: WorkerFixture) -> None:
    in_pool.send(f"{HOLDING}.outlast", "long", 5.0, time_limit=1)
    eventually(lambda: in_pool.store.exists("remained:long"), "the end of the body", every=0.05)
    assert float(in_pool.store.get("remained:long") or 0) > 0, "the lease was renewed to the end of the body"


@pytest.mark.long
def test_a_lease_ends_with_the_limit_at_which_prefork_kills(fixture: WorkerFixture) -> None:
    fixture.start_worker("--include", HOLDING)
    task = fixture.send(f"{HOLDING}.outlast", "long", 600, time_limit=1)
    with pytest.raises(TimeLimitExceeded):
        fixture.result(task)
    eventually(lambda: is_free(fixture.nodes.servers, "holding:long"), "the end of the lease")
    assert not fixture.store.exists("remained:long")


@pytest.mark.skipif(versions.CELERY >= (5, 7), reason="from Celery 5.7 on, the setting wins over the option")
def test_the_limit_of_the_command_line_ends_the_lease(fixture: WorkerFixture) -> None:
    fixture.start_worker("--include", HOLDING, "--time-limit", "600", COUNTER_TIME_LIMIT="2")
    fixture.send(f"{HOLDING}.outlast", "long", 5.0)
    eventually(lambda: fixture.store.exists("remained:long"), "the end of the body", every=0.05)
    assert float(fixture.store.get("remained:long") or 0) > 0, "the lease was renewed to the end of the body"


@pytest.mark.parametrize(
    "in_pool", ["threads", "gevent", pytest.param("eventlet", marks=pytest.mark.long)], indirect=True
)
def test_two_tasks_of_one_process_exclude_each_other(in_pool: WorkerFixture) -> None:
    in_pool.results(in_pool.increment("hits", 40))
    assert in_pool.counter("hits") == 40


@pytest.mark.long
@pytest.mark.parametrize("pool", ["threads", "gevent", "eventlet"])
def test_200_tasks_in_a_process_all_get_the_same_lock(fixture: WorkerFixture, client: Redlock, pool: str) -> None:
    arguments = ["-P", pool, "--include", FLOWS, "--prefetch-multiplier", "1"]
    worker = fixture.start_worker(*arguments, concurrency=200, **UNLIMITED)
    with client.lock("policy:crowd"):
        before = connections(fixture)
        tasks = [fixture.send(f"{FLOWS}.wait", "crowd") for _ in range(200)]
        eventually(
            lambda: all(f"owner_label='{task}@" in worker.log for task in tasks), "two hundred that wait", every=0.2
        )
        # One connection for each waiter, and the shared connections; five for each waiter would be a thousand.
        assert connections(fixture) - before < 400
    fences = [fence for _, fence in fixture.results(tasks)]
    assert len(set(fences)) == 200


def connections(fixture: WorkerFixture) -> int:
    """How many connections the lock nodes have, all together."""
    total = 0
    for redis in raws(fixture.nodes.servers):
        total += redis.info("clients")["connected_clients"]
    return total


@pytest.mark.long
def test_children_that_are_replaced_go_on_with_the_lock(fixture: WorkerFixture) -> None:
    worker = fixture.start_worker("--include", POLICIES, "--max-tasks-per-child", "3", concurrency=2)
    threads = len(list(Path(f"/proc/{worker.process.pid}/task").iterdir()))
    counts = fixture.increment("hits", 20)
    about = fixture.results([fixture.send(f"{POLICIES}.requeue", "hits") for _ in range(10)])
    fixture.results(counts)
    assert fixture.counter("hits") == 20
    assert len({one["pid"] for one in about}) >= 4, "there were several children"
    assert len({one["fence"] for one in about}) == 10
    # A forking process must have no threads, so the children make the lock's threads.
    assert len(list(Path(f"/proc/{worker.process.pid}/task").iterdir())) == threads


@pytest.mark.parametrize("pool", ["prefork", "solo"])
def test_on_lost_raise_interrupts_a_task_without_its_lease(fixture: WorkerFixture, pool: str) -> None:
    fixture.start_worker("-P", pool, "--include", INTERRUPTED, concurrency=1, **UNLIMITED)
    task = fixture.send(f"{INTERRUPTED}.sleep", "x", 600)
    eventually(lambda: all(holders(fixture.nodes.servers, "interrupted:x")), "the task inside its section")
    run_out(fixture.nodes.servers, "interrupted:x")
    # Long before the end of its sleep.
    with pytest.raises(LockLost):
        fixture.result(task)
    # The worker goes on, and no late signal strikes the next task.
    assert fixture.result(fixture.send(f"{INTERRUPTED}.sleep", "y", 0)) == "y"


def test_a_pool_without_interrupts_refuses_in_one_line(fixture: WorkerFixture, tmp_path: Path) -> None:
    arguments = ["-A", "workers.app", "worker", "-P", "threads", "--include", INTERRUPTED]
    said = refuses_to_start(tmp_path, fixture.environment, *arguments)
    assert "tests.integration.apps.interrupted.sleep needs the prefork or solo pool" in said


def test_a_lost_lease_shows_at_the_next_look(fixture: WorkerFixture) -> None:
    fixture.start_worker("--include", HOLDING, concurrency=1, **UNLIMITED)
    task = fixture.send(f"{HOLDING}.look", "x", 600)
    eventually(lambda: all(holders(fixture.nodes.servers, "holding:x")), "the task inside its section")
    run_out(fixture.nodes.servers, "holding:x")
    with pytest.raises(LockLost):
        fixture.result(task)
