"""`celery inspect locks`: the held and awaited locks of each worker's tasks, in every pool."""

from __future__ import annotations

import json
import os
import signal
import socket
from typing import Any

import pytest

from redlock import Redlock
from tests.integration.shell import run_python
from tests.integration.tools import eventually, run_out
from tests.integration.worker_fixture import UNLIMITED, WorkerFixture

HOLDING = "tests.integration.apps.holding"
POLICIES = "tests.integration.apps.policies"


def shown(fixture: WorkerFixture, task: str) -> dict[str, Any]:
    """The entry of one task in the answer; empty without an entry."""
    return next(iter(fixture.task_locks(task)), {})


@pytest.mark.parametrize("pool", ["prefork", pytest.param("threads", marks=pytest.mark.long), "gevent"])
def test_held_and_awaited_locks_of_a_worker_are_shown(fixture: WorkerFixture, pool: str) -> None:
    fixture.start_worker("-P", pool, "--include", f"{HOLDING},{POLICIES}", concurrency=3, **UNLIMITED)
    holds = fixture.send(f"{HOLDING}.sleep", "x", 600)
    eventually(lambda: shown(fixture, holds).get("state") == "holds", "the task that holds it")
    fixture.send(f"{HOLDING}.look", "x", 0)
    (waits,) = eventually(lambda: [one for one in fixture.task_locks() if one["state"] == "waits"], "one that waits")
    one = eventually(lambda: shown(fixture, holds), "the task that holds it")
    assert (one["resource"], one["name"]) == ("holding:x", f"{HOLDING}.sleep")
    assert one["fence"] > 0
    assert waits["resource"] == "holding:x"
    assert holds in waits["holder"]
    done = fixture.send(f"{POLICIES}.skip", "free")
    fixture.result(done)
    assert not shown(fixture, done), "what is over is not shown"
    run_out(fixture.nodes.servers, "holding:x")
    eventually(lambda: shown(fixture, holds).get("state") == "lost", "that it was lost")


def test_the_lock_of_a_killed_child_is_not_shown(fixture: WorkerFixture) -> None:
    worker = fixture.start_worker("--include", HOLDING, concurrency=1, **UNLIMITED)
    task = fixture.send(f"{HOLDING}.sleep", "x", 600)
    eventually(lambda: shown(fixture, task).get("state") == "holds", "the task that holds it")
    os.kill(worker.child, signal.SIGKILL)
    first = shown(fixture, task).get("pid")
    eventually(lambda: shown(fixture, task).get("pid") != first or not shown(fixture, task), "the dead one gone")


def test_a_process_that_a_task_starts_has_no_slot(fixture: WorkerFixture) -> None:
    fixture.start_worker("--include", HOLDING, concurrency=1)
    assert fixture.result(fixture.send(f"{HOLDING}.slots")) == [0, None]


def test_the_command_line_shows_the_locks(fixture: WorkerFixture) -> None:
    fixture.start_worker("--include", HOLDING, concurrency=1, **UNLIMITED)
    task = fixture.send(f"{HOLDING}.sleep", "x", 600)
    eventually(lambda: shown(fixture, task).get("state") == "holds", "the task that holds it")
    command = ["-m", "celery", "-A", "workers.app", "inspect", "locks", "--json"]
    # A worker on a busy machine needs more than the usual second.
    command += ["--destination", f"w0@{socket.gethostname()}", "--timeout", "60"]
    done = run_python(*command, env=fixture.environment, check=True)
    (answer,) = json.loads(done.stdout).values()
    assert [(one["state"], one["resource"]) for one in answer] == [("holds", "holding:x")]


@pytest.mark.parametrize("pool", ["prefork", pytest.param("threads", marks=pytest.mark.long), "gevent"])
def test_a_wait_in_the_body_of_a_task_is_shown(fixture: WorkerFixture, client: Redlock, pool: str) -> None:
    fixture.start_worker("-P", pool, "--include", POLICIES, concurrency=3)
    with client.lock("second:x") as lease:
        task = fixture.send(f"{POLICIES}.wait_in_body", "x")
        both = lambda: found if len(found := fixture.task_locks(task)) == 2 else []  # noqa: E731 - short
        holds, waits = eventually(both, "the body to wait")
        assert (holds["state"], holds["resource"]) == ("holds", "body:x")
        assert (waits["state"], waits["resource"], waits["position"]) == ("waits", "second:x", 1)
        assert lease.owner[:8] in waits["holder"]
    fixture.result(task)
    assert fixture.task_locks(task) == []
