"""The broker is killed under a task that is at work, and comes back with all that it had confirmed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.faults.theatre import theatre
from tests.integration.tools import eventually

if TYPE_CHECKING:
    from pathlib import Path


LOST = (
    "Celery 5.7 kills the child, then fails to tell the result backend, which is gone with the broker, and so takes "
    "the task for revoked and acknowledges it on the next connection: worker_cancel_long_running_tasks_on_"
    "connection_loss loses tasks where both are one server"
)


@pytest.mark.parametrize(
    "cancels", ["0", pytest.param("1", marks=[pytest.mark.long, pytest.mark.xfail(reason=LOST, strict=True)])]
)
def test_a_broker_that_is_killed_loses_no_task(tmp_path: Path, cancels: str) -> None:
    with theatre(tmp_path) as stage:
        worker = stage.start_worker(concurrency=4, FAULTS_VISIBILITY="3", FAULTS_CANCEL=cancels)
        ops = [stage.play("endings.late", f"hits-{number}", "stay", "before") for number in range(4)]
        for op in ops:
            stage.wait_for(op, "stay")
        stage.broker.kill()
        eventually(lambda: "Connection to broker lost" in worker.log, "the loss of the connection")
        for op in ops:
            if cancels == "1":
                stage.wait_for(op, "end")
            stage.store.set(f"faults:go:{op}", 1)
        stage.broker.start()
        eventually(lambda: all(stage.applied(op) for op in ops), "all operations", every=0.1)
        stage.settle()

        assert stage.violations(keeps=True) == []
