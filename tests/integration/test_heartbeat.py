"""Tests of a worker's files: the heartbeat of a healthy worker, and metrics that agree with the log."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from celery.states import READY_STATES
from prometheus_client.parser import text_string_to_metric_families

from redlock import Redlock
from tests.integration.tools import eventually, label
from tests.integration.worker_fixture import WorkerFixture, refuses_to_start

POLICIES = "tests.integration.apps.policies"


def figures(path: Path) -> dict[str, float]:
    """The metrics in a file by name; the value of a label follows the name. All are of the same worker."""
    found: dict[str, float] = {}
    for family in text_string_to_metric_families(path.read_text() if path.exists() else ""):
        for sample in family.samples:
            assert "@" in sample.labels.pop("worker")
            found["/".join([sample.name, *sample.labels.values()])] = sample.value
    return found


def test_the_metrics_agree_with_the_log_across_children(
    fixture: WorkerFixture, client: Redlock, tmp_path: Path
) -> None:
    path = tmp_path / "redlock.prom"
    worker = fixture.start_worker(
        "--include", POLICIES, "--max-tasks-per-child", "3", concurrency=2, REDLOCK_METRICS_FILE=str(path)
    )
    with client.lock("policy:held"):
        skipped = fixture.result(fixture.send(f"{POLICIES}.skip", "held"))
        patient = fixture.send(f"{POLICIES}.wait", "held")
        eventually(lambda: f"owner_label='{patient}@" in worker.log, "the task that waits")
    assert skipped["status"] == "skipped"
    fixture.result(patient)
    fixture.results(fixture.increment("hits", 12))

    def told() -> dict[str, float]:
        found, log = figures(path), worker.log
        # A child may write one figure after the other while the figures are read.
        acquired, released = log.count("redlock: acquired "), log.count("redlock: released ")
        counts = [found.get(f"redlock_{name}_seconds_count") for name in ("wait", "hold")]
        return found if counts == [acquired, released] and released >= 14 else {}

    found = eventually(told, "figures that agree with the log", every=0.1)
    rounds = found["redlock_acquired_total/1"] + found["redlock_acquired_total/2"]
    assert rounds == found["redlock_wait_seconds_count"]
    assert found["redlock_skipped_total"] == 1
    assert found["redlock_contended_total"] >= 1
    assert found["redlock_wait_seconds_bucket/+Inf"] == found["redlock_wait_seconds_count"]
    assert found["redlock_hold_seconds_sum"] > 0
    assert found["redlock_lost_total"] == 0
    with client.lock("policy:held"):
        patient = fixture.send(f"{POLICIES}.wait", "held")
        eventually(lambda: f"owner_label='{patient}@" in worker.log, "the task that waits")
        worker.process.send_signal(signal.SIGTERM)
        eventually(lambda: not path.exists(), "no file, which would show its last number of waiters for ever")
        assert fixture.state(patient) not in READY_STATES, "the task still waits"
    worker.process.wait(60)
    assert not path.exists()


@pytest.mark.parametrize("pool", ["prefork", pytest.param("threads", marks=pytest.mark.long)])
def test_a_node_that_gives_no_votes_is_counted_by_name(fixture: WorkerFixture, tmp_path: Path, pool: str) -> None:
    dead = fixture.nodes.servers[2]
    path = tmp_path / "redlock.prom"
    # No other node is late on a busy machine; the stopped node refuses at once.
    fixture.start_worker("-P", pool, REDLOCK_METRICS_FILE=str(path), REDLOCK_NODE_TIMEOUT="2.2")
    dead.stop()
    fixture.results(fixture.increment("hits", 10))
    name = "redlock_votes_missing_total/"
    found = eventually(lambda: (f := figures(path)) and f[name + label(dead)] and f, "the missing votes", every=0.1)
    assert found
    assert found[name + label(fixture.nodes.servers[0])] == 0


@pytest.mark.parametrize(
    "pool", [pytest.param("prefork", marks=pytest.mark.long(ci=True)), pytest.param("gevent", marks=pytest.mark.long)]
)
def test_the_heart_beats_as_long_as_the_worker_takes_tasks(fixture: WorkerFixture, tmp_path: Path, pool: str) -> None:
    beat = tmp_path / "heartbeat"
    worker = fixture.start_worker("-P", pool, REDLOCK_HEARTBEAT_FILE=str(beat))
    assert beat.exists(), "a worker that is ready has a pulse"

    def beats() -> bool:
        return beat.stat().st_mtime > 0

    os.utime(beat, (0, 0))
    eventually(beats, "the next beat", every=0.05)
    fixture.broker.kill()
    eventually(lambda: "Trying again in" in worker.log, "the worker to see that its broker is gone")
    os.utime(beat, (0, 0))
    # The retries come after two, four and six seconds: longer than the time between two heartbeats.
    eventually(lambda: "Trying again in 6.00 seconds" in worker.log, "the worker to have tried for a while")
    assert not beats()
    fixture.broker.start()
    eventually(beats, "a beat after the broker is back", every=0.05)


@pytest.mark.long
def test_a_failed_write_fails_no_task_and_is_logged_once(fixture: WorkerFixture, tmp_path: Path) -> None:
    path = tmp_path / "missing" / "redlock.prom"
    worker = fixture.start_worker(REDLOCK_METRICS_FILE=str(path))
    fixture.results(fixture.increment("hits", 1))
    eventually(lambda: "file-not-written" in worker.log, "the warning")
    path.parent.mkdir()
    eventually(path.exists, "the file", every=0.05)
    assert worker.log.count("file-not-written") == 1


def test_an_unknown_setting_refuses_the_start_in_one_line(fixture: WorkerFixture, tmp_path: Path) -> None:
    app = tmp_path / "misspelt.py"
    app.write_text("from celery import Celery\nimport redlock.celery\napp = Celery()\napp.conf.redlock_ttll = 1\n")
    said = refuses_to_start(tmp_path, fixture.environment, "--workdir", str(tmp_path), "-A", "misspelt", "worker")
    assert "redlock_ttll is no setting; did you mean redlock_ttl?" in said
