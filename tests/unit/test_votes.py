"""`redlock._core.votes`: the words and the arithmetic."""

from __future__ import annotations

import itertools
from fractions import Fraction

import pytest

from redlock._core.commands import Acquire, Confirm, Extend, Release, Repair, Round
from redlock._core.vote_tally import is_counted, is_decided
from redlock._core.votes import (
    UNANSWERED,
    Kind,
    Refusal,
    RoundResult,
    Vote,
    deadline_ms,
    drift_ms,
    masked_token,
    quarantine_ms,
    quorum_of,
    silent,
    timed_out,
)
from redlock.fencing._arguments import Given
from tests.unit.helpers import ABSENT, DEAD, OTHER, SECRET, TOKEN, denied, grant, granted, round_result

ABSTAINS = silent("restarted")._replace(remaining_ms=5_000)


@pytest.mark.parametrize("nodes", range(1, 10))
def test_any_two_quorums_share_a_node_and_no_smaller_number_does(nodes: int) -> None:
    assert 2 * quorum_of(nodes) > nodes
    assert 2 * (quorum_of(nodes) - 1) <= nodes


@pytest.mark.parametrize("nodes", range(1, 10))
def test_a_round_is_decided_once_no_vote_can_change_its_result(nodes: int) -> None:
    quorum = quorum_of(nodes)
    for granted_, unanswered in itertools.product(range(nodes + 1), repeat=2):
        if granted_ + unanswered > nodes:
            continue
        outcomes = {granted_ + more >= quorum for more in range(unanswered + 1)}
        assert is_decided(granted_, unanswered, quorum) == (len(outcomes) == 1), (granted_, unanswered)


@pytest.mark.parametrize("nodes", range(1, 10))
def test_a_round_is_counted_once_its_quorum_can_not_change(nodes: int) -> None:
    quorum = quorum_of(nodes)
    for yes, no in itertools.product(range(nodes + 1), repeat=2):
        for unanswered in range(nodes - yes - no + 1):
            ends = {
                (yes + more >= quorum, no + unanswered_no >= quorum)
                for more in range(unanswered + 1)
                for unanswered_no in range(unanswered - more + 1)
            }
            if is_counted(yes, no, unanswered, quorum):
                assert len(ends) == 1, (yes, no, unanswered)
            elif len(ends) == 1:
                assert ends == {(False, False)}, "only where nobody can win any more it may wait for nothing"


def test_a_round_that_every_node_has_answered_is_counted() -> None:
    """A release that splits the nodes has no quorum on either side, and must end all the same."""
    assert is_counted(2, 2, 0, quorum_of(5))
    assert not is_counted(2, 2, 1, quorum_of(5))


def test_two_clients_never_win_the_same_nodes() -> None:
    for nodes in range(1, 10):
        for ours in range(nodes + 1):
            mine = round_result(*[granted()] * ours, *[denied()] * (nodes - ours))
            theirs = round_result(*[denied()] * ours, *[granted()] * (nodes - ours))
            assert not (mine.won and theirs.won)


def test_drift_is_one_percent_and_two_milliseconds_rounded_up() -> None:
    for ttl_ms in range(10_001):
        exact = Fraction(ttl_ms, 100) + 2
        assert exact <= drift_ms(ttl_ms) < exact + 1


@pytest.mark.parametrize("ttl_ms", [204, 1_000, 1_001, 5_000, 9_999])
def test_the_deadline_comes_before_the_keys_can_expire(ttl_ms: int) -> None:
    parts = [Fraction(0), Fraction(1, 2), Fraction(999_999, 1_000_000)]
    exact_drift = Fraction(ttl_ms, 100) + 2
    for sent, now in itertools.product(parts, repeat=2):
        last_reading = deadline_ms(ttl_ms, sent_ms=1_000) - 1
        really_sent, really_now = 1_000 + sent, last_reading + now
        assert really_now < really_sent + ttl_ms - exact_drift


def test_rounding_costs_a_deadline_at_most_two_milliseconds() -> None:
    for ttl_ms in range(204, 5_000):
        exact = 1_000 + ttl_ms - Fraction(ttl_ms, 100) - 2
        assert exact - 2 <= deadline_ms(ttl_ms, sent_ms=1_000) <= exact - 1


def test_a_quarantine_lasts_longer_than_every_forgotten_lease() -> None:
    for ttl_ms in (204, 5_000, 10_000):
        assert quarantine_ms(10_000) >= ttl_ms + drift_ms(ttl_ms)


@pytest.mark.parametrize(
    ("fences", "agreed"),
    [
        ([7, 7, 7], 7),
        ([7, 7, 7, 7, 7], 7),
        ([7, 7, 7, 6, 5], 7),
        ([7, 7, 7, 8], None),
        ([7, 7, 6, 6, 6], None),
        ([7, 7], None),
        ([5, 6, 7, 8, 9], None),
        ([], None),
    ],
)
def test_fences_agree_if_a_quorum_reports_the_largest_number(fences: list[int], agreed: int | None) -> None:
    votes = [granted(fence) for fence in fences]
    assert round_result(*votes, *[DEAD] * (5 - len(votes))).agreed_fence == agreed


def test_with_an_even_number_of_nodes_half_of_them_do_not_agree() -> None:
    assert round_result(granted(7), granted(7), granted(6), granted(6)).agreed_fence is None


def test_the_largest_fence_includes_the_fences_of_denials() -> None:
    assert round_result(granted(7), denied(fence=9), DEAD).largest_fence == 9


def test_the_holder_is_the_one_that_most_denying_nodes_named() -> None:
    assert round_result(denied("a"), denied("b"), denied("b"), granted(), DEAD).holder == "b"
    assert round_result(denied("c"), denied("b"), denied("b"), granted(), DEAD).holder == "b"


@pytest.mark.parametrize("vote", [granted(), ABSENT, DEAD, UNANSWERED])
def test_where_nobody_named_a_holder_there_is_none(vote: Vote) -> None:
    nobody = round_result(*[vote] * 5)
    assert nobody.holder is None
    assert not nobody.held_by_a_quorum


@pytest.mark.parametrize(
    ("votes", "held"),
    [
        ([denied(), denied(), denied(), DEAD, DEAD], True),
        ([denied(), denied(), denied("x"), DEAD, DEAD], False),
        ([denied(), denied(), denied(), denied("x"), DEAD], True),
        ([ABSTAINS, ABSTAINS, ABSTAINS, granted(), DEAD], False),
        ([granted()], False),
        ([denied(), denied(), ABSENT, ABSENT, ABSENT], False),
        ([denied(), denied(), granted(), granted(), DEAD], False),
        ([denied(), denied(), granted(), granted()], False),
        ([denied()], True),
        ([denied(), UNANSWERED, UNANSWERED, DEAD, DEAD], True),
        ([denied(), denied(), UNANSWERED, UNANSWERED], True),
        ([denied(), denied("x"), UNANSWERED, UNANSWERED, UNANSWERED], False),
        ([denied(), granted(), UNANSWERED, UNANSWERED, UNANSWERED], False),
        ([denied(), UNANSWERED, DEAD, DEAD, DEAD], False),
        ([UNANSWERED] * 5, False),
        ([DEAD] * 3, False),
        # A denied extension of an absent key has neither a holder nor a remaining time.
        ([denied("", None)] * 5, False),
        ([denied("", 50)] * 5, True),
    ],
)
def test_only_the_same_holder_on_a_quorum_counts_as_held(votes: list[Vote], held: bool) -> None:
    assert round_result(*votes).held_by_a_quorum is held


@pytest.mark.parametrize(
    ("votes", "free_in_ms"),
    [
        ([denied(remaining_ms=300), denied(remaining_ms=100), denied(remaining_ms=200), DEAD, DEAD], 300),
        ([denied(remaining_ms=300), denied(remaining_ms=100), denied(remaining_ms=200), granted(), DEAD], 200),
        ([denied(remaining_ms=300), denied(remaining_ms=100), ABSENT, granted(), DEAD], 100),
        ([denied(remaining_ms=300), granted(), granted(), granted(), DEAD], 0),
        ([denied(remaining_ms=None), denied(remaining_ms=100), denied(remaining_ms=200), DEAD, DEAD], None),
        ([denied(remaining_ms=None), denied(remaining_ms=100), denied(remaining_ms=200), granted(), DEAD], 200),
        ([denied(remaining_ms=100), denied(remaining_ms=100), DEAD, DEAD, UNANSWERED], None),
    ],
)
def test_free_in_is_when_a_quorum_of_nodes_could_be_free(votes: list[Vote], free_in_ms: int | None) -> None:
    assert round_result(*votes).free_in_ms == free_in_ms


def test_free_in_agrees_with_letting_the_keys_run_out_one_by_one() -> None:
    choices = [granted(), ABSENT, DEAD, denied(remaining_ms=1), denied(remaining_ms=2), denied(remaining_ms=None)]
    for votes in itertools.product(choices, repeat=4):

        def free_at(time_ms: int, votes: tuple[Vote, ...] = votes) -> int:
            gone = [vote for vote in votes if vote.remaining_ms is not None and vote.remaining_ms <= time_ms]
            return len(gone) + votes.count(granted())

        times = [time_ms for time_ms in (0, 1, 2) if free_at(time_ms) >= 3]
        assert round_result(*votes).free_in_ms == (times[0] if times else None), votes


@pytest.mark.parametrize(
    ("votes", "reachable"),
    [
        ([granted(), denied(), ABSENT, DEAD, DEAD], True),
        ([granted(), UNANSWERED, UNANSWERED, DEAD, DEAD], True),
        ([granted(), granted(), DEAD, DEAD, DEAD], False),
        ([granted(), granted(), DEAD, DEAD], False),
        ([DEAD], False),
    ],
)
def test_a_quorum_is_reachable_if_enough_nodes_may_vote(votes: list[Vote], reachable: bool) -> None:
    assert round_result(*votes).reachable is reachable


def test_silence_is_neither_yes_nor_no() -> None:
    votes = round_result(granted(), granted(), DEAD, DEAD, DEAD)
    assert (votes.won, votes.held_by_a_quorum, Refusal(votes).no_quorum) == (False, False, True)


def test_a_round_that_is_won_too_late_is_no_missing_quorum() -> None:
    assert not Refusal(round_result(*[granted()] * 5), expired=True).no_quorum


def test_the_ballot_shows_the_votes_in_the_nodes_order() -> None:
    assert round_result(granted(), denied(), DEAD, UNANSWERED, granted()).votes_text == "GDS.G"


def test_only_nodes_that_may_vote_and_have_no_key_are_missing_it() -> None:
    assert round_result(granted(), ABSENT, DEAD, UNANSWERED, denied(), ABSENT).missing == (1, 5)


@pytest.mark.parametrize(
    ("fences", "backed"),
    [
        ((7, 7, 7, 7, 7), 7),
        ((9, 8, 7, 6, 5), 7),
        ((7, 7, 7, 2**60, 2**60), 7),
        ((9, 9, 9, 0, 0), 9),
        ((2**60, 0, 0, 0, 0), 0),
    ],
)
def test_a_minority_of_nodes_invents_no_token(fences: tuple[int, ...], backed: int) -> None:
    assert round_result(*map(granted, fences)).backed_fence == backed


def test_a_node_with_another_configuration_is_given_by_place() -> None:
    other_terms = Vote(Kind.SILENT, reason="its clients agreed on other terms", fingerprint="nodes=3")
    assert round_result(granted(), DEAD, other_terms).disagreement == 2
    assert round_result(granted(), DEAD).disagreement is None


def test_no_answer_and_no_answer_yet_are_told_apart() -> None:
    votes = round_result(silent("refused"), UNANSWERED, granted())
    assert (votes.unanswered, votes.granted) == (1, 1)


def test_a_masked_token_shows_the_label_and_eight_digits() -> None:
    assert masked_token(TOKEN) == "task-1@host-a (01234567)"


def test_who_may_hold_colons() -> None:
    assert masked_token(f"{SECRET}:job:7@host") == "job:7@host (01234567)"


@pytest.mark.parametrize(
    "token",
    [
        TOKEN,
        SECRET,
        f"{SECRET}:",
        f":{SECRET}",
        f"host-b:{SECRET}",
        f"lock:host-b:{SECRET}",
        f"{SECRET}:{SECRET}",
    ],
)
def test_a_masked_token_never_shows_more_than_eight_digits(token: str) -> None:
    assert SECRET[:9] not in masked_token(token)


@pytest.mark.parametrize(
    ("value", "shown"),
    [("482913", "4..."), ("x", "..."), ("", "..."), ("s3cret-2", "s3..."), ("0123456789abcdef" * 2, "01234567...")],
)
def test_a_value_of_another_program_shows_a_quarter_at_most(value: str, shown: str) -> None:
    assert masked_token(value) == shown


def test_votes_and_round_results_cannot_be_changed() -> None:
    votes: RoundResult = round_result(denied(OTHER))
    with pytest.raises(AttributeError):
        votes.votes[0].fence = 9  # type: ignore[misc]


@pytest.mark.parametrize(
    ("votes", "looks_won"),
    [
        ([granted(), granted(), UNANSWERED, denied(), denied()], True),
        ([granted(), granted(), timed_out("late"), denied(), denied()], True),
        ([granted(), granted(), DEAD, denied(), denied()], False),
        ([timed_out("late"), granted(), denied(), denied(), denied()], False),
    ],
)
def test_an_attempt_may_look_won_by_what_was_not_heard(votes: list[Vote], looks_won: bool) -> None:
    assert round_result(*votes).may_look_won is looks_won


def test_a_node_has_answered_if_it_voted_or_told_its_time() -> None:
    abstains, unheard = silent("abstains")._replace(time_ms=1), timed_out("late")
    assert round_result(granted(), denied(), abstains, unheard, DEAD).answered == 3
    assert round_result(DEAD, DEAD, UNANSWERED).answered == 0


@pytest.mark.parametrize(
    ("votes", "only_reserved"),
    [
        ([denied("", 50), denied("", 50), granted()], True),
        ([denied("", 50), denied(), granted()], False),
        ([granted(), granted(), DEAD], False),
        ([DEAD, UNANSWERED, silent("abstains")], False),
    ],
)
def test_a_lock_is_only_reserved_if_no_node_names_a_holder(votes: list[Vote], only_reserved: bool) -> None:
    assert round_result(*votes).is_only_reserved is only_reserved


def test_what_is_shown_of_a_grant_has_no_secret() -> None:
    shown = repr(grant())
    assert shown == "Grant(('account:42',), 'task-1@host-a (01234567)', fence=7, deadline_ms=5947)"
    assert SECRET not in shown


def test_what_is_shown_of_a_vote_has_all_its_fields() -> None:
    assert repr(timed_out("late")) == (
        "Vote(kind=<Kind.SILENT: 'S'>, fence=0, holder='', remaining_ms=None, reason='late', unanswered=False, "
        "fingerprint='', time_ms=0, timed_out=True, same_as='')"
    )


@pytest.mark.parametrize(
    "value",
    [
        Vote(Kind.DENIED, holder=TOKEN),
        Refusal(RoundResult((Vote(Kind.DENIED, holder=TOKEN),), 0, 5)),
        Acquire(("a",), TOKEN, 5_000, 1),
        Round(Confirm(("a",), TOKEN, 1)),
        Extend(("a",), TOKEN, 5_000),
        Repair(("a",), TOKEN, 5_000, 1),
        Release(("a",), TOKEN, 0),
        Given(("a",), 1, TOKEN, None, 0),
    ],
    ids=lambda value: type(value).__name__,
)
def test_no_repr_shows_the_secret_of_an_owner_token(value: object) -> None:
    """Error reports can have the local variables of each frame."""
    assert SECRET not in repr(value)
