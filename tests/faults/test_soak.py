"""A short soak: all kinds of fault, one after the other; the long version is `make soak`."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults import plan, soak
from tests.faults.fault_injector import KINDS


def test_a_plan_is_the_same_for_the_same_seed_and_has_every_kind() -> None:
    first, again, other = (plan.draw(seed, 300, 3, tuple(KINDS), 1.0) for seed in (1, 1, 2))
    assert first == again
    assert first != other
    assert {fault.kind for fault in first} == set(KINDS)
    assert all(fault.at < 300 for fault in first)


@pytest.mark.long
@pytest.mark.timeout(400)
def test_a_short_soak_loses_nothing_and_doubles_nothing(tmp_path: Path) -> None:
    outcome = soak.soak(3, 45.0, 1.5, tmp_path)
    assert outcome.violations == []
    assert sum(name.startswith("fault: ") for name in outcome.figures) > 10
    assert outcome.figures["applied"] > 300
