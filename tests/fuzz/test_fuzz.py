"""A short campaign, and every input that ever failed. `python -m tests.fuzz --minutes 60` is a long one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings

from tests.fuzz.inputs import REPLIES
from tests.fuzz.targets import TARGETS

CASES = sorted((Path(__file__).parent / "cases").glob("*.json"))
EXAMPLES = {"parse": 60, "converse": 25, "without-quorum": 15, "greeted": 25, "looped": 15}


@pytest.mark.parametrize("target", TARGETS)
def test_hostile_replies_raise_only_what_is_documented(target: str) -> None:
    @settings(max_examples=EXAMPLES[target], deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(REPLIES)
    def campaign(sent: list[bytes]) -> None:
        TARGETS[target](sent)

    campaign()


@pytest.mark.parametrize("path", CASES, ids=lambda path: path.stem)
def test_an_input_that_failed_once_does_no_harm(path: Path) -> None:
    case = json.loads(path.read_text())
    TARGETS[case["target"]]([bytes.fromhex(piece) for piece in case["sent"]])
