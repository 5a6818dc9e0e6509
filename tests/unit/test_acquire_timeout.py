"""`redlock._locking.acquire_timeout`: the end of an acquire loop."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from redlock._core.votes import Kind, Refusal, Vote
from redlock._locking import acquire_timeout
from redlock._locking.acquire_timeout import AcquireTimeout
from tests.unit.helpers import DEAD, denied, round_result

TTL_MS = 5_000
HELD = Refusal(round_result(*[denied(remaining_ms=300)] * 5))
ALONE = Refusal(round_result(*[DEAD] * 5))


@pytest.fixture
def pass_ms(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    now = [1_000]
    monkeypatch.setattr(acquire_timeout, "now_ms", lambda: now[0])

    def let_pass(length_ms: int) -> None:
        now[0] += length_ms

    return let_pass


@pytest.mark.parametrize("refusal", [HELD, ALONE])
def test_a_loop_with_a_limit_ends_at_the_limit(pass_ms: Callable[[int], None], refusal: Refusal) -> None:
    timeout = AcquireTimeout(2_000, TTL_MS)
    pass_ms(1_500)
    assert timeout.left_ms(refusal) == 500
    assert timeout.waits_ms == timeout.turn_ms == 500
    pass_ms(600)
    assert timeout.left_ms(refusal) == -100
    assert timeout.waits_ms == timeout.turn_ms == 0


def test_a_loop_without_a_limit_goes_on_while_a_quorum_answers(pass_ms: Callable[[int], None]) -> None:
    timeout = AcquireTimeout(None, TTL_MS)
    pass_ms(10 * TTL_MS)
    assert timeout.left_ms(HELD) is None
    assert timeout.waits_ms == timeout.turn_ms == TTL_MS


def test_a_loop_without_limit_ends_after_a_ttl_without_quorum(pass_ms: Callable[[int], None]) -> None:
    timeout = AcquireTimeout(None, TTL_MS)
    pass_ms(3_000)
    assert timeout.left_ms(ALONE) == 2_000
    timeout.left_ms(HELD)
    pass_ms(1_000)
    assert timeout.left_ms(ALONE) == 4_000, "they were heard a second ago"
    timeout.node_heard()
    pass_ms(5_000)
    assert timeout.left_ms(ALONE) == 0


def test_a_wait_without_a_request_lasts_at_most_one_ttl() -> None:
    assert AcquireTimeout(60_000, TTL_MS).turn_ms == TTL_MS
    assert AcquireTimeout(0, TTL_MS).turn_ms == 0


def test_nodes_that_abstain_have_answered_too(pass_ms: Callable[[int], None]) -> None:
    timeout, abstains = AcquireTimeout(None, TTL_MS), Vote(Kind.SILENT, time_ms=1)
    pass_ms(1_000)
    assert timeout.left_ms(Refusal(round_result(abstains, abstains, DEAD, DEAD, DEAD))) == TTL_MS - 1_000
    assert timeout.left_ms(Refusal(round_result(abstains, abstains, abstains, DEAD, DEAD))) == TTL_MS
