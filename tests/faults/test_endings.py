"""Tests of every possible end of a task: acknowledged early and late, before and after its write, in every pool.

Four tasks of each ending run at once. Afterwards the lock was free in time, no other lock was touched, and each
operation that Celery delivers again is done exactly once.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest
from _pytest.mark.structures import ParameterSet

from redlock import Lease, Redlock
from tests.faults.cluster_fixture import PREFIX, TTL, ClusterFixture, cluster_fixture
from tests.integration.tools import client_of, eventually, holders, is_free
from tests.integration.worker_fixture import Worker

MAX_TTL = 10.0
MARGIN = 20.0
"""Seconds beyond a TTL that the next holder may wait on a slow machine."""
SLOTS = 4


class Ending(NamedTuple):
    """A way to end.

    Attributes:
        name: The name in the table of the tasks, or the test's action on a task that stays.
        again: Whether Celery redelivers the task after late acknowledgement, and after early acknowledgement.
        finishes: Whether the task still does its work.
        released: Whether the holder releases the lock; otherwise the lock expires.
        options: The options of the message.
    """

    name: str
    again: tuple[bool, bool] = (False, False)
    finishes: bool = False
    released: bool = True
    options: tuple[tuple[str, float], ...] = ()


BY_ITSELF = [
    Ending("return", finishes=True),
    Ending("exception"),
    Ending("retry", (True, True)),
    Ending("ignore"),
    Ending("reject"),
    Ending("reject and requeue", (True, False)),
]
BY_FORCE = [
    Ending("soft limit", options=(("soft_time_limit", 50.0), ("time_limit", 60))),
    # The child has 100 ms to release the lock, which can be too short on a slow machine.
    Ending("hard limit", released=False, options=(("soft_time_limit", 4.0), ("time_limit", 5.0))),
    Ending("revoke with SIGTERM"),
    Ending("revoke with SIGKILL", released=False),
    Ending("child killed", (True, False), released=False),
    Ending("kernel", (True, False), released=False),
]
OF_THE_WORKER = [
    Ending("worker killed", (True, False), released=False),
    Ending("warm shutdown", finishes=True),
    Ending("cold shutdown", (True, False)),
    Ending("soft shutdown", (True, False)),
    # Celery's main process raises the error too, and stops.
    Ending("memory error", (True, False)),
]
STAYS = {"soft limit", "revoke with SIGTERM", "revoke with SIGKILL", "child killed"}


LONG = {"kernel", "cold shutdown", "soft shutdown", "memory error", "worker killed"}
IN_CI = {"worker killed", "gevent"}
"""Long too, for `test_kills.py` and `test_pools.py` have shorter tests of them."""


def some(endings: list[Ending]) -> list[ParameterSet]:
    """The endings as parameters of a test; slow endings have the mark `long`."""
    return [
        pytest.param(
            ending, id=ending.name, marks=[pytest.mark.long(ci=ending.name in IN_CI)] if ending.name in LONG else []
        )
        for ending in endings
    ]


class Case(NamedTuple):
    """A task that ends."""

    op: str
    name: str
    acks: str
    moment: str


@pytest.fixture(scope="module")
def fixture(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ClusterFixture]:
    with cluster_fixture(tmp_path_factory.mktemp("endings")) as fixture:
        fixture.environment["REDLOCK_MAX_TTL"] = str(MAX_TTL)
        yield fixture


@pytest.fixture(scope="module")
def shared(fixture: ClusterFixture) -> Worker:
    """A prefork worker that survives the ends of its tasks."""
    return fixture.start_worker(concurrency=SLOTS, FAULTS_VISIBILITY="600")


@pytest.fixture
def client(fixture: ClusterFixture) -> Iterator[Redlock]:
    with client_of(fixture.nodes.urls, ttl=TTL, max_ttl=MAX_TTL) as redlock:
        yield redlock


@contextmanager
def bystander(fixture: ClusterFixture, client: Redlock) -> Iterator[None]:
    """Hold another lock all the time, and check that no task touches that lock."""
    with client.lock("bystander", ttl=MAX_TTL) as lease:

        def stands() -> bool:
            return holders(fixture.nodes.servers, "bystander") == [lease.owner] * 5

        # On a busy machine a node can be too late for the acquire; a renewal gives it the key.
        eventually(stands, "the lock on all nodes")
        yield
        lease.ensure_valid()
        assert stands(), "a task has touched another holder's lock"


def sent(
    fixture: ClusterFixture, ending: Ending, label: str, *, stays: bool = False, only_one: bool = False
) -> list[Case]:
    """Four tasks that end in this way or stay until the test ends them, or the first of them.

    A lease that must expire is short. Any other lease outlasts a pause of the machine, and is released.
    """
    does, kind = "stay" if stays else ending.name, "_lasting" if ending.released else ""
    cases = []
    for acks in ("late",) if only_one else ("late", "early"):
        for moment in ("before",) if only_one else ("before", "after"):
            name = f"{label}, {does}, {acks}, {moment}"
            op = fixture.play(f"endings.{acks}{kind}", name, does, moment, **dict(ending.options))
            cases.append(Case(op, name, acks, moment))
    return cases


def check(fixture: ClusterFixture, ending: Ending, cases: list[Case]) -> None:
    """Check that each case that must be applied is applied once, and that no promise is broken."""
    expected = {case.op: int(case.moment == "after" or ending.finishes or again(ending, case)) for case in cases}
    eventually(
        lambda: {op: fixture.applied(op) for op in expected} == expected and fixture.is_idle(),
        f"{ending.name}: {[(case.name, expected[case.op], fixture.applied(case.op)) for case in cases]}",
        within=60,
        every=0.1,
    )
    assert fixture.violations(keeps=True, settled=False) == []
    for case in cases:
        eventually(lambda: is_free(fixture.nodes.servers, PREFIX + case.name), "no key on any node")  # noqa: B023 - called at once
        begun = len(fixture.steps(case.op, "grant"))
        assert begun == 1 + again(ending, case), f"{case.name} was begun {begun} times"
        if ending.released:
            released = fixture.releases(case.name)
            assert released == begun, f"{case.name}: {begun - released} of {begun} locks were left to run out"


def again(ending: Ending, case: Case) -> bool:
    """Whether Celery delivers this one again."""
    return ending.again[case.acks == "early"]


@contextmanager
def next_holder(fixture: ClusterFixture, client: Redlock, ending: Ending, cases: list[Case]) -> Iterator[None]:
    """Acquire each lock as soon as possible, and check that leftovers of dead tasks do not touch the new leases."""
    with ExitStack() as stack:
        # A busy machine stands still for a second, which would be the end of a shorter lease.
        leases: list[Lease] = [
            stack.enter_context(client.lock(PREFIX + case.name, ttl=MAX_TTL / 2, blocking_timeout=TTL + MARGIN))
            for case in cases
        ]
        yield
        for case, lease in zip(cases, leases, strict=True):
            # If the old key had expired on a quorum only, the renewal sets the new key on the other nodes.
            seen: dict[str, float] | None = {} if again(ending, case) else None
            eventually(lambda: has_all(fixture, case.name, lease, seen), f"the next holder of {case.name} on all nodes")  # noqa: B023 - called at once
            lease.ensure_valid()


def has_all(fixture: ClusterFixture, name: str, lease: Lease, seen: dict[str, float] | None) -> bool:
    """Whether this lease is on all nodes; fails if another holder stays on a node.

    A redelivered task also requests the lock, and may have set its key on a node first. Such a key must be withdrawn
    before it expires, so `seen` has the time of its first sight. None forbids any other holder.
    """
    found = holders(fixture.nodes.servers, PREFIX + name)
    assert not lease.is_lost, f"{name}: the next holder has lost its lock"
    for other in set(found) - {lease.owner, None}:
        assert seen is not None, f"{name}: another key is beside the next holder's"
        stays = time.monotonic() - seen.setdefault(str(other), time.monotonic())
        assert stays < TTL / 2, f"{name}: another key stays beside the next holder's"
    return set(found) == {lease.owner}


def gone(pids: set[int]) -> bool:
    """Whether none of these processes is there any more."""
    return not any(Path(f"/proc/{pid}").exists() for pid in pids)


@pytest.mark.parametrize("ending", some(BY_ITSELF))
def test_a_task_that_ends_by_itself(fixture: ClusterFixture, shared: Worker, client: Redlock, ending: Ending) -> None:
    assert shared.process.poll() is None
    with bystander(fixture, client):
        cases = sent(fixture, ending, "prefork")
        for case in cases:
            fixture.wait_for(case.op, "leave")
        with next_holder(fixture, client, ending, cases):
            pass
        check(fixture, ending, cases)


@pytest.mark.parametrize("ending", some(BY_FORCE))
def test_a_task_that_is_ended_by_force(
    fixture: ClusterFixture, shared: Worker, client: Redlock, ending: Ending
) -> None:
    assert shared.process.poll() is None
    with bystander(fixture, client):
        cases = sent(fixture, ending, ending.name, stays=ending.name in STAYS)
        last = "grant" if ending.name == "kernel" else "stay"
        pids = {fixture.wait_for(case.op, last).pid for case in cases}
        for case in cases:
            strike(fixture, ending.name, case)
        with next_holder(fixture, client, ending, cases):
            if not ending.released or ending.name.startswith("revoke"):
                eventually(lambda: gone(pids), "the end of these processes")
        check(fixture, ending, cases)


def strike(fixture: ClusterFixture, ending: str, case: Case) -> None:
    """Cause the endings that do not happen by themselves."""
    # Celery's timer sends SIGUSR1 at the soft limit, which on a busy machine could be before the task stays.
    numbers = {"child killed": signal.SIGKILL, "soft limit": signal.SIGUSR1}
    if ending in numbers:
        os.kill(fixture.steps(case.op, "stay")[0].pid, numbers[ending])
    elif ending.startswith("revoke"):
        fixture.sender.control.revoke(case.op, terminate=True, signal=ending.rpartition(" ")[2])


@pytest.mark.parametrize("ending", some(OF_THE_WORKER))
def test_a_task_whose_worker_ends(fixture: ClusterFixture, client: Redlock, ending: Ending) -> None:
    soft = {"FAULTS_SOFT_SHUTDOWN": "1", "REMAP_SIGTERM": "SIGQUIT"} if ending.name == "soft shutdown" else {}
    with alone(fixture):
        victim = fixture.start_worker(concurrency=SLOTS, FAULTS_VISIBILITY="600", **soft)
        with bystander(fixture, client):
            alone_too = ending.name == "memory error"
            cases = sent(fixture, ending, ending.name, stays=not alone_too, only_one=alone_too)
            for case in cases:
                fixture.wait_for(case.op, "leave" if alone_too else "stay")
            stop(fixture, victim, ending.name, cases)
            with next_holder(fixture, client, ending, cases):
                victim.process.wait(60)
            if ending.again[0]:
                fixture.start_worker(concurrency=SLOTS, FAULTS_VISIBILITY="4")
            check(fixture, ending, cases)


def stop(fixture: ClusterFixture, victim: Worker, ending: str, cases: list[Case]) -> None:
    """End the worker in this way."""
    if ending == "worker killed":
        # The main process alone: the kernel takes its children.
        os.kill(victim.process.pid, signal.SIGKILL)
        return
    if ending == "memory error":
        eventually(lambda: "MemoryError" in victim.log, "the end of the worker")
        victim.kill()
        return
    number = signal.SIGQUIT if ending == "cold shutdown" else signal.SIGTERM
    os.kill(victim.process.pid, number)
    if ending == "warm shutdown":
        for case in cases:
            fixture.store.set(f"faults:go:{case.op}", 1)


@contextmanager
def alone(fixture: ClusterFixture) -> Iterator[None]:
    """Every worker that was there is gone, and so is every one that was started meanwhile."""
    fixture.kill_workers()
    try:
        yield
    finally:
        fixture.kill_workers()


@pytest.mark.parametrize(
    "pool", [pytest.param(pool, marks=pytest.mark.long(ci=pool in IN_CI)) for pool in ("gevent", "threads", "solo")]
)
def test_the_other_pools(fixture: ClusterFixture, client: Redlock, pool: str) -> None:
    """Where nobody can kill one task, they end by themselves, or with their worker."""
    with alone(fixture):
        victim = fixture.start_worker("-P", pool, concurrency=SLOTS, FAULTS_VISIBILITY="600")
        with bystander(fixture, client):
            ends = [(ending, sent(fixture, ending, pool)) for ending in BY_ITSELF]
            for ending, cases in ends:
                check(fixture, ending, cases)
            killed = Ending("worker killed", (True, False), released=False)
            cases = sent(fixture, killed, f"{pool}, killed", stays=True, only_one=pool == "solo")
            for case in cases:
                fixture.wait_for(case.op, "stay")
            # Before Celery 5.7, gevent's loop sends an early acknowledgement a moment after the body has begun.
            late = sum(case.acks == "late" for case in cases)
            eventually(lambda: fixture.unacknowledged() == late, "the early acknowledgements")
            victim.kill()
            with next_holder(fixture, client, ending, cases):
                pass
            # kombu 5.7 restores nothing in gevent's loop: a poll that times out leaves it before it gets there.
            fixture.start_worker(concurrency=SLOTS, FAULTS_VISIBILITY="4")
            check(fixture, killed, cases)
