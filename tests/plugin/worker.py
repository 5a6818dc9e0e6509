"""The fixtures beside Celery's `celery_worker`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from redlock import LockContended, Redlock
from redlock.celery import current_lease, locked
from redlock.testing import LockNodes

if TYPE_CHECKING:
    from celery import Celery, Task
    from celery.contrib.testing.worker import TestWorkController


@pytest.fixture
def charge(celery_app: Celery, celery_worker: TestWorkController) -> Task:
    @celery_app.task
    @locked("account:{account}", wait=0, on_conflict="raise", ttl=5.0)
    def charge(account: int) -> int:
        assert account
        return current_lease().fence

    celery_worker.reload()
    return charge


@pytest.mark.parametrize("turn", range(2))
def test_a_worker_runs_a_task_while_two_nodes_are_down(charge: Task, redlock_nodes: LockNodes, turn: int) -> None:
    redlock_nodes[turn].kill()
    redlock_nodes[turn + 1].cut()
    first, second = (charge.delay(42).get(timeout=60) for _ in range(2))
    assert first < second


def test_a_worker_waits_for_the_lock_of_the_client(charge: Task, redlock_client: Redlock) -> None:
    with redlock_client.lock("account:42") as lease:
        with pytest.raises(LockContended):
            charge.delay(42).get(timeout=60)
        assert charge.delay(7).get(timeout=60)
        fence = lease.fence
    assert charge.delay(42).get(timeout=60) > fence
