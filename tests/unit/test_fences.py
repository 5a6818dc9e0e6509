"""`redlock._core.observed_fences`: tokens are remembered per resource, within bounds."""

from __future__ import annotations

from redlock import Redlock
from redlock._core.observed_fences import FENCE_AHEAD_MS, ObservedFences

WALL_US = 1_700_000_000_000_000
HOUR_US = FENCE_AHEAD_MS * 1_000


def test_a_proposal_is_the_wall_clock_or_above_what_was_observed() -> None:
    fences = ObservedFences()
    assert fences.proposal(("a",), WALL_US) == WALL_US
    assert fences.observe(("a",), WALL_US + 5, WALL_US)
    assert fences.observe(("a",), WALL_US + 3, WALL_US)
    assert fences.proposal(("a",), WALL_US) == WALL_US + 6
    assert fences.proposal(("b", "a"), WALL_US) == WALL_US + 6
    assert fences.proposal(("a",), WALL_US + 100) == WALL_US + 100


def test_a_token_of_one_resource_is_proposed_for_no_other() -> None:
    fences = ObservedFences()
    fences.observe(("a", "b"), WALL_US + 5, WALL_US)
    assert fences.proposal(("c",), WALL_US) == WALL_US
    assert [fences.proposal((name,), WALL_US) for name in ("a", "b")] == [WALL_US + 6] * 2, "each name of the set"


def test_an_implausible_token_is_not_remembered() -> None:
    fences = ObservedFences()
    assert fences.observe(("a",), WALL_US + HOUR_US, WALL_US)
    for fence in (WALL_US + HOUR_US + 1, 2**52 - 1, 2**60):
        assert not fences.observe(("a",), fence, WALL_US)
    assert fences.proposal(("a",), WALL_US) == WALL_US + HOUR_US + 1


def test_memory_is_bounded_and_the_first_are_forgotten() -> None:
    fences = ObservedFences(most=10)
    for number in range(1_000):
        fences.observe((f"r:{number}",), WALL_US + number, WALL_US)
        assert len(fences._largest) <= 10
        assert fences.proposal((f"r:{number}",), 0) == WALL_US + number + 1
    assert fences.proposal(("r:0",), WALL_US) == WALL_US


def test_the_earlier_half_is_forgotten_when_one_more_comes() -> None:
    for fences, most in ((ObservedFences(most=10), 10), (ObservedFences(), 10_000)):
        for number in range(most):
            fences.observe((f"r:{number}",), WALL_US, WALL_US)
        assert len(fences._largest) == most
        fences.observe(("one more",), WALL_US, WALL_US)
        assert list(fences._largest) == [*(f"r:{number}" for number in range(most // 2, most)), "one more"]


def test_a_proposal_counts_for_half_of_max_ttl() -> None:
    """The other half is for clocks that are wrong: a node that lost its fences votes again after `max_ttl`."""
    assert Redlock(ttl=5.0, max_ttl=10.0)._context.fresh_ms == 5_000
