"""`redlock._core.protocol`: the algorithm, answered by hand."""

from __future__ import annotations

import itertools

import pytest

from redlock._core import protocol
from redlock._core.commands import Acquire, Confirm, Extend, Release, Repair, Round, Wait
from redlock._core.protocol import Outcome
from redlock._core.votes import UNANSWERED, Grant, Refusal, RoundResult, Vote, deadline_ms, silent, timed_out
from tests.unit.helpers import (
    ABSENT,
    DEAD,
    DEADLINE_MS,
    NAMES,
    TOKEN,
    TTL_MS,
    attempt,
    denied,
    drive,
    grant,
    granted,
    heard,
    round_result,
)

CANCEL = Release(NAMES, TOKEN, 0)
CANCEL_AND_WAKE = Release(NAMES, TOKEN, TTL_MS)


def test_five_nodes_that_agree_give_a_lease_in_one_round() -> None:
    result, rounds = drive(protocol.acquire(attempt()), round_result(*[granted(7)] * 5))
    assert isinstance(result, Grant)
    assert (result.fence, result.rounds, result.deadline_ms) == (7, 1, DEADLINE_MS)
    assert [round_.command for round_ in rounds] == [attempt()]


@pytest.mark.parametrize(
    "votes",
    [
        [granted(7), granted(7), granted(9), UNANSWERED, UNANSWERED],
        [granted(7), granted(7), granted(7), granted(9), UNANSWERED],
        [granted(1), granted(5), granted(9), DEAD, DEAD],
    ],
)
def test_fences_that_disagree_are_made_to_agree_on_a_larger_one(votes: list[Vote]) -> None:
    result, rounds = drive(
        protocol.acquire(attempt()), round_result(*votes), round_result(*[granted(10)] * 3, DEAD, DEAD)
    )
    assert isinstance(result, Grant)
    assert (result.fence, result.rounds) == (10, 2)
    assert rounds[1].command == Confirm(NAMES, TOKEN, 10)


def test_a_confirm_without_a_quorum_is_cancelled_everywhere() -> None:
    first = round_result(granted(7), granted(8), granted(9), DEAD, DEAD)
    result, rounds = drive(
        protocol.acquire(attempt()), first, round_result(granted(10), granted(10), denied(), DEAD, DEAD)
    )
    assert isinstance(result, Refusal)
    assert rounds[-1].command == CANCEL_AND_WAKE
    assert rounds[-1].wait is Wait.SENT
    assert rounds[-1].to is None


def test_what_took_longer_than_it_is_good_for_is_no_lease() -> None:
    """Of node-redlock: an acquire that returned a lock that had expired."""
    late = round_result(*[granted()] * 5, sent_ms=1_000, done_ms=DEADLINE_MS)
    result, rounds = drive(protocol.acquire(attempt()), late)
    assert isinstance(result, Refusal)
    assert result.expired
    assert not result.no_quorum
    assert rounds[-1].command == CANCEL_AND_WAKE
    in_time, _ = drive(protocol.acquire(attempt()), late._replace(done_ms=DEADLINE_MS - 1))
    assert isinstance(in_time, Grant)


def test_validity_counts_from_before_the_first_of_two_rounds() -> None:
    first = round_result(granted(7), granted(8), granted(9), DEAD, DEAD, sent_ms=1_000, done_ms=3_000)
    second = round_result(*[granted(10)] * 5, sent_ms=3_000, done_ms=4_000)
    result, _ = drive(protocol.acquire(attempt()), first, second)
    assert isinstance(result, Grant)
    assert result.deadline_ms == deadline_ms(TTL_MS, 1_000)
    late, _ = drive(protocol.acquire(attempt()), first, second._replace(done_ms=DEADLINE_MS))
    assert isinstance(late, Refusal)


@pytest.mark.parametrize(
    ("votes", "to"),
    [
        ([denied(), denied(), denied(), UNANSWERED, UNANSWERED], (3, 4)),
        ([granted(), granted(), denied(), denied(), DEAD], (0, 1, 4)),
        ([DEAD] * 5, (0, 1, 2, 3, 4)),
        ([granted(), granted(), DEAD, DEAD, DEAD], (0, 1, 2, 3, 4)),
        ([denied(), denied(), denied(), denied(), timed_out("no answer")], (4,)),
    ],
)
def test_a_lost_attempt_is_cancelled_except_on_denying_nodes(votes: list[Vote], to: tuple[int, ...]) -> None:
    result, rounds = drive(protocol.acquire(attempt()), round_result(*votes))
    assert isinstance(result, Refusal)
    assert [(round_.command, round_.wait, round_.to) for round_ in rounds[1:]] == [(CANCEL, Wait.SENT, to)]


def test_a_single_grant_or_a_split_vote_is_no_quorum() -> None:
    few, _ = drive(protocol.acquire(attempt()), round_result(granted(), DEAD, DEAD, DEAD, denied()))
    split, _ = drive(protocol.acquire(attempt()), round_result(granted(), granted(), denied(), denied(), DEAD))
    assert isinstance(few, Refusal)
    assert isinstance(split, Refusal)
    assert few.no_quorum
    assert not split.no_quorum


def test_a_client_that_a_node_rejects_gets_no_lease() -> None:
    refused = silent("other terms")._replace(fingerprint="nodes=3")
    result, rounds = drive(protocol.acquire(attempt()), round_result(*[granted()] * 3, refused, UNANSWERED))
    assert isinstance(result, Refusal)
    assert result.round_result.disagreement == 3
    assert isinstance(rounds[-1].command, Release)


def test_an_apparent_winner_leaves_a_wake_up_on_its_cancel() -> None:
    """The nodes denied other clients for this attempt, and those clients sleep until a wake-up."""
    refused = silent("other terms")._replace(fingerprint="nodes=3")
    _, rounds = drive(protocol.acquire(attempt()), round_result(*[granted()] * 4, refused))
    assert [round_.command for round_ in rounds[1:]] == [CANCEL_AND_WAKE]


def test_a_loser_that_may_look_won_leaves_a_wake_up() -> None:
    """Two nodes granted, and a third may have granted: another client can take that for a quorum."""
    votes = granted(), granted(), timed_out("no answer"), denied(), DEAD
    _, rounds = drive(protocol.acquire(attempt()), round_result(*votes))
    assert [(round_.command, round_.to) for round_ in rounds[1:]] == [(CANCEL_AND_WAKE, None)]


def test_an_extended_lease_has_the_new_ttl() -> None:
    """Its release leaves a wake-up for so long."""
    extended, _ = drive(protocol.extend(grant(), 9_000), round_result(*[granted(fence=0)] * 5))
    assert isinstance(extended, Grant)
    assert extended.ttl_ms == 9_000
    assert extended.round_result == round_result(*[granted(fence=0)] * 5), "the votes of the last round"
    _, (released,) = drive(protocol.release(extended), round_result(*[granted()] * 5))
    assert isinstance(released.command, Release)
    assert released.command.wake_ms == 9_000


def test_inspect_asks_again_where_too_few_answered() -> None:
    few, enough = round_result(granted(), *[DEAD] * 4), round_result(*[denied()] * 3, DEAD, DEAD)
    assert drive(protocol.inspect("x"), few, enough)[0] is enough
    assert len(drive(protocol.inspect("x"), enough)[1]) == 1


def test_of_all_votes_of_five_nodes_only_a_quorum_gives_a_lease() -> None:
    """The generator makes a single attempt and ends: the next attempt needs its own token."""
    confirmed = round_result(*[granted(9)] * 3, UNANSWERED, UNANSWERED)
    for votes in itertools.product([granted(7), granted(8), denied(), DEAD, UNANSWERED], repeat=5):
        first = round_result(*votes)
        yes = votes.count(granted(7)), votes.count(granted(8))
        agree = yes[1] >= 3 or (yes[0] >= 3 and yes[1] == 0)
        told: list[type] = [Release] if sum(yes) < 3 and votes.count(denied()) < 5 else []
        wanted: list[type] = [Acquire, *told] if sum(yes) < 3 or agree else [Acquire, Confirm]
        result, rounds = drive(protocol.acquire(attempt()), first, *[confirmed] * wanted.count(Confirm))
        assert [type(round_.command) for round_ in rounds] == wanted, votes
        assert isinstance(result, Grant) == (sum(yes) >= 3), votes


def test_a_denial_does_not_choose_the_token() -> None:
    """A node that lies could name a token that the other nodes refuse to exceed."""
    first = round_result(granted(7), granted(8), granted(8), denied(fence=20), DEAD)
    result, rounds = drive(protocol.acquire(attempt()), first, round_result(*[granted(9)] * 3, DEAD, DEAD))
    assert isinstance(result, Grant)
    assert rounds[1].command == Confirm(NAMES, TOKEN, 9)
    assert result.fence == 9


def test_a_confirm_without_answers_is_not_contention() -> None:
    first = round_result(granted(7), granted(8), granted(9), DEAD, DEAD)
    result, _ = drive(protocol.acquire(attempt()), first, round_result(granted(10), granted(10), DEAD, DEAD, DEAD))
    assert isinstance(result, Refusal)
    assert result.no_quorum
    assert not result.expired


def test_a_won_attempt_asks_all_nodes_and_is_not_cancelled() -> None:
    _, rounds = drive(protocol.acquire(attempt()), round_result(*[granted()] * 5))
    assert [(round_.to, round_.wait) for round_ in rounds] == [(None, Wait.DECIDED)]


def test_an_extension_counts_its_deadline_from_before_the_send() -> None:
    steps = protocol.extend(grant(), TTL_MS)
    result, rounds = drive(steps, round_result(*[granted(0)] * 3, DEAD, DEAD, sent_ms=3_000, done_ms=3_005))
    assert isinstance(result, Grant)
    assert result.deadline_ms == deadline_ms(TTL_MS, 3_000)
    assert result.fence == grant().fence
    assert [round_.command for round_ in rounds] == [Extend(NAMES, TOKEN, TTL_MS)]


@pytest.mark.parametrize("sent_ms", [DEADLINE_MS, DEADLINE_MS + 1, DEADLINE_MS + 10_000])
def test_an_extension_sent_after_the_deadline_fails(sent_ms: int) -> None:
    """Of redsync and RedLock.net: the old deadline was not looked at. A late extension repairs nothing."""
    late = round_result(*[granted(0)] * 3, ABSENT, ABSENT, sent_ms=sent_ms, done_ms=sent_ms + 1)
    result, rounds = drive(protocol.extend(grant(), TTL_MS, Wait.ALL), late)
    assert isinstance(result, Refusal)
    assert result.expired
    assert len(rounds) == 1


def test_an_extension_whose_answers_came_too_late_is_none() -> None:
    """Of pottery and redlock-ng: a quorum of answers was enough, however late."""
    late = round_result(*[granted(0)] * 5, sent_ms=2_000, done_ms=deadline_ms(TTL_MS, 2_000))
    result, _ = drive(protocol.extend(grant(), TTL_MS), late)
    assert isinstance(result, Refusal)


@pytest.mark.parametrize("sent_ms", [1_010, 1_500, 3_000, DEADLINE_MS - 1])
@pytest.mark.parametrize("ttl_ms", [204, 1_000, 4_999, 5_000, 10_000])
def test_an_extension_never_shortens_the_lease(sent_ms: int, ttl_ms: int) -> None:
    won = round_result(*[granted(0)] * 3, DEAD, DEAD, sent_ms=sent_ms, done_ms=sent_ms + 6)
    result, _ = drive(protocol.extend(grant(), ttl_ms), won)
    assert isinstance(result, Grant)
    assert result.deadline_ms == max(DEADLINE_MS, deadline_ms(ttl_ms, sent_ms))
    assert (result.names, result.token, result.fence) == (NAMES, TOKEN, grant().fence)


def test_a_lost_extension_deletes_and_repairs_nothing() -> None:
    result, rounds = drive(
        protocol.extend(grant(), TTL_MS), round_result(granted(0), granted(0), ABSENT, ABSENT, ABSENT)
    )
    assert isinstance(result, Refusal)
    assert len(rounds) == 1


def test_a_repair_follows_an_extension_where_the_key_is_missing() -> None:
    votes = [granted(0), ABSENT, granted(0), silent("abstains"), granted(0)]
    result, rounds = drive(
        protocol.extend(grant(), TTL_MS, Wait.ALL), round_result(*votes, sent_ms=2_000, done_ms=2_001)
    )
    assert isinstance(result, Grant)
    assert rounds[1].command == Repair(NAMES, TOKEN, TTL_MS, 7)
    assert (rounds[1].to, rounds[1].wait) == ((1,), Wait.SENT)


def test_a_node_that_has_anothers_lock_is_not_repaired() -> None:
    votes = [granted(0), denied(), granted(0), granted(0), denied()]
    _, rounds = drive(protocol.extend(grant(), TTL_MS), round_result(*votes, sent_ms=2_000, done_ms=2_001))
    assert len(rounds) == 1


@pytest.mark.parametrize(
    ("votes", "outcome"),
    [
        ([granted(0)] * 3 + [UNANSWERED] * 2, Outcome.RELEASED),
        ([granted(0)] * 3 + [DEAD] * 2, Outcome.RELEASED),
        ([ABSENT] * 3 + [UNANSWERED] * 2, Outcome.EXPIRED),
        ([denied()] * 3 + [granted(0)] * 2, Outcome.EXPIRED),
        ([granted(0)] * 2 + [ABSENT] * 2 + [DEAD], Outcome.UNKNOWN),
        ([DEAD] * 5, Outcome.UNKNOWN),
    ],
)
def test_a_release_says_what_it_found(votes: list[Vote], outcome: Outcome) -> None:
    result, rounds = drive(protocol.release(grant()), round_result(*votes))
    assert result is outcome
    assert [round_.command for round_ in rounds] == [CANCEL_AND_WAKE]


@pytest.mark.parametrize(
    "votes", [[ABSENT, ABSENT, ABSENT, DEAD, DEAD], [ABSENT] * 4, [ABSENT] * 2], ids=["two dead", "four", "two"]
)
def test_an_expired_lease_is_reported_with_dead_nodes_too(votes: list[Vote]) -> None:
    steps = protocol.release(grant())
    with pytest.raises(StopIteration) as end:
        steps.send(heard(next(steps), votes))
    assert end.value.value is Outcome.EXPIRED


@pytest.mark.parametrize("dead", [0, 1, 2])
def test_a_release_is_reported_with_a_minority_of_dead_nodes(dead: int) -> None:
    steps = protocol.release(grant())
    with pytest.raises(StopIteration) as end:
        steps.send(heard(next(steps), [granted(0)] * (5 - dead) + [DEAD] * dead))
    assert end.value.value is Outcome.RELEASED


def test_inspect_hears_every_node() -> None:
    votes = round_result(*[denied()] * 4, DEAD)
    result, rounds = drive(protocol.inspect("account:42"), votes)
    assert result == votes
    assert rounds[0].wait is Wait.ALL


def test_an_attempt_whose_proposal_has_grown_old_is_lost() -> None:
    """Frozen between the proposal and the send, for longer than a node that lost its fences abstains."""
    late = round_result(*[granted()] * 5, sent_ms=9_000, done_ms=9_005)
    result, rounds = drive(protocol.acquire(attempt()._replace(decide_by_ms=9_005)), late)
    assert isinstance(result, Refusal)
    assert result.expired
    assert isinstance(rounds[-1].command, Release)
    in_time, _ = drive(protocol.acquire(attempt()._replace(decide_by_ms=9_006)), late)
    assert isinstance(in_time, Grant)


@pytest.mark.parametrize("is_begun", [False, True])
def test_a_generator_is_run_to_its_end(is_begun: bool) -> None:
    first = round_result(granted(7), granted(8), granted(9), DEAD, DEAD)
    results, asked = [first, round_result(*[granted(10)] * 5)], list[object]()

    def ask(round_: Round) -> RoundResult:
        asked.append(round_.command)
        return results[len(asked) - 1]

    steps = protocol.acquire(attempt())
    result = protocol.run(steps, ask, ask(next(steps))) if is_begun else protocol.run(steps, ask)
    assert isinstance(result, Grant)
    assert (result.fence, asked) == (10, [attempt(), Confirm(NAMES, TOKEN, 10)])


def test_log_lines_and_metrics_name_the_outcomes_like_this() -> None:
    assert [outcome.value for outcome in Outcome] == ["released", "expired", "unknown", "kept", "begun"]


def test_a_command_asks_for_nothing_that_it_was_not_told() -> None:
    told = Acquire(NAMES, TOKEN, TTL_MS, 7, woken=False, waits_ms=0, decide_by_ms=None)
    assert Acquire(NAMES, TOKEN, TTL_MS, 7) == told
    assert Round(told) == Round(told, Wait.DECIDED, to=None)
