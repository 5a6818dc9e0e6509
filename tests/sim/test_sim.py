"""Tests of the simulator: runs repeat, cover enough, find each planted bug, and find no bug in the shipped source."""

from __future__ import annotations

import builtins
import gc
import os
import subprocess
import sys
import weakref
from pathlib import Path

import pytest

from tests.sim import checks, mutant_search, mutants, options, run
from tests.sim.mutants import NAMED
from tests.sim.nodes import Lua
from tests.sim.records import Lease
from tests.sim.schedule import Schedule
from tests.sim.source import Package, Source, Variant, changed_texts, scripts

ROOT = Path(__file__).parents[2]
SEEDS = (0, 1, 56, 57)
ELSEWHERE = (0, 1, 12)
FOUND = (434, 4944, 20_102_909, 20_663_912)
"""A client that could not close without a free descriptor. A reply of a simulated node that was cut. A command of a
killed client with other settings, which came after the operator had repaired the only node. An attempt that was logged
as acquired, and then cancelled because no thread could renew its lease.
"""

BROKEN = {
    "quarantine off": "no quarantine",
    "drift off": "no drift allowance",
    "fence off": "open takes every token",
    "read without token": "the read raises no token",
}
"""The assumptions, each by the mutant that breaks the assumption."""

QUICK = {
    "a quorum that is no majority": 0,
    "a reply belongs to the youngest command": 1,
    "a closed connection is not noticed": 4,
    "SET without looking": 0,
    "woken clients take what is held": 2,
    "the fence is not kept": 3,
    "a reservation that never ends": 5,
    "release of whatever is there": 2,
    "no memory of operations": 3,
}
"""Mutants, each with the seed to begin with: one that finds the bug soon."""


def test_some_schedules_have_all_faults_and_keep_promises() -> None:
    faults = {*options.KEEPING, *options.BREAKING}
    total = run.until(lambda total: not total.vacuous and total.struck.keys() >= faults, 262, 100)
    assert total.violations == ()
    assert total.vacuous == []
    assert total.struck.keys() >= faults


def test_a_node_emptied_between_two_votes_has_no_memory() -> None:
    """The node is emptied between the vote for a stopped client and the vote for a client that is granted earlier."""
    node = frozenset({0})
    stopped = Lease("c1", ("a",), 7, began=10, start=50, end=60, answered=node, certificate=node)
    granted = Lease("c2", ("a",), 7, began=30, start=40, end=45, answered=node, certificate=node)
    assert checks.tokens([stopped, granted], {0: [20]}, always=False) == []
    assert checks.tokens([stopped, granted], {0: [5]}, always=False) != []


@pytest.mark.parametrize("seed", SEEDS)
def test_a_seed_gives_the_same_history_twice(source: Source, seed: int) -> None:
    assert Schedule(seed, source).run().hash == Schedule(seed, source).run().hash


@pytest.mark.parametrize("seed", FOUND)
def test_a_seed_that_found_a_fault_breaks_no_promise(source: Source, seed: int) -> None:
    assert Schedule(seed, source).run().world.violations == []


def test_a_seed_gives_the_same_history_in_another_process(source: Source) -> None:
    code = (
        "from tests.sim.run import DRIVERS; from tests.sim.source import Source; s = Source();"
        f"print(*[kind(seed, s).run().hash for kind in DRIVERS.values() for seed in {ELSEWHERE}])"
    )
    hashes = " ".join(kind(seed, source).run().hash for kind in run.DRIVERS.values() for seed in ELSEWHERE)
    another = {"PYTHONHASHSEED": "2" if os.environ.get("PYTHONHASHSEED") == "1" else "1"}
    output = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=os.environ | another, stdout=-1, check=True)
    assert output.stdout.decode().strip() == hashes


@pytest.mark.long
@pytest.mark.parametrize("assumption", BROKEN)
def test_a_broken_assumption_shows_in_few_schedules(assumption: str) -> None:
    found = mutant_search.first_kill(BROKEN[assumption], 3_000)
    assert found is not None
    assert "Error" not in found[1], "a promise was broken, not the simulator"


@pytest.mark.parametrize("name", QUICK)
def test_a_seeded_bug_is_found_at_once(name: str) -> None:
    assert mutant_search.first_kill(name, 500, QUICK[name]) is not None


def test_at_least_forty_mutants_exist_and_each_applies() -> None:
    assert len(mutants.MUTANTS) >= 40
    for pieces in mutants.MUTANTS.values():
        texts = changed_texts(pieces)
        for file, text in texts.items():
            if file.endswith(".py"):
                compile(text, file, "exec")
        if any(file.endswith(".lua") for file in texts):
            Lua(scripts(texts))


@pytest.mark.long
def test_the_tests_named_for_mutants_pass_on_shipped_code() -> None:
    assert mutant_search.named_tests_pass()


@pytest.mark.long
@pytest.mark.parametrize("name", NAMED)
def test_the_test_named_for_a_mutant_fails_on_the_mutant(name: str) -> None:
    assert mutant_search.named_test_fails(name)


def test_a_mutant_whose_text_is_gone_is_noticed() -> None:
    with pytest.raises(ValueError, match="is not once in"):
        Source(Variant("gone", "_core/votes.py", "this is not in the file", ""))


def test_a_python_that_would_use_real_sockets_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """As PyPy, which imports with the function of the interpreter."""
    monkeypatch.setattr(Package, "_import", staticmethod(builtins.__import__))
    with pytest.raises(RuntimeError, match="this Python ignores the import function"):
        Source()


@pytest.mark.long
def test_a_failure_is_shrunk_to_the_faults_that_it_needs() -> None:
    broken = Source(*mutants.MUTANTS["no quarantine"])
    found = mutant_search.first_kill("no quarantine", 3_000)
    assert found is not None
    schedule, before = run.shrink(found[0], broken)
    left = [entry for entry in schedule.world.history if entry[1] == "fault"]
    assert schedule.world.violations
    assert len(left) <= before


def test_a_schedule_leaves_nothing_in_memory(source: Source) -> None:
    world = weakref.ref(Schedule(1, source).run().world)
    gc.collect()
    assert world() is None
