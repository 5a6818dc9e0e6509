"""What Flower shows of locks: states while tasks run, and counters; asked through its API and seen in a browser."""

from __future__ import annotations

import contextlib
import http.client
import json
import re
import shutil
import subprocess
import tempfile
from typing import TYPE_CHECKING, Any

import pytest

from redlock import Redlock, embedded
from redlock.embedded import free_port
from tests.integration.stage import Stage, Worker
from tests.integration.tools import eventually, holders, run_out, sixth_redis

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

HOLDING = "tests.integration.apps.holding"
POLICIES = "tests.integration.apps.policies"
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


class Flower:
    """A running Flower."""

    def __init__(self, port: int) -> None:
        self.port = port

    def get(self, path: str) -> str:
        """What it answers; nothing while it does not."""
        with contextlib.closing(http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)) as connection:
            try:
                connection.request("GET", path)
                response = connection.getresponse()
                return response.read().decode() if response.status == http.HTTPStatus.OK else ""
            except (OSError, http.client.HTTPException):
                return ""

    def hears(self, stage: Stage) -> bool:
        """Whether it is told of tasks: it subscribes a moment after it answers."""
        stage.send(f"{POLICIES}.after", 0)
        return self.get("/api/tasks") not in {"", "{}"}

    def state(self, task_id: str) -> str:
        """What it shows of a task."""
        return str(self.task(task_id).get("state", ""))

    def task(self, task_id: str) -> dict[str, Any]:
        """All that it tells of a task."""
        told: dict[str, Any] = json.loads(self.get(f"/api/task/info/{task_id}") or "{}")
        return told

    def counted(self, kind: str, task: str) -> float:
        """How many events of this kind it has counted for a task, over all workers."""
        lines = [line for line in self.get("/metrics").splitlines() if line.startswith("flower_events_total{")]
        mine = [line for line in lines if f'type="{kind}"' in line and f'task="{task}"' in line]
        return sum(float(line.rpartition(" ")[2]) for line in mine)

    def shows(self, task_id: str, state: str) -> None:
        """Come back when it shows a task in this state."""
        eventually(lambda: self.state(task_id) == state, f"task {task_id} as {state}", every=0.02)


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """One set of servers for all tests here."""
    directory = tmp_path_factory.mktemp("flower")
    with embedded.cluster() as nodes, sixth_redis() as broker, Stage(nodes, broker, directory) as stage:
        yield stage


@pytest.fixture(scope="module")
def flower(stage: Stage, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Flower]:
    """A Flower for all tests here, and a worker that tells it everything."""
    port = free_port()
    arguments = ["-A", "workers.app", "flower", "--address=127.0.0.1", f"--port={port}"]
    environment = stage.environment | {"FLOWER_UNAUTHENTICATED_API": "true"}
    process = Worker(tmp_path_factory.mktemp("flower-itself"), environment, arguments)
    try:
        flower = Flower(port)
        eventually(
            lambda: flower.get("/healthcheck") == "OK" or process.process.poll() is not None, "Flower", every=0.1
        )
        assert process.process.poll() is None, process.output.read_text()
        worker = stage.start_worker("--include", f"{HOLDING},{POLICIES}", concurrency=4)
        eventually(lambda: flower.hears(stage), "Flower to hear of tasks", every=0.1)
        yield flower
        assert worker.process.poll() is None
    finally:
        process.kill()


@pytest.fixture(scope="module")
def client(stage: Stage) -> Iterator[Redlock]:
    """A client of the workers' lock nodes."""
    with Redlock(stage.nodes.urls) as redlock:
        yield redlock


def test_a_task_that_waits_is_shown_and_then_that_it_has_the_lock(
    stage: Stage, flower: Flower, client: Redlock
) -> None:
    before = flower.counted("task-lock-waiting", f"{POLICIES}.wait")
    with client.lock("policy:watched"):
        task = stage.send(f"{POLICIES}.wait", "watched")
        flower.shows(task, "LOCK-WAITING")
    flower.shows(task, "SUCCESS")
    assert flower.counted("task-lock-waiting", f"{POLICIES}.wait") == before + 1, "once, however often it tried"
    assert flower.counted("task-lock-acquired", f"{POLICIES}.wait") == before + 1


def test_a_task_shows_that_it_holds_the_lock_and_that_it_lost_it_while_it_runs(stage: Stage, flower: Flower) -> None:
    task = stage.send(f"{HOLDING}.sleep", "lost", 600)
    flower.shows(task, "LOCK-ACQUIRED")
    run_out(stage.nodes.servers, "holding:lost")
    flower.shows(task, "LOCK-LOST")
    assert flower.counted("task-lock-lost", f"{HOLDING}.sleep") == 1
    assert stage.state(task) == "STARTED", "it runs all the same"


def test_a_task_that_went_back_to_the_queue_shows_who_has_the_lock(
    stage: Stage, flower: Flower, client: Redlock
) -> None:
    with client.lock("policy:elsewhere") as lease:
        task = stage.send(f"{POLICIES}.requeue", "elsewhere")
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
    stage: Stage, flower: Flower, client: Redlock, level: str, told: set[str]
) -> None:
    worker = stage.start_worker("--include", POLICIES, "-Q", level, REDLOCK_EVENTS=level)
    try:
        free = stage.send(f"{POLICIES}.skip", "free", queue=level)
        with client.lock(f"policy:{level}"):
            waits = stage.send(f"{POLICIES}.wait", level, queue=level)
            eventually(lambda: re.search(rf"retry .*who='{waits}@", worker.log), "the task that waits")
        for task in (free, waits):
            flower.shows(task, "SUCCESS")
        assert flower.counted("task-lock-acquired", f"{POLICIES}.skip") == 0, "a lock that was free is no news"
        name = flower.task(waits)["worker"]
        lines = [line for line in flower.get("/metrics").splitlines() if f'worker="{name}"' in line]
        assert {kind for line in lines for kind in re.findall(r'type="(task-lock-[a-z]+)"', line)} == told
    finally:
        worker.kill()


def test_a_broker_that_hangs_holds_no_task_up(stage: Stage, flower: Flower, client: Redlock) -> None:
    worker = stage.start_worker("--include", f"{HOLDING},{POLICIES}", "-Q", "hangs")
    broker = stage.broker
    try:
        with client.lock("policy:hangs"):
            task = stage.send(f"{POLICIES}.wait", "hangs", queue="hangs")
            flower.shows(task, "LOCK-WAITING")
            broker.freeze()
        # It takes the lock, has news of that, does its work and gives the lock back, while nobody takes the news.
        eventually(lambda: re.search(rf"released .*{task}", worker.log), "the end of the task's section")
    finally:
        broker.thaw()
        worker.kill()


@pytest.mark.skipif(CHROMIUM is None, reason="no browser")
def test_a_browser_shows_the_lock_in_the_list_of_tasks(stage: Stage, flower: Flower, tmp_path: Path) -> None:
    task = stage.send(f"{HOLDING}.sleep", "seen", 600)
    eventually(lambda: all(holders(stage.nodes.servers, "holding:seen")), "the task inside its section")
    flower.shows(task, "LOCK-ACQUIRED")
    text = browse(f"http://127.0.0.1:{flower.port}/tasks", tmp_path)
    assert re.search(r"<span[^>]*>\s*LOCK-ACQUIRED\s*</span>", text)
    assert f"/task/{task}" in text


def browse(address: str, directory: Path) -> str:
    """What a browser has made of a page, scripts included."""
    with tempfile.TemporaryDirectory(dir=directory) as profile:
        command = [str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={profile}"]
        command += ["--virtual-time-budget=10000", "--dump-dom", address]
        done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=True)
    return done.stdout
