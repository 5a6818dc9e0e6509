"""The freeze experiment: freezes holders inside their section for longer than their lease, repeatedly.

`python -m tests.faults.freeze --seconds 120 --runs 10` prints a table. TTL 2 s, sections of 0 to 2 s, freezes of 5 s.

Invariants:
1. Two counters have the same locks, the same workers and the same freezes: `ours` uses the fenced store, `control` is
   read and written past the fence.
2. By the history, a frozen process is inside its section at that moment. A run without a refusal of the store proves
   nothing.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from tests.faults.cluster_fixture import ClusterFixture, cluster_fixture
from tests.integration.tools import comes_true

OURS, CONTROL = "ours", "control"
_CHILDREN = 4
_AHEAD = 12


class Outcome(NamedTuple):
    """The result of a run.

    Attributes:
        freezes: How often a holder was frozen.
        written: Updates of the control that were written.
        control_lost: How many of them the control's counter does not show.
        applied: Operations of ours.
        refused: Stale reads and writes that the store refused.
        violations: The violations of the counter `ours` as text.
    """

    freezes: int
    written: int
    control_lost: int
    applied: int
    refused: int
    violations: list[str]


def run(seed: int, seconds: float, ttl: float, freeze: float, directory: Path) -> Outcome:
    """Freeze holders for this long; every freeze lasts `freeze` seconds, every section up to a TTL."""
    chance = random.Random(seed)
    with cluster_fixture(directory) as fixture:
        settings = {"REDLOCK_TTL": str(ttl), "REDLOCK_MAX_TTL": str(2 * ttl), "FAULTS_VISIBILITY": "600"}
        fixture.start_worker(concurrency=_CHILDREN, **settings)
        frozen: dict[int, float] = {}
        freezes = 0
        until = time.monotonic() + seconds

        def is_due() -> bool:
            """Whether there is room in the queue, a holder to freeze, or a frozen process whose time is over."""
            return (
                fixture.waiting() < _AHEAD
                or any(_inside(fixture, name) not in {None, *frozen} for name in (OURS, CONTROL))
                or min(frozen.values(), default=until) <= time.monotonic()
            )

        while (left := until - time.monotonic()) > 0:
            comes_true(is_due, within=left, every=0.05)
            for name, task in ((OURS, "counting.add"), (CONTROL, "counting.control")):
                if fixture.waiting() < _AHEAD:
                    _play(fixture, task, name, ttl)
                victim = _inside(fixture, name)
                if victim is not None and victim not in frozen:
                    time.sleep(chance.uniform(0, 0.2 * ttl))
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(victim, signal.SIGSTOP)
                        frozen[victim] = time.monotonic() + freeze
                        freezes += 1
            _thaw(frozen, time.monotonic())
        _thaw(frozen, float("inf"))
        fixture.settle(within=120)
        return _outcome(fixture, freezes)


def _play(fixture: ClusterFixture, task: str, name: str, ttl: float) -> None:
    if task == "counting.add":
        fixture.play(task, name, ttl)
    else:
        fixture.send(f"tests.faults.apps.{task}", name, ttl)


def _inside(fixture: ClusterFixture, name: str) -> int | None:
    """The process that opened this counter last, if its write has not come yet."""
    steps = [event for event in fixture.history.events("open", "wrote", "stale") if event.fields.get("name") == name]
    return steps[-1].pid if steps and steps[-1].what == "open" else None


def _thaw(frozen: dict[int, float], now: float) -> None:
    for pid in [pid for pid, until in frozen.items() if until <= now]:
        del frozen[pid]
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)


def _outcome(fixture: ClusterFixture, freezes: int) -> Outcome:
    written = [event for event in fixture.history.events("wrote") if event.fields["name"] == CONTROL]
    ours = [event for event in fixture.history.events() if event.fields.get("name") != CONTROL]
    accepted = fixture.accepted()
    lost = len(written) - accepted.counters.pop(CONTROL, 0)
    return Outcome(
        freezes,
        len(written),
        lost,
        len(accepted.writes),
        sum(event.what == "stale" for event in ours),
        fixture.violations(keeps=True, besides={CONTROL}),
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Read the command line, run, print the table; the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults.freeze", description=__doc__)
    parser.add_argument("--seconds", type=float, default=120.0, help="how long a run is")
    parser.add_argument("--runs", type=int, default=10, help="how many, with seeds from --seed on")
    parser.add_argument("--seed", type=int, default=1, help="the first run's")
    given = parser.parse_args(arguments)
    if given.seconds <= 0 or given.runs < 1:
        parser.error("--seconds must be above 0, and --runs 1 or more")
    print(
        f"{'seed':>5}{'freezes':>9}{'control: written':>18}{'lost':>6}{'ours: applied':>15}{'refused':>9}{'wrong':>7}"
    )
    wrong = 0
    for seed in range(given.seed, given.seed + given.runs):
        with tempfile.TemporaryDirectory(prefix="freeze-", ignore_cleanup_errors=True) as directory:
            one = run(seed, given.seconds, 2.0, 5.0, Path(directory))
        wrong += len(one.violations)
        print(
            f"{seed:>5}{one.freezes:>9}{one.written:>18}{one.control_lost:>6}"
            f"{one.applied:>15}{one.refused:>9}{len(one.violations):>7}",
            flush=True,
        )
        for what in one.violations[:10]:
            print(f"      VIOLATION {what}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
