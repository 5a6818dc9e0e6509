"""The worked example in a short run; the long version is in `make soak`."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults import transfers
from tests.integration.pages import blocks
from tests.integration.tools import ROOT


@pytest.mark.parametrize(
    "kind",
    [pytest.param(kind, marks=pytest.mark.long(ci=kind == transfers.KINDS[0])) for kind in transfers.KINDS],
)
def test_killed_and_frozen_workers_lose_no_money(kind: str, tmp_path: Path) -> None:
    outcome = transfers.run(kind, 15, 3, tmp_path)
    assert outcome.violations == []
    assert outcome.figures["freeze"] + outcome.figures["child killed"] >= 1


@pytest.mark.long
def test_the_readme_of_the_example_is_right(tmp_path: Path) -> None:
    (block,) = (block for block in blocks(ROOT / "examples" / "transfers" / "README.md") if block.kind == "python")
    with transfers.Run(transfers.KINDS[0], tmp_path, 1) as example:
        example.crew.staff()
        assert example.python("-c", block.text).split() == ["70", "30"]
