"""`redlock._core.backoff`: how long to pause."""

from __future__ import annotations

import pytest

from redlock._core.backoff import early_retry_ms, first_attempt_ms, pause_ms, renewal_ms, retry_ms, sleep_ms
from redlock._core.commands import Round
from redlock._core.votes import Refusal, Vote
from tests.unit.helpers import ABSENT, DEAD, attempt, denied, granted, heard, round_result

CHANCES = (0.0, 0.3, 0.999999)
HELD = Refusal(round_result(*[denied(remaining_ms=300)] * 3, DEAD, DEAD))
SPLIT = Refusal(round_result(granted(), granted(), denied(), denied(), DEAD))
ALONE = Refusal(round_result(*[DEAD] * 4, granted()))


@pytest.mark.parametrize(("chance", "ms"), [(0.0, 301), (0.3, 303), (0.999999, 308)])
def test_a_denied_client_waits_until_the_keys_expire(chance: float, ms: int) -> None:
    assert sleep_ms(HELD, chance) == ms


@pytest.mark.parametrize(("chance", "ms"), [(0.0, 1_000), (0.3, 1_075), (0.999999, 1_249)])
def test_nobody_sleeps_on_a_hint_for_ever(chance: float, ms: int) -> None:
    for left in (None, 10**9):
        assert sleep_ms(Refusal(round_result(*[denied(remaining_ms=left)] * 5)), chance) == ms


@pytest.mark.parametrize(
    "votes",
    [
        [denied()] * 5,
        [denied()] * 4 + [DEAD],
        [denied()] * 3 + [DEAD] * 2,
        [denied()] * 4,
    ],
    ids=["five", "one dead", "two dead", "four"],
)
def test_a_client_that_all_live_nodes_deny_waits_for_a_wake_up(votes: list[Vote]) -> None:
    """Else a waiter polls, and is not in the queue, whenever a node is dead."""
    assert sleep_ms(Refusal(heard(Round(attempt()), votes)), 0.0) is not None


def test_sleeps_differ_so_that_waiters_do_not_meet() -> None:
    assert len({sleep_ms(HELD, chance / 100) for chance in range(100)}) > 4


def test_a_pause_for_want_of_a_quorum_grows_and_is_random() -> None:
    assert [pause_ms(ALONE, attempts, 0.0) for attempts in (1, 2, 3, 4, 5, 99)] == [26, 51, 101, 201, 201, 201]
    assert [pause_ms(ALONE, attempts, 0.999999) for attempts in (1, 2, 3, 4, 5, 99)] == [50, 100, 200, 400, 400, 400]
    assert len({pause_ms(ALONE, 3, chance / 100) for chance in range(100)}) > 4


def test_no_wake_up_follows_a_split_vote_or_a_missing_quorum() -> None:
    absent = Refusal(round_result(*[ABSENT] * 2, granted(), DEAD, DEAD))
    assert [sleep_ms(refusal, 0.5) for refusal in (SPLIT, ALONE, absent)] == [None] * 3


@pytest.mark.parametrize("chance", CHANCES)
@pytest.mark.parametrize("attempts", [1, 2, 5, 50, 10_000])
def test_pauses_are_at_least_a_millisecond_and_bounded(attempts: int, chance: float) -> None:
    assert 1 <= pause_ms(SPLIT, attempts, chance) <= 129
    assert 1 <= pause_ms(ALONE, attempts, chance) <= 401


def test_a_split_vote_gives_a_short_random_pause() -> None:
    pauses = {pause_ms(SPLIT, 1, chance / 100) for chance in range(100)}
    assert pauses == {1, 2, 3, 4, 5, 6, 7, 8}
    most = [pause_ms(SPLIT, attempts, 0.999999) for attempts in (1, 2, 3, 4, 5, 6, 99)]
    assert most == [8, 16, 32, 64, 128, 128, 128]
    assert {pause_ms(SPLIT, attempts, 0.0) for attempts in range(1, 100)} == {1}


def test_who_was_woken_too_early_looks_again_at_once() -> None:
    assert [early_retry_ms(tries, 0.0) for tries in (1, 2, 3, 4, 9)] == [1, 2, 4, 8, 8]
    assert [early_retry_ms(1, chance) for chance in (0.0, 0.499, 0.5, 0.999999)] == [1, 1, 2, 2]


def test_a_lease_is_renewed_with_room_for_two_failures() -> None:
    assert renewal_ms(5_000) == 1_666
    assert renewal_ms(1) == 1


@pytest.mark.parametrize(
    ("left", "ms"), [(0, 1), (1, 1), (9, 9), (40, 10), (80, 10), (400, 50), (800, 100), (60_000, 100)]
)
def test_a_failed_renewal_is_tried_again_within_what_is_left(left: int, ms: int) -> None:
    assert retry_ms(left) == ms


def test_the_first_wait_grows_with_the_last_wait() -> None:
    assert first_attempt_ms(0, 5_000) == first_attempt_ms(20, 5_000) == 50
    assert first_attempt_ms(100, 5_000) == 200
    assert first_attempt_ms(60_000, 5_000) == 500, "a dead holder's lease is not slept through"
    assert first_attempt_ms(60_000, 300) == 50
    assert first_attempt_ms(60_000, 3_600_000) == 1_000, "the wake-up of a free lock can be lost"
