"""Looks for the schedule, or runs the test, that kills a mutant.

A mutant's test runs on a copy of the source, in its own process. The test counts only if it passes on a copy of the
shipped source.
"""

from __future__ import annotations

import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING

from tests.sim import mutants_asyncio
from tests.sim.async_schedule import AsyncSchedule
from tests.sim.mutants import EQUIVALENT, MUTANTS, NAMED
from tests.sim.schedule import Schedule
from tests.sim.source import Source
from tests.sim.world import Spins

if TYPE_CHECKING:
    from tests.sim.source import Variant

ROOT = Path(__file__).parents[2]
_PASSED, _FAILED = 0, 1
_MOST_OF_AN_EQUIVALENT = 2_000


def _run_on_a_copy(pieces: tuple[Variant, ...], *tests: str) -> int:
    with tempfile.TemporaryDirectory(prefix="mutant-") as directory:
        for folder in ("redlock", "workers", "tests/unit", "tests/sim"):
            shutil.copytree(ROOT / folder, Path(directory) / folder)
        shutil.copy(ROOT / "pyproject.toml", directory)
        for piece in pieces:
            path = Path(directory) / "redlock" / piece.file
            path.write_text(path.read_text().replace(piece.old, piece.new))
        command = [sys.executable, "-m", "pytest", "-q", *tests]
        return subprocess.run(command, cwd=directory, capture_output=True, check=False).returncode


def named_tests_pass() -> bool:
    """Whether all tests that are named for mutants pass on the shipped source."""
    return _run_on_a_copy((), *sorted(set(NAMED.values()))) == _PASSED


def named_test_fails(name: str) -> bool:
    """Whether the test that is named for a mutant fails on that mutant."""
    return _run_on_a_copy(MUTANTS[name], NAMED[name]) == _FAILED


def first_kill(name: str, most: int, first: int = 0) -> tuple[int, str] | None:
    """The first seed from `first` on that kills a mutant, and the reason; None if the mutant survives so many."""
    source, kind = Source(*MUTANTS[name]), AsyncSchedule if name in mutants_asyncio.LIST.mutants else Schedule
    for seed in range(first, first + most):
        try:
            violations = kind(seed, source).run().world.violations
        except (Exception, Spins) as error:  # noqa: BLE001 - a mutant may do anything
            return seed, f"{type(error).__name__}: {error}"
        if violations:
            return seed, violations[0]
    return None


def table(names: Collection[str], most: int) -> int:
    """Print where each of these mutants is killed; 1 if one survives that should not."""
    seeds, left = [], []
    if not named_tests_pass():
        print("a test that is named for a mutant fails on the shipped source too")
        return 1
    for name in names:
        if name in NAMED:
            killed = named_test_fails(name)
            print(f"{'named' if killed else 'SURVIVES':>8}  {name}: {NAMED[name]}", flush=True)
            left += [] if killed else [name]
            continue
        found = first_kill(name, most if name not in EQUIVALENT else min(most, _MOST_OF_AN_EQUIVALENT))
        if found is not None:
            seeds.append(found[0] + 1)
            print(f"{found[0] + 1:>8}  {name}: {found[1][:140]}", flush=True)
        elif name in EQUIVALENT:
            print(f"{'same':>8}  {name}: {EQUIVALENT[name]}", flush=True)
        else:
            print(f"{'SURVIVES':>8}  {name}", flush=True)
            left.append(name)
    median, last = statistics.median(seeds or [0]), max(seeds, default=0)
    print(
        f"{len(names)} mutants: {len(seeds)} killed by schedules, median at {median:.0f}, last at {last}; "
        f"{len(NAMED.keys() & names)} by a named test; {len(EQUIVALENT.keys() & names)} "
        f"change nothing; survivors: {left or 'none'}"
    )
    return int(bool(left))
