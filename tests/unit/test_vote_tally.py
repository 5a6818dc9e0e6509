"""`redlock._core.vote_tally`: votes count as they arrive, and late votes do not count."""

from __future__ import annotations

import itertools

import pytest

from redlock._core.commands import Inspect, Round, Wait
from redlock._core.vote_tally import VoteTally, is_counted, is_decided, unasked
from redlock._core.votes import UNANSWERED, silent
from tests.unit.helpers import ABSENT, DEAD, NAMES, attempt, denied, granted, round_result

KINDS = [granted(), denied(), ABSENT, DEAD, UNANSWERED]


def tally(wait: Wait = Wait.ALL, nodes: int = 5) -> VoteTally:
    return VoteTally(Round(Inspect(NAMES), wait), nodes, 1_000)


@pytest.mark.parametrize("nodes", [1, 2, 3, 4, 5])
def test_it_is_over_exactly_when_the_votes_say_so(nodes: int) -> None:
    for votes in itertools.product(KINDS, repeat=nodes):
        for wait in Wait:
            one = tally(wait, nodes)
            for place, vote in enumerate(votes):
                one.cast(place, vote)
            said = round_result(*votes)
            right = {
                Wait.DECIDED: is_decided(said.granted, said.unanswered, said.quorum),
                Wait.COUNTED: is_counted(said.granted, said.denied, said.unanswered, said.quorum),
                Wait.ALL: said.unanswered == 0,
                Wait.SENT: True,
            }
            assert one.is_over is right[wait]
            assert one.is_lost is (said.granted < said.quorum and said.unanswered > 0)
            assert one.close(1_005) == said


def test_before_the_first_answer_everybody_is_unanswered() -> None:
    assert tally().close(1_005).votes == (UNANSWERED,) * 5


def test_a_node_that_nobody_waited_for_may_still_vote() -> None:
    one = tally(Wait.DECIDED)
    for place in range(5):
        one.cast(place, silent("suspect"))
    assert one.is_over
    for place in range(3):
        one.cast(place, granted())
    said = one.close(1_005)
    assert said.won
    assert one.is_over


def test_a_lost_connection_changes_no_vote_that_was_cast() -> None:
    one = tally()
    one.cast(0, granted())
    for place in range(5):
        one.record_silence(place, "connection reset")
    assert one.is_over
    assert one.close(1_005).votes == (granted(), *[silent("connection reset")] * 4)


def test_what_is_missed_after_the_end_changes_nothing() -> None:
    one = tally()
    said = one.close(1_005)
    one.record_silence(0, "connection reset")
    assert one.votes == list(said.votes)


def test_a_node_that_is_cast_twice_is_one_answer() -> None:
    """Its connection ends while it is asked, and then the driver says why it has no vote."""
    one = tally()
    one.record_silence(0, "the node closed the connection")
    one.cast(0, silent("the node closed the connection"))
    for place in (1, 2, 3):
        one.cast(place, granted())
    assert not one.is_over
    one.cast(4, denied())
    assert one.is_over


def test_a_token_above_the_proposal_is_doubted() -> None:
    acquire = attempt()
    assert VoteTally(Round(acquire), 5, 0).most_fence == acquire.proposed
    assert tally().most_fence >= 2**63 - 1, "the largest integer of a reply"


@pytest.mark.parametrize(
    ("fences", "is_over"),
    [
        ([], False),
        ([9, 9], False),
        ([9, 9, 9], True),
        ([9, 9, 10, 9], True),
        ([9, 9, 10, 10], False),
        ([6, 7, 8, 9, 10], True),
    ],
)
def test_a_quorum_with_one_token_ends_the_doubt(fences: list[int], is_over: bool) -> None:
    one = tally()
    one.doubted = {place: granted(fence) for place, fence in enumerate(fences)}
    assert one.is_doubt_over is is_over


def test_a_round_that_was_not_sent_has_no_votes_but_a_reason() -> None:
    said = unasked(Round(Inspect(NAMES)), 3, 1_000, "no connection")
    assert said == round_result(*[silent("no connection")] * 3, sent_ms=1_000, done_ms=1_000)


def test_a_new_tally_has_no_waiter() -> None:
    """A connection reports the votes of a tally to its waiter, if there is one."""
    assert tally().on_news is None
