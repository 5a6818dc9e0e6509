"""Holders that are frozen for longer than their lease, again and again; the long version is `tests.faults.freeze`."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults import freeze, freeze_sql


@pytest.mark.long
def test_the_fence_saves_holders_frozen_past_their_lease(tmp_path: Path) -> None:
    came_to = freeze.run(7, seconds=12, ttl=1.0, freeze=2.5, directory=tmp_path)
    assert came_to.violations == []
    assert came_to.freezes >= 3, "hardly anybody was frozen"
    assert came_to.refused >= 1, "no frozen holder came back with a stale write, so nothing was shown"


@pytest.mark.long
def test_frozen_holders_lose_nothing_in_postgresql() -> None:
    """The long version is in `make soak`: `python -m tests.faults.freeze_sql --freezes 50`."""
    without, fenced = freeze_sql.experiment(freezes=15, seed=3)
    assert fenced.lost == 0
    assert fenced.done >= 15
    assert without.lost + fenced.refused >= 1, "no frozen holder wrote late, so nothing was shown"
