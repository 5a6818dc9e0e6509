"""`celery inspect locks`: the held and awaited locks of each worker's tasks, in every pool."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from tests.integration.tools import eventually, run_out
from tests.integration.worker_fixture import ROOT, UNLIMITED

if TYPE_CHECKING:
    from redlock import Redlock
    from tests.integration.worker_fixture import WorkerFixture

HOLDING = "tests.integration.apps.holding"
POLICIES = "tests.integration.apps.policies"


def locks(stage: WorkerFixture) -> list[dict[str, Any]]:
    """The answer of the workers as data."""
    answers = stage.sender.control.inspect(timeout=5, limit=1)._request("locks") or {}
    return [shown for answer in answers.values() for shown in answer]


def shown(stage: WorkerFixture, task: str) -> dict[str, Any]:
    """The entry of one task in the answer; empty without an entry."""
    return next((one for one in locks(stage) if one["task"] == task), {})


@pytest.mark.parametrize("pool", ["prefork", "threads", "gevent"])
def test_held_and_awaited_locks_of_a_worker_are_shown(stage: WorkerFixture, pool: str) -> None:
    stage.start_worker("-P", pool, "--include", f"{HOLDING},{POLICIES}", concurrency=3, **UNLIMITED)
    holds = stage.send(f"{HOLDING}.sleep", "x", 600)
    eventually(lambda: shown(stage, holds).get("state") == "holds", "the task that holds it")
    stage.send(f"{HOLDING}.look", "x", 0)
    waits = eventually(lambda: next((one for one in locks(stage) if one["state"] == "waits"), {}), "one that waits")
    one = shown(stage, holds)
    assert (one["resource"], one["name"]) == ("holding:x", f"{HOLDING}.sleep")
    assert one["fence"] > 0
    assert waits["resource"] == "holding:x"
    assert holds in waits["holder"]
    done = stage.send(f"{POLICIES}.skip", "free")
    stage.result(done)
    assert not shown(stage, done), "what is over is not shown"
    run_out(stage.nodes.servers, "holding:x")
    eventually(lambda: shown(stage, holds).get("state") == "lost", "that it was lost")


def test_the_lock_of_a_killed_child_is_not_shown(stage: WorkerFixture) -> None:
    worker = stage.start_worker("--include", HOLDING, concurrency=1, **UNLIMITED)
    task = stage.send(f"{HOLDING}.sleep", "x", 600)
    eventually(lambda: shown(stage, task).get("state") == "holds", "the task that holds it")
    os.kill(worker.child, signal.SIGKILL)
    first = shown(stage, task).get("pid")
    eventually(lambda: shown(stage, task).get("pid") != first or not shown(stage, task), "the dead one gone")


def test_the_command_line_shows_the_locks(stage: WorkerFixture) -> None:
    stage.start_worker("--include", HOLDING, concurrency=1, **UNLIMITED)
    task = stage.send(f"{HOLDING}.sleep", "x", 600)
    eventually(lambda: shown(stage, task).get("state") == "holds", "the task that holds it")
    command = [sys.executable, "-m", "celery", "-A", "workers.app", "inspect", "locks", "--json"]
    # A worker on a busy machine needs more than the usual second.
    command += ["--destination", f"w0@{socket.gethostname()}", "--timeout", "60"]
    done = subprocess.run(
        command, cwd=ROOT, env=stage.environment, capture_output=True, text=True, timeout=100, check=True
    )
    (answer,) = json.loads(done.stdout).values()
    assert [(one["state"], one["resource"]) for one in answer] == [("holds", "holding:x")]


def entries(stage: WorkerFixture, task: str) -> list[dict[str, Any]]:
    """All that the workers tell of one task."""
    return [one for one in locks(stage) if one["task"] == task]


@pytest.mark.parametrize("pool", ["prefork", "threads", "gevent"])
def test_a_wait_in_the_body_of_a_task_is_shown(stage: WorkerFixture, client: Redlock, pool: str) -> None:
    stage.start_worker("-P", pool, "--include", POLICIES, concurrency=3)
    with client.lock("second:x") as lease:
        task = stage.send(f"{POLICIES}.wait_in_body", "x")
        eventually(lambda: len(entries(stage, task)) == 2, "the body to wait")
        holds, waits = entries(stage, task)
        assert (holds["state"], holds["resource"]) == ("holds", "body:x")
        assert (waits["state"], waits["resource"], waits["position"]) == ("waits", "second:x", 1)
        assert lease.owner[:8] in waits["holder"]
    stage.result(task)
    assert entries(stage, task) == []
