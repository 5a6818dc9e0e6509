"""Schedules of clients for asyncio: they break no promise, and they find planted bugs of the driver."""

from __future__ import annotations

import pytest

from tests.sim import mutant_search, run

QUICK = {
    "a cancelled acquire is not undone": 0,
    "an undo command is not sent": 0,
    "a place in the window is never free again": 0,
    # On an earlier seed this mutant spins, which takes long to find.
    "a release can be cancelled before it is sent": 15,
    "a cancellation from outside is swallowed": 26,
    "a lost lease cancels no block": 24,
    "a blocked loop does not see the end of its lease": 23,
    "a background task has no owner": 0,
    "a timer outlives its client": 23,
}
"""Mutants, each with the seed to begin with: one that finds the bug soon."""


def test_some_asyncio_schedules_break_no_promise() -> None:
    places = {"acquire", "body", "release"}
    total = run.until(
        lambda total: bool(total.two_holders and total.refused and total.struck.keys() >= places), 82, 100, "asyncio"
    )
    assert total.violations == ()
    assert total.two_holders
    assert total.refused
    assert total.struck.keys() >= places, "cancellations strike everywhere"


@pytest.mark.parametrize("name", QUICK)
def test_a_seeded_bug_of_the_asyncio_driver_is_found(name: str) -> None:
    assert mutant_search.first_kill(name, 100, QUICK[name]) is not None
