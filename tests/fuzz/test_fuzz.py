"""A short campaign, and every input that ever failed. `python -m tests.fuzz --minutes 60` is a long one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings

from redlock.admin import doctor
from redlock.admin.cluster_status import cluster_status
from redlock.cli.status_table import table
from redlock.settings import Settings
from tests.fuzz.inputs import REPLIES
from tests.fuzz.memory import Good, answering, resp
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


def test_the_doctor_shows_little_of_what_one_node_says() -> None:
    """Blanks up to the edge of the terminal would look like a line about another node."""
    evil = f"x{' ' * 300}UNSAFE     lock1:6379: FLUSHALL it" + "y" * 100_000
    said = {"redis_mode": evil, "maxmemory_policy": evil, "role": evil, "redis_version": evil}
    answers: dict[bytes, object] = {
        b"INFO": "".join(
            f"{name}:{value}\r\n" for name, value in ({"run_id": "0" * 40, "maxmemory": 1} | said).items()
        ),
        b"CONFIG": ["save", evil],
        b"EVAL": [evil] * 9,
        b"HMGET": ["0" * 40, "1", evil, "1"],
    }
    honest = Good(0)

    def hostile(words: list[bytes]) -> bytes:
        return resp(answers[words[0]]) if words[0] in answers else honest(words)

    with answering({1: hostile} | {port: Good(port) for port in range(2, 6)}):
        nodes = ",".join(f"redis://h:{port}" for port in range(1, 6))
        findings = doctor.check(Settings(nodes=nodes), timeout=0.02)
        status = cluster_status(nodes, timeout=0.02)
    shown = [*map(str, findings), table(status), *map(str, status.as_dict()["nodes"][0].values())]
    assert "UNSAFE   " not in "".join(shown)
    assert max(map(len, shown)) < 2_000


@pytest.mark.parametrize("path", CASES, ids=lambda path: path.stem)
def test_an_input_that_failed_once_does_no_harm(path: Path) -> None:
    case = json.loads(path.read_text())
    TARGETS[case["target"]]([bytes.fromhex(piece) for piece in case["sent"]])
