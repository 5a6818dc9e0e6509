"""A long campaign: `python -m tests.fuzz --minutes 60 [--target NAME] [--seed N]`.

The minutes are CPU time, so that a busy machine makes a campaign longer and not smaller. An input that fails is written
to `tests/fuzz/cases`, where `make test` tries it for ever after, and ends the campaign.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import resource
import time
from pathlib import Path

from hypothesis import HealthCheck, Phase, given, seed, settings

from tests.fuzz.inputs import REPLIES
from tests.fuzz.targets import TARGETS

CASES = Path(__file__).parent / "cases"
_AT_ONCE = {"parse": 1_000, "converse": 100, "without-quorum": 100, "greeted": 100, "looped": 100}


def _campaign(target: str, number: int) -> int:
    """A run of Hypothesis; returns the number of inputs."""
    tried = 0
    last: list[bytes] = []

    @seed(number)
    @settings(
        max_examples=_AT_ONCE[target],
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.generate, Phase.shrink],
    )
    @given(REPLIES)
    def run(sent: list[bytes]) -> None:
        nonlocal tried, last
        tried, last = tried + 1, sent
        TARGETS[target](sent)

    try:
        run()
    except BaseException:
        # The last input is the smallest input that fails.
        text = json.dumps({"target": target, "sent": [piece.hex() for piece in last]}, indent=1)
        name = hashlib.sha256(text.encode()).hexdigest()[:12]
        CASES.mkdir(exist_ok=True)
        (CASES / f"{target}-{name}.json").write_text(text + "\n")
        raise
    return tried


def main() -> None:
    """Try inputs until the time is over; report after each seed."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz")
    parser.add_argument("--minutes", type=float, default=60, help="of CPU time")
    parser.add_argument("--target", choices=TARGETS)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    tried = dict.fromkeys([options.target] if options.target else TARGETS, 0)
    number = options.seed
    while time.process_time() < options.minutes * 60:
        for target in tried:
            tried[target] += _campaign(target, number)
        largest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
        print(
            f"seeds {options.seed} to {number}: {tried}, no finding; {time.process_time():.0f} s of CPU, "
            f"{largest} MB at most",
            flush=True,
        )
        number += 1


if __name__ == "__main__":
    main()
