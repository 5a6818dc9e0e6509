"""The run under fire and its verdict; the long version is `make soak`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.faults import effects
from tests.faults.effects import End, judged
from tests.integration.rabbit import needs_rabbitmq

if TYPE_CHECKING:
    from pathlib import Path

GOOD = [
    End("SUCCESS", skipped=False, error="", effects=1, ends=("SUCCESS",)),
    End("SUCCESS", skipped=False, error="", effects=1, ends=()),
    End("SUCCESS", skipped=True, error="", effects=0, ends=("SUCCESS",)),
    End("FAILURE", skipped=False, error="LockContended", effects=0, ends=("FAILURE", "FAILURE")),
    End("FAILURE", skipped=False, error="LockLost", effects=1, ends=("FAILURE",)),
]
BAD = [
    (End("STARTED", skipped=False, error="", effects=1, ends=()), "has no end"),
    (End("SUCCESS", skipped=False, error="", effects=0, ends=("SUCCESS",)), "succeeded and has 0 effects"),
    (End("SUCCESS", skipped=False, error="", effects=2, ends=("SUCCESS",)), "has 2 effects"),
    (End("SUCCESS", skipped=True, error="", effects=1, ends=("SUCCESS",)), "was skipped and has 1"),
    (End("FAILURE", skipped=False, error="LockContended", effects=1, ends=()), "was refused and has 1"),
    (End("SUCCESS", skipped=False, error="", effects=1, ends=("FAILURE", "SUCCESS")), "has several ends"),
]


def test_good_ends_are_no_violation() -> None:
    assert judged({f"task-{number}": end for number, end in enumerate(GOOD)}) == []


@pytest.mark.parametrize(("end", "said"), BAD, ids=[said for _, said in BAD])
def test_each_kind_of_wrong_end_is_a_violation(end: End, said: str) -> None:
    assert any(said in what for what in judged({"task-1": end}))


@pytest.mark.long
@pytest.mark.timeout(500)
@pytest.mark.parametrize(
    "kind", ["redis", pytest.param("classic", marks=needs_rabbitmq), pytest.param("quorum", marks=needs_rabbitmq)]
)
def test_killed_workers_lose_no_task_and_double_no_effect(tmp_path: Path, kind: str) -> None:
    outcome = effects.run(kind, 150, 6.0, 7, tmp_path)
    assert outcome.violations == []
    assert outcome.figures["broker restart"] == effects.RESTARTS
