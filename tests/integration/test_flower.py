"""Tests of Flower: the states of locked tasks and the counters, through its API and in a browser."""

from __future__ import annotations

import http
import re
from collections.abc import Iterator

import pytest

from redlock import Redlock
from redlock.celery.duplicate_delivery import COPY
from redlock.celery.expiry import EXPIRES
from tests.integration.browser import Browser, needs_browser
from tests.integration.flowers import Flower, tasks_shown
from tests.integration.tools import client_of, eventually, holders, run_out
from tests.integration.worker_fixture import UNLIMITED, WorkerFixture, fresh_fixture

HOLDING = "tests.integration.apps.holding"
POLICIES = "tests.integration.apps.policies"


@pytest.fixture(scope="module")
def fixture(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WorkerFixture]:
    with fresh_fixture(tmp_path_factory.mktemp("flower")) as fixture:
        yield fixture


@pytest.fixture(scope="module")
def flower(fixture: WorkerFixture, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Flower]:
    """A Flower for all tests here, and a worker that sends all events."""
    environment = fixture.environment | {"FLOWER_UNAUTHENTICATED_API": "true"}
    with Flower(tmp_path_factory.getbasetemp() / "flower-itself", environment) as flower:
        worker = fixture.start_worker("--include", f"{HOLDING},{POLICIES}", concurrency=4, **UNLIMITED)
        eventually(lambda: hears(flower, fixture), "Flower to hear of tasks", every=0.1)
        yield flower
        assert worker.process.poll() is None


def hears(flower: Flower, fixture: WorkerFixture) -> bool:
    """Whether Flower receives task events: the subscription follows its first response."""
    fixture.send(f"{POLICIES}.after", 0)
    status, tasks = flower.get("/api/tasks")
    return status == http.HTTPStatus.OK and tasks != "{}"


@pytest.fixture(scope="module")
def client(fixture: WorkerFixture) -> Iterator[Redlock]:
    """A client of the workers' lock nodes."""
    with client_of(fixture.nodes.urls) as redlock:
        yield redlock


def test_a_task_is_shown_waiting_and_then_with_the_lock(
    fixture: WorkerFixture, flower: Flower, client: Redlock
) -> None:
    def counted(kind: str) -> float:
        return flower.counted(kind, f"{POLICIES}.wait")

    def tries() -> int:
        return sum(" retry " in line and f"owner_label='{task}@" in line for line in fixture._log_lines())

    before = counted("task-lock-waiting")
    # The waiter tries again at each expiry of the lease that it has seen.
    with client.lock("policy:watched", ttl=5.0):
        task = fixture.send(f"{POLICIES}.wait", "watched")
        flower.shows(task, "LOCK-WAITING")
        eventually(lambda: tries() > 1, "another try", every=0.05)
    flower.shows(task, "SUCCESS")
    # Sent in the background, news of a lock may come after that of the task's end; this is the last of the task.
    eventually(lambda: counted("task-lock-acquired") > before, "news of the lock", every=0.02)
    assert counted("task-lock-waiting") == before + 1, "once, however often it tried"
    assert counted("task-lock-acquired") == before + 1


def test_flower_shows_each_wait_that_is_in_the_log(fixture: WorkerFixture, flower: Flower) -> None:
    """A child with a waiting task queues its next task before the request to the nodes."""

    def counted() -> float:
        return flower.counted("task-lock-waiting", f"{HOLDING}.sleep")

    before = counted()
    with fixture.start_worker("--include", HOLDING, "-Q", "hot", concurrency=2):
        for task in [fixture.send(f"{HOLDING}.sleep", "hot", 0.3, queue="hot") for _ in range(6)]:
            fixture.result(task)
        waits = sum(" waiting resource=holding:hot " in line for line in fixture._log_lines())
        assert waits >= 2
        eventually(lambda: counted() >= before + waits, "news of each wait", every=0.05)


def test_a_running_task_shows_its_lock_and_the_loss(fixture: WorkerFixture, flower: Flower) -> None:
    task = fixture.send(f"{HOLDING}.sleep", "lost", 600)
    flower.shows(task, "LOCK-ACQUIRED")
    run_out(fixture.nodes.servers, "holding:lost")
    flower.shows(task, "LOCK-LOST")
    assert flower.counted("task-lock-lost", f"{HOLDING}.sleep") == 1
    assert fixture.state(task) == "STARTED", "it runs all the same"
    fixture.sender.control.revoke(task, terminate=True)
    flower.shows(task, "REVOKED")


def test_an_expired_copy_is_shown_as_revoked(fixture: WorkerFixture, flower: Flower) -> None:
    marks = {COPY: 1, EXPIRES: "2020-01-01T00:00:00+00:00"}
    task = fixture.send(f"{POLICIES}.requeue", "expired", headers=marks)
    flower.shows(task, "REVOKED")
    assert fixture.state(task) == "REVOKED"


def test_a_requeued_task_shows_the_holder_of_the_lock(fixture: WorkerFixture, flower: Flower, client: Redlock) -> None:
    with client.lock("policy:elsewhere") as lease:
        task = fixture.send(f"{POLICIES}.requeue", "elsewhere")
        eventually(lambda: flower.counted("task-retried", f"{POLICIES}.requeue") > 0, "the task back in the queue")
        said = str(eventually(lambda: flower.task(task).get("exception"), "why it went back"))
        assert "LockContended" in said
        assert lease.owner[:8] in said
        assert lease.owner[:32] not in said
    flower.shows(task, "SUCCESS")


@pytest.mark.parametrize(
    ("level", "told"), [("contention", {"task-lock-waiting", "task-lock-acquired"}), ("off", set())]
)
def test_a_worker_tells_no_more_than_its_setting_says(
    fixture: WorkerFixture, flower: Flower, client: Redlock, level: str, told: set[str]
) -> None:
    with fixture.start_worker("--include", POLICIES, "-Q", level, REDLOCK_EVENTS=level) as worker:
        free = fixture.send(f"{POLICIES}.skip", "free", queue=level)
        with client.lock(f"policy:{level}"):
            waits = fixture.send(f"{POLICIES}.wait", level, queue=level)
            eventually(lambda: re.search(rf"retry .*owner_label='{waits}@", worker.log), "the task that waits")
        for task in (free, waits):
            flower.shows(task, "SUCCESS")
        name = flower.task(waits)["worker"]

        def kinds() -> set[str]:
            lines = [line for line in flower.counters() if f'worker="{name}"' in line]
            return {kind for line in lines for kind in re.findall(r'type="(task-lock-[a-z]+)"', line)}

        # A single process sends in order, so its last event arrives last.
        eventually(lambda: kinds() >= told, "all that it tells", every=0.02)
        assert kinds() == told
        assert flower.counted("task-lock-acquired", f"{POLICIES}.skip") == 0, "a lock that was free is no news"


def test_a_broker_that_hangs_holds_no_task_up(fixture: WorkerFixture, flower: Flower, client: Redlock) -> None:
    worker = fixture.start_worker("--include", f"{HOLDING},{POLICIES}", "-Q", "hangs")
    broker = fixture.broker
    try:
        with client.lock("policy:hangs"):
            task = fixture.send(f"{POLICIES}.wait", "hangs", queue="hangs")
            flower.shows(task, "LOCK-WAITING")
            broker.freeze()
        # The task acquires the lock, works and releases the lock while the frozen broker takes no events.
        eventually(lambda: re.search(rf"released .*{task}", worker.log), "the end of the task's section")
    finally:
        broker.thaw()
        worker.kill()


@needs_browser
def test_a_browser_shows_the_lock_in_the_list_of_tasks(
    fixture: WorkerFixture, flower: Flower, browser: Browser
) -> None:
    task = fixture.send(f"{HOLDING}.sleep", "seen", 600)
    eventually(lambda: all(holders(fixture.nodes.servers, "holding:seen")), "the task inside its section")
    flower.shows(task, "LOCK-ACQUIRED")
    browser.open(flower.address("/tasks"))
    eventually(lambda: task in tasks_shown(browser), "the task on the page", every=0.05)
    assert tasks_shown(browser)[task] == "LOCK-ACQUIRED"
    links = "[...document.querySelectorAll('#tasks-table a')].map(link => link.pathname)"
    assert f"/task/{task}" in browser.value(links)
