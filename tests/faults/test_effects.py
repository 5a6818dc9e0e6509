"""The run under fire and its verdict; the long version is `make soak`."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from tests.faults import effects
from tests.faults.effects import End, forgotten_too_many, not_exercised, violations
from tests.integration.rabbit import needs_rabbitmq

GOOD = [
    End("requeue", "SUCCESS", skipped=False, error="", effects=1, ends=("SUCCESS",)),
    End("raise", "SUCCESS", skipped=False, error="", effects=1, ends=()),
    End("skip", "SUCCESS", skipped=True, error="", effects=0, ends=("SUCCESS",)),
    End("raise", "FAILURE", skipped=False, error="LockContended", effects=0, ends=("FAILURE", "FAILURE")),
    End("requeue", "FAILURE", skipped=False, error="LockLost", effects=1, ends=("FAILURE",)),
    End("skip", "FAILURE", skipped=False, error="QuorumUnavailable", effects=0, ends=("FAILURE",)),
]
BAD = [
    (End("requeue", "STARTED", skipped=False, error="", effects=1, ends=()), "has no end"),
    (End("skip", "SUCCESS", skipped=False, error="", effects=0, ends=("SUCCESS",)), "succeeded and has 0 effects"),
    (End("skip", "SUCCESS", skipped=False, error="", effects=2, ends=("SUCCESS",)), "has 2 effects"),
    (End("skip", "SUCCESS", skipped=True, error="", effects=1, ends=("SUCCESS",)), "was skipped and has 1"),
    (End("raise", "FAILURE", skipped=False, error="LockContended", effects=1, ends=()), "was refused and has 1"),
    (End("skip", "SUCCESS", skipped=False, error="", effects=1, ends=("FAILURE", "SUCCESS")), "has several ends"),
    (End("requeue", "SUCCESS", skipped=True, error="", effects=0, ends=("SUCCESS",)), "by the mode requeue"),
    (
        End("requeue", "FAILURE", skipped=False, error="LockContended", effects=0, ends=()),
        "refused by the mode requeue",
    ),
    (
        End("requeue", "FAILURE", skipped=False, error="WorkerLostError", effects=0, ends=()),
        "another reason: WorkerLost",
    ),
    (End("skip", "FAILURE", skipped=False, error="NotHeld", effects=0, ends=()), "reason: NotHeld"),
    (End("requeue", "FAILURE", skipped=False, error="QuorumUnavailable", effects=0, ends=()), "by the mode requeue"),
    (End("skip", "FAILURE", skipped=False, error="QuorumUnavailable", effects=1, ends=()), "was refused and has 1"),
    (End("requeue", "REVOKED", skipped=False, error="", effects=0, ends=()), "reason: REVOKED"),
]


def test_good_ends_are_no_violation() -> None:
    assert violations({f"task-{number}": end for number, end in enumerate(GOOD)}) == []


@pytest.mark.parametrize(("end", "said"), BAD, ids=[said for _, said in BAD])
def test_each_kind_of_wrong_end_is_a_violation(end: End, said: str) -> None:
    assert any(said in what for what in violations({"task-1": end}))


def test_a_loss_without_a_death_is_a_violation() -> None:
    figures = Counter({"worker SIGKILL": 2, "broker restart": 1, "forgotten by the broker": 5})
    assert forgotten_too_many(figures) == []
    figures["forgotten by the broker"] += 1
    assert forgotten_too_many(figures) == ["6 tasks are lost, at most 5 explained"]


def test_a_long_run_without_a_fault_proves_nothing() -> None:
    names = ["child SIGKILL", "child SIGTERM", "worker SIGKILL", "warm shutdown", "cold shutdown", "broker restart"]
    figures = Counter({*names, "log: requeued", "skipped", "FAILURE LockContended"})
    assert not_exercised(figures, 2_000) == []
    del figures["cold shutdown"]
    assert not_exercised(figures, 2_000) == ["cold shutdown never happened"]
    assert not_exercised(figures, 150) == []


@pytest.mark.long
@pytest.mark.timeout(500)
@pytest.mark.parametrize(
    "kind", ["redis", pytest.param("classic", marks=needs_rabbitmq), pytest.param("quorum", marks=needs_rabbitmq)]
)
def test_killed_workers_lose_no_task_and_double_no_effect(tmp_path: Path, kind: str) -> None:
    outcome = effects.run(kind, 150, 6.0, 7, tmp_path)
    assert outcome.violations == []
    assert outcome.figures["broker restart"] == effects.RESTARTS
