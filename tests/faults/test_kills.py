"""Workers and nodes that are killed, frozen or stopped in the middle: the counter is exact, the lock free again."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from celery.exceptions import SoftTimeLimitExceeded, TaskRevokedError

from redlock import Redlock
from tests.integration.tools import LASTING, client_of, eventually, is_free
from tests.integration.worker_fixture import UNLIMITED, Worker, WorkerFixture

LOCK = "counter:hits"
LASTS: Any = {"REDLOCK_TTL": f"{LASTING['ttl']}", "REDLOCK_MAX_TTL": f"{LASTING['max_ttl']}"}
"""Settings of a worker whose locks only a release frees during a test."""


@pytest.fixture
def lasting(fixture: WorkerFixture) -> Iterator[Redlock]:
    """A client for the nodes of workers with `LASTS`."""
    with client_of(fixture.nodes.urls, **LASTING) as redlock:
        yield redlock


def exact(fixture: WorkerFixture, tasks: list[str]) -> list[dict[str, Any]]:
    """All of these increments succeed, each counts once, and tokens grow with the values; their results by value."""
    results = sorted(fixture.results(tasks), key=lambda result: result["value"])
    assert fixture.counter("hits") == len(tasks)
    assert [result["value"] for result in results] == list(range(1, len(tasks) + 1))
    fences = [result["fence"] for result in results]
    assert fences == sorted(set(fences))
    return results


def freeze_inside(fixture: WorkerFixture, worker: Worker) -> list[str]:
    """Stop a worker between a read and a write; the ids of the increments that were sent for that."""
    tasks: list[str] = []
    stat = Path(f"/proc/{worker.child}/stat")

    def is_frozen_inside() -> bool:
        if fixture.counter("hits") == len(tasks):
            tasks.extend(fixture.increment("hits"))
        if not fixture.is_inside("hits"):
            return False
        worker.signal(signal.SIGSTOP)
        eventually(lambda: ") T " in stat.read_text(), "a process that stands still")
        # A write that has been sent arrives before the next command but one.
        fixture.store.ping()
        if not fixture.is_inside("hits"):
            worker.signal(signal.SIGCONT)
        return fixture.is_inside("hits")

    eventually(is_frozen_inside, "a worker that is frozen between its read and its write")
    return tasks


def test_a_killed_child_frees_its_lock_and_its_task_runs_again(fixture: WorkerFixture) -> None:
    victim = fixture.start_worker(REDLOCK_TTL="2", COUNTER_THINK="0.5")
    tasks = freeze_inside(fixture, victim)
    killed = tasks[-1]
    assert f":{killed}@" in str(fixture.store.hget("store:hits", "owner"))
    tasks += fixture.increment("hits", 2)

    os.kill(victim.child, signal.SIGKILL)
    victim.signal(signal.SIGCONT)

    exact(fixture, tasks)
    assert victim.log.count(f"[{killed}] received") == 2, "it was delivered again"
    eventually(lambda: is_free(fixture.nodes.servers, LOCK), "no key on any node")


def test_a_killed_worker_frees_its_lock_within_the_ttl(fixture: WorkerFixture, client: Redlock) -> None:
    victim = fixture.start_worker(REDLOCK_TTL="2", COUNTER_THINK="600", **UNLIMITED)
    fixture.increment("hits")
    eventually(lambda: fixture.is_inside("hits"), "somebody inside the section")

    victim.kill()

    holding = client.holder(LOCK)
    assert holding is None or (holding.remaining is not None and holding.remaining <= 2.0)
    with client.lock(LOCK, blocking_timeout=30) as lease:
        assert lease.is_held


def test_a_worker_frozen_past_its_lease_changes_nothing(fixture: WorkerFixture, client: Redlock) -> None:
    frozen = fixture.start_worker(REDLOCK_TTL="2", COUNTER_THINK="0.5")
    first = freeze_inside(fixture, frozen)
    try:
        eventually(lambda: client.holder(LOCK) is None, "the end of the frozen worker's lease")
        fixture.start_worker(REDLOCK_TTL="2", COUNTER_THINK="0.01")
        others = fixture.increment("hits", 5)
        fixture.results(others)
    finally:
        frozen.signal(signal.SIGCONT)

    results = exact(fixture, first + others)
    assert results[-1] == fixture.result(first[-1]), "what it had read was not what it wrote"
    assert "STALE" in frozen.log


@pytest.mark.long
def test_two_nodes_killed_during_a_run_cost_nothing(fixture: WorkerFixture) -> None:
    fixture.start_worker(concurrency=4, COUNTER_THINK="0.02")
    tasks: list[str] = []

    def is_inside(after: int) -> bool:
        """Whether a task is between its read and its write, after so many others. More tasks come until then."""
        if fixture.counter("hits") > len(tasks) - 10:
            tasks.extend(fixture.increment("hits", 15))
        return fixture.counter("hits") >= after and fixture.is_inside("hits")

    for server in (fixture.nodes[1], fixture.nodes[4]):
        eventually(partial(is_inside, len(tasks) + 5), "a task in the middle of the run")
        server.kill()
        # The run goes on after each kill, even if this process was stopped meanwhile.
        tasks += fixture.increment("hits", 15)

    exact(fixture, tasks)


@pytest.mark.long
def test_a_node_that_returns_empty_during_a_run_costs_nothing(fixture: WorkerFixture) -> None:
    fixture.start_worker(concurrency=4, COUNTER_THINK="0.01", REDLOCK_TTL="2", REDLOCK_MAX_TTL="2")
    tasks = fixture.increment("hits", 60)
    for number, server in enumerate(fixture.nodes.servers[:2]):
        eventually(lambda: fixture.counter("hits") > 15 * (number + 1), "a part of the run")  # noqa: B023 - called at once
        server.kill()
        server.start()

    exact(fixture, tasks)


def test_a_revoked_task_frees_its_lock_at_once(fixture: WorkerFixture, lasting: Redlock) -> None:
    fixture.start_worker(COUNTER_THINK="600", **LASTS, **UNLIMITED)
    (task,) = fixture.increment("hits")
    eventually(lambda: fixture.is_inside("hits"), "somebody inside the section")

    fixture.sender.control.revoke(task, terminate=True)

    eventually(lambda: lasting.holder(LOCK) is None, "the end of the lease")
    with pytest.raises(TaskRevokedError):
        fixture.result(task)
    assert fixture.counter("hits") == 0


@pytest.mark.long
def test_a_soft_time_limit_of_a_waiting_task_leaves_no_key(fixture: WorkerFixture, lasting: Redlock) -> None:
    policies = "tests.integration.apps.policies"
    fixture.start_worker("--include", policies, concurrency=4, **LASTS)
    with lasting.lock("policy:busy"):
        tasks = [
            fixture.send(f"{policies}.wait", "busy", soft_time_limit=0.1 + number / 50, time_limit=10)
            for number in range(12)
        ]
        for task in tasks:
            with pytest.raises(SoftTimeLimitExceeded):
                fixture.result(task)

    eventually(lambda: is_free(fixture.nodes.servers, "policy:busy"), "no key on any node")
    assert fixture.result(fixture.send(f"{policies}.wait", "busy"))["retries"] == 0


@pytest.mark.long
def test_a_warm_shutdown_finishes_tasks_and_leaves_no_key(fixture: WorkerFixture) -> None:
    stopped = fixture.start_worker(concurrency=2, COUNTER_THINK="0.3", **LASTS)
    tasks = fixture.increment("hits", 4)
    eventually(lambda: fixture.is_inside("hits"), "somebody inside the section")

    os.kill(stopped.process.pid, signal.SIGTERM)
    assert stopped.process.wait(60) == 0

    assert fixture.counter("hits") >= 1
    eventually(lambda: is_free(fixture.nodes.servers, LOCK), "no key on any node")
    fixture.start_worker(concurrency=2, **LASTS)
    exact(fixture, tasks)
