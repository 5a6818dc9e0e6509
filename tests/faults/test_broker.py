"""The broker is killed under a task that is at work, and comes back with all that it had confirmed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.faults.cluster_fixture import cluster_fixture
from tests.integration.tools import eventually
from tests.integration.worker_fixture import shell
from tests.versions import needs_celery_5_6

LASTS: dict[str, Any] = {"REDLOCK_TTL": "10", "REDLOCK_MAX_TTL": "10"}
"""Leases that outlast the pauses of a busy machine."""


def test_a_broker_that_is_killed_loses_no_task(tmp_path: Path) -> None:
    with cluster_fixture(tmp_path) as fixture:
        worker = fixture.start_worker(concurrency=4, FAULTS_VISIBILITY="3", **LASTS)
        ops = [fixture.play("endings.late", f"hits-{number}", "stay", "before") for number in range(4)]
        for op in ops:
            fixture.wait_for(op, "stay")
        fixture.broker.kill()
        eventually(lambda: "Connection to broker lost" in worker.log, "the loss of the connection")
        for op in ops:
            fixture.store.set(f"faults:go:{op}", 1)
        fixture.broker.start()
        eventually(lambda: all(fixture.applied(op) for op in ops), "all operations", every=0.1)
        fixture.settle()

        assert fixture.violations(keeps=True) == []


def test_a_worker_killed_while_it_restores_holds_up_no_other(tmp_path: Path) -> None:
    with cluster_fixture(tmp_path) as fixture:
        worker = fixture.start_worker(FAULTS_VISIBILITY="3")
        op = fixture.play("endings.late", "hits", "stay", "before")
        fixture.wait_for(op, "stay")
        # As a worker that looks for the messages of dead workers, and is killed then.
        shell(
            fixture,
            "from workers.app import app; connection = app.connection(); channel = connection.default_channel; "
            "lock = channel.client.lock(channel.unacked_mutex_key, timeout=channel.unacked_mutex_expire); "
            "print(int(lock.acquire(blocking_timeout=60)))",
        )
        worker.kill()
        fixture.store.set(f"faults:go:{op}", 1)
        fixture.start_worker(FAULTS_VISIBILITY="3")
        eventually(lambda: fixture.applied(op), "the operation", every=0.1)
        fixture.settle()

        assert fixture.violations(keeps=True) == []


# Below Celery 5.5 no worker stores a state again that Redis did not take, and below 5.6 the task comes back late.
@needs_celery_5_6
def test_a_task_that_ends_without_results_has_not_failed(tmp_path: Path) -> None:
    with cluster_fixture(tmp_path) as fixture:
        worker = fixture.start_worker(FAULTS_VISIBILITY="600", **LASTS)
        op = fixture.play("endings.late", "hits", "stay", "before")
        fixture.wait_for(op, "stay")
        fixture.broker.kill()
        fixture.store.set(f"faults:go:{op}", 1)
        eventually(lambda: fixture.applied(op), "the operation")
        said = (worker.log, worker.output.read_text())
        eventually(lambda: (worker.log, worker.output.read_text()) != said, "a word of who can't store its state")
        fixture.broker.start()
        fixture.settle()

        assert fixture.state(op) == "SUCCESS"
        assert fixture.violations(keeps=True) == []
