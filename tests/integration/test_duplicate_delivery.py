"""A message that is delivered again while its first copy runs: the copy has no result, and runs if the first dies."""

from __future__ import annotations

import json
import os
import signal
import uuid
from collections.abc import Iterator

import pytest
from celery import chain
from celery.canvas import Signature
from celery.result import AsyncResult
from redis import Redis

from tests import versions
from tests.integration.shell import is_running
from tests.integration.tools import client_of, eventually, run_out
from tests.integration.worker_fixture import Worker, WorkerFixture, fresh_fixture, shell

COPIES = "tests.integration.apps.copies"
IDS = ["bob@example.com", "x" * 300, "a\nb"]
MODES = ["requeue", "skip", "raise", "wait"]


@pytest.fixture(scope="module")
def fixture(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WorkerFixture]:
    with fresh_fixture(tmp_path_factory.mktemp("workers")) as fixture:
        yield fixture


@pytest.fixture(scope="module", autouse=True)
def worker(fixture: WorkerFixture) -> Worker:
    """A worker for all tests here. Its leases outlast the pauses of a busy machine."""
    return fixture.start_worker("--include", COPIES, concurrency=3, REDLOCK_TTL="10")


def called(fixture: WorkerFixture, on_conflict: str, name: str, how: str = "succeed") -> Signature:
    """A call of a task with this choice."""
    return fixture.sender.signature(f"{COPIES}.{on_conflict}", (name, how))


def followed(fixture: WorkerFixture, first: Signature, name: str) -> Signature:
    """A chain of this call and one more."""
    return chain(first, fixture.sender.signature(f"{COPIES}.after", (name,)))


def deliver_again(fixture: WorkerFixture, task_id: str) -> None:
    """Deliver the message of a running task again, as the visibility timeout does."""
    with Redis.from_url(fixture.environment["COUNTER_BROKER_URL"]) as redis:
        messages = [json.loads(text)[0] for text in redis.hvals("unacked")]
        (message,) = [message for message in messages if message["headers"]["id"] == task_id]
        message["headers"]["redelivered"] = True
        message["properties"]["delivery_info"]["redelivered"] = True
        # kombu keeps the delivery tag; a new tag shows the test when the copy is done.
        message["properties"]["delivery_tag"] = str(uuid.uuid4())
        redis.lpush("celery", json.dumps(message))


def waiting(fixture: WorkerFixture) -> list[str]:
    """The ids of the tasks with a message in the queue or in a worker."""
    with Redis.from_url(fixture.environment["COUNTER_BROKER_URL"]) as redis:
        texts = [json.loads(text)[0] for text in redis.hvals("unacked")]
        texts += [json.loads(text) for text in redis.lrange("celery", 0, -1)]
        return [message["headers"]["id"] for message in texts]


def runs(fixture: WorkerFixture, task_id: str) -> int:
    """How many bodies of a task have begun."""
    return int(fixture.store.get(f"runs:{task_id}") or 0)


def go(fixture: WorkerFixture, name: str, *numbers: int) -> None:
    """Let these runs end."""
    for number in numbers:
        fixture.store.set(f"go:{name}:{number}", 1)


def with_a_copy(fixture: WorkerFixture, worker: Worker, task: str, on_conflict: str) -> None:
    """Wait until a task runs and a copy has met the running task."""
    eventually(lambda: runs(fixture, task) == 1, "the first copy at work")
    deliver_again(fixture, task)
    met = f"owner_label='{task}@" if on_conflict == "wait" else f"duplicate task={task} "
    eventually(lambda: met in worker.log, "the copy that meets the first")


def kill_holder(fixture: WorkerFixture, name: str, pid: int) -> None:
    """Kill the process that holds this lock; its lease ends at once."""
    os.kill(pid, signal.SIGKILL)
    eventually(lambda: not is_running(pid), "the end of the holder")
    run_out(fixture.nodes.servers, f"copies:{name}")


def first_of(result: AsyncResult) -> str:
    """The id of the first task of a chain."""
    while result.parent is not None:
        result = result.parent
    return str(result.id)


@pytest.mark.parametrize("on_conflict", MODES)
def test_a_copy_of_a_running_task_leaves_no_result(fixture: WorkerFixture, worker: Worker, on_conflict: str) -> None:
    name = f"succeeds-{on_conflict}"
    task = first_of(followed(fixture, called(fixture, on_conflict, name), name).apply_async())
    with_a_copy(fixture, worker, task, on_conflict)
    assert fixture.state(task) == "STARTED"
    assert not fixture.store.exists(f"after:{name}")

    go(fixture, name, 1)

    assert fixture.result(task) == 1
    eventually(fixture.is_idle, "the end of the copy", every=0.05)
    assert fixture.state(task) == "SUCCESS"
    assert runs(fixture, task) == 1
    assert fixture.store.lrange(f"after:{name}", 0, -1) == ["1"]


@pytest.mark.parametrize("on_conflict", MODES)
def test_a_copy_of_a_task_that_fails_leaves_it_failed(fixture: WorkerFixture, worker: Worker, on_conflict: str) -> None:
    name = f"fails-{on_conflict}"
    callback = fixture.sender.signature(f"{COPIES}.failed", kwargs={"name": name})
    signature = called(fixture, on_conflict, name, "fail").on_error(callback)
    task = str(signature.apply_async().id)
    with_a_copy(fixture, worker, task, on_conflict)

    go(fixture, name, 1)
    with pytest.raises(ValueError, match=name):
        fixture.result(task)
    eventually(fixture.is_idle, "the end of the copy", every=0.05)

    assert fixture.state(task) == "FAILURE"
    assert isinstance(fixture.failure(task), ValueError)
    assert runs(fixture, task) == 1
    assert len(fixture.store.lrange(f"after:{name}", 0, -1)) == 1


@pytest.mark.parametrize(
    "on_conflict", [MODES[0], *(pytest.param(mode, marks=pytest.mark.long(ci=True)) for mode in MODES[1:])]
)
def test_a_copy_runs_when_the_first_is_killed(fixture: WorkerFixture, worker: Worker, on_conflict: str) -> None:
    name = f"killed-{on_conflict}"
    task = first_of(followed(fixture, called(fixture, on_conflict, name), name).apply_async())
    with_a_copy(fixture, worker, task, on_conflict)

    # The message of a killed child goes back to the queue too, so there are three copies now.
    kill_holder(fixture, name, int(eventually(lambda: fixture.store.hget(f"pids:{task}", "1"), "its process id") or 0))
    eventually(lambda: runs(fixture, task) == 2, "another copy at work")
    go(fixture, name, 2)

    assert fixture.result(task) == 2
    eventually(fixture.is_idle, "the end of the other copy", every=0.05)
    assert runs(fixture, task) == 2
    assert fixture.store.lrange(f"after:{name}", 0, -1) == ["2"]


def test_a_retry_is_no_copy_of_the_run_that_sent_it(fixture: WorkerFixture, worker: Worker) -> None:
    task = str(fixture.sender.send_task(f"{COPIES}.again", ("again",), expires=3_600).id)
    eventually(lambda: f"requeued task={task} " in worker.log, "the retry that meets the first run", every=0.05)
    go(fixture, "again", 1, 2)
    assert fixture.result(task) is not None, "the retry still has its expiry"
    assert runs(fixture, task) == 2
    assert f"duplicate task={task} " not in worker.log


@pytest.mark.parametrize("task", IDS, ids=["with @", "long", "with a line break"])
def test_a_copy_is_recognised_by_any_task_id(fixture: WorkerFixture, worker: Worker, task: str) -> None:
    name = f"id-{IDS.index(task)}"
    called(fixture, "skip", name).apply_async(task_id=task)
    eventually(lambda: runs(fixture, task) == 1, "the first copy at work")
    before = worker.log.count("then=requeued")
    deliver_again(fixture, task)
    eventually(lambda: worker.log.count("then=requeued") > before, "the copy that meets the first")
    go(fixture, name, 1)
    assert fixture.result(task) == 1


def test_a_task_is_no_copy_of_one_with_a_longer_id(fixture: WorkerFixture) -> None:
    called(fixture, "skip", "longer").apply_async(task_id="ann@example.com")
    eventually(lambda: runs(fixture, "ann@example.com") == 1, "the first task at work")
    called(fixture, "skip", "longer").apply_async(task_id="ann")
    assert fixture.result("ann")["status"] == "skipped"
    go(fixture, "longer", 1)
    assert fixture.result("ann@example.com") == 1


@pytest.fixture
def forgetful(fixture: WorkerFixture) -> Iterator[Worker]:
    """A worker that does not ask the result backend about copies, as is Celery's default; for the queue `lost`."""
    worker = fixture.start_worker("--include", COPIES, "-Q", "lost", REDLOCK_TTL="10", COPIES_RUN_AGAIN="1")
    yield worker
    worker.kill()


def test_a_copy_of_a_lost_run_waits_for_any_other_holder(fixture: WorkerFixture, forgetful: Worker) -> None:
    task = str(called(fixture, "skip", "lost").apply_async(queue="lost").id)
    eventually(lambda: runs(fixture, task) == 1, "the first copy at work")
    with client_of(fixture.nodes.urls) as client:
        # While its worker stands still, the copy can't run before another holder has the lock.
        os.kill(forgetful.process.pid, signal.SIGSTOP)
        kill_holder(fixture, "lost", forgetful.child)
        with client.lock("copies:lost"):
            os.kill(forgetful.process.pid, signal.SIGCONT)
            eventually(lambda: f"requeued task={task} " in forgetful.log, "the copy that goes back", every=0.05)
        assert "skipped" not in forgetful.log
    go(fixture, "lost", 2)
    assert fixture.result(task) == 2


@versions.needs_celery_5_7
def test_celerys_retry_of_a_killed_run_begins_its_count_anew(fixture: WorkerFixture, worker: Worker) -> None:
    with client_of(fixture.nodes.urls) as client:
        with client.lock("copies:killed"):
            task = str(called(fixture, "killed", "killed").apply_async().id)
            first = f"requeued task={task} resource=copies:killed count=1 "
            eventually(lambda: first in worker.log, "the first run back in the queue", every=0.05)
        pid = eventually(lambda: fixture.store.hget(f"pids:{task}", "1"), "its process id")
        with client.lock("copies:killed"):
            os.kill(int(pid or 0), signal.SIGKILL)
            eventually(lambda: worker.log.count(first) == 2, "the retry back in the queue", every=0.05)
    go(fixture, "killed", 2)
    assert fixture.result(task) == 2


CHORD = """
import json
from celery import chord
from tests.integration.apps.copies import MODES, after, wait
task = dict(MODES, wait=wait)["{on_conflict}"]
parts = [task.s("{name}").set(task_id="{name}-a"), task.s("{name}-other")]
print(json.dumps(chord(parts, after.s("{name}")).apply_async().id))
"""


@pytest.mark.parametrize("on_conflict", MODES)
def test_a_chord_counts_a_part_with_a_copy_once(fixture: WorkerFixture, worker: Worker, on_conflict: str) -> None:
    name = f"chord-{on_conflict}"
    end = shell(fixture, CHORD.format(name=name, on_conflict=on_conflict))
    with_a_copy(fixture, worker, f"{name}-a", on_conflict)

    go(fixture, name, 1)
    fixture.result(f"{name}-a")
    eventually(lambda: f"{name}-a" not in waiting(fixture), "the end of the copy", every=0.05)
    assert fixture.state(end) == "PENDING"
    go(fixture, f"{name}-other", 1)

    assert fixture.result(end) == [1, 1]
    assert len(fixture.store.lrange(f"after:{name}", 0, -1)) == 1
