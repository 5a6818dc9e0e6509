"""Faults of containers during work, with Docker's own means: the counter is right, and each value appears once.

Invariants:
1. Each fault meets work in progress: tasks arrive all the time, or a queue is half done.
2. A fault of one worker meets a worker inside its critical section.
3. At most two of the five lock nodes are down at the same time.
"""

from __future__ import annotations

import functools

import pytest

from tests.compose.counter import Counter
from tests.compose.project import Project
from tests.integration import tools

pytestmark = pytest.mark.timeout(1200)

TASKS = 60

eventually = functools.partial(tools.eventually, within=300.0, every=0.05)


def advance(counter: Counter, by: int, why: str) -> None:
    """Wait until the counter has grown by this number."""
    goal = counter.value() + by
    eventually(lambda: counter.value() >= goal, f"{by} more increments {why}")


def all_counted(counter: Counter) -> None:
    """Wait for every task; each has its own value, and the last is their number."""
    if not tools.comes_true(counter.is_done, within=150.0, every=0.2):
        # By now the broker has delivered the messages of lost connections again.
        counter.send_again_what_the_broker_forgot()
        eventually(counter.is_done, "every task to end")
    assert counter.outcomes() == list(range(1, len(counter.ids) + 1))
    assert counter.value() == len(counter.ids)


def everything_is_up(project: Project) -> None:
    project.compose("up", "--detach", "--scale", "worker=4")
    eventually(project.is_healthy, "every container to be healthy")


def test_a_worker_paused_or_cut_off_in_its_section_loses_nothing(project: Project, counter: Counter) -> None:
    everything_is_up(project)
    # The body takes longer than a lease without renewal.
    settings = {"COUNTER_THINK": "3", "REDLOCK_TTL": "2"}
    command = ("celery", "-A", "workers.app", "worker", "--hostname", "worker@%h", "--concurrency", "1")
    with project.one_more("worker", *command, **settings) as slow, counter.traffic(every=0.3):

        def caught() -> None:
            eventually(lambda: counter.is_inside(slow), "the slow worker inside its section")

        caught()
        with project.paused(slow, *project.containers("lock1")):
            assert counter.is_inside(slow)
            advance(counter, 3, "without the paused worker and lock node")
        eventually(lambda: "STALE" in project.console(slow), "the paused worker's late write to be refused")

        caught()
        with project.cut_off(worker=slow, lock2=project.containers("lock2")[0]):
            assert counter.is_inside(slow)
            advance(counter, 3, "without the worker and the lock node that are cut off")

        # The container has new addresses and must find out that its connections are dead.
        caught()
        assert project.stop(slow) == 0
        assert not counter.is_inside(slow)
        assert not counter.in_hand_of(slow), "it had time to end what it was doing"
    all_counted(counter)


def test_restarts_an_empty_node_and_new_workers_lose_nothing(project: Project, counter: Counter) -> None:
    everything_is_up(project)
    counter.send(TASKS)
    advance(counter, 3, "before the broker is restarted")
    project.restart(project.containers("broker")[0])
    assert not counter.is_done(), "all was done before the strike"
    all_counted(counter)
    with counter.traffic(every=0.2):
        advance(counter, 3, "after the restart of the broker")
        project.restart(project.containers("lock1")[0])
        project.compose("up", "--detach", "--no-deps", "--force-recreate", "lock2")
        advance(counter, 3, "while two lock nodes abstain")

        project.restart(project.containers("worker")[0])
        before = set(project.containers("worker"))
        project.compose("up", "--detach", "--no-deps", "--no-recreate", "--scale", "worker=6", "worker")
        added = set(project.containers("worker")) - before
        assert len(added) == 2
        eventually(lambda: any(map(counter.in_hand_of, added)), "a new worker to take a task")
        project.compose("up", "--detach", "--no-deps", "--no-recreate", "--scale", "worker=2", "worker")
        gone = (before | added) - set(project.containers("worker"))
        assert len(gone) == 4
        assert not any(map(counter.in_hand_of, gone)), "they had time to end what they were doing"
        advance(counter, 3, "with the two workers that are left")
    all_counted(counter)
