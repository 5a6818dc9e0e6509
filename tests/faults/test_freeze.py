"""Holders that are frozen for longer than their lease, again and again; the long version is `tests.faults.freeze`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.faults import freeze

if TYPE_CHECKING:
    from pathlib import Path


def test_holders_that_are_frozen_past_their_lease_lose_nothing_through_the_fence(tmp_path: Path) -> None:
    came_to = freeze.run(7, seconds=12, ttl=1.0, freeze=2.5, directory=tmp_path)
    assert came_to.violations == []
    assert came_to.freezes >= 3, "hardly anybody was frozen"
    assert came_to.refused >= 1, "no frozen holder came back with a stale write, so nothing was shown"
