"""`redlock._locking.acquire_timeout`: how long a caller goes on trying."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from redlock._core.votes import Refusal
from redlock._locking import acquire_timeout
from redlock._locking.acquire_timeout import AcquireTimeout
from tests.unit.helpers import DEAD, denied, round_result

if TYPE_CHECKING:
    from collections.abc import Callable

TTL_MS = 5_000
HELD = Refusal(round_result(*[denied(remaining_ms=300)] * 5))
ALONE = Refusal(round_result(*[DEAD] * 5))


@pytest.fixture
def pass_ms(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Let time pass."""
    now = [1_000]
    monkeypatch.setattr(acquire_timeout, "now_ms", lambda: now[0])

    def let_pass(length_ms: int) -> None:
        now[0] += length_ms

    return let_pass


@pytest.mark.parametrize("refusal", [HELD, ALONE])
def test_what_is_bounded_ends_when_its_time_is_over_whoever_answered(
    pass_ms: Callable[[int], None], refusal: Refusal
) -> None:
    one = AcquireTimeout(2_000, TTL_MS)
    pass_ms(1_500)
    assert one.left_ms(refusal) == 500
    assert one.waits_ms == one.turn_ms == 500
    pass_ms(600)
    assert one.left_ms(refusal) == -100
    assert one.waits_ms == one.turn_ms == 0


def test_what_is_endless_goes_on_while_somebody_has_it(pass_ms: Callable[[int], None]) -> None:
    one = AcquireTimeout(None, TTL_MS)
    pass_ms(10 * TTL_MS)
    assert one.left_ms(HELD) is None
    assert one.waits_ms == one.turn_ms == TTL_MS


def test_what_is_endless_ends_where_too_few_nodes_could_be_heard_for_one_ttl(pass_ms: Callable[[int], None]) -> None:
    one = AcquireTimeout(None, TTL_MS)
    pass_ms(3_000)
    assert one.left_ms(ALONE) == 2_000
    one.left_ms(HELD)
    pass_ms(1_000)
    assert one.left_ms(ALONE) == 4_000, "they were heard a second ago"
    one.node_heard()
    pass_ms(5_000)
    assert one.left_ms(ALONE) == 0


def test_nobody_waits_in_the_line_for_longer_than_a_ttl_without_a_look_at_the_nodes() -> None:
    assert AcquireTimeout(60_000, TTL_MS).turn_ms == TTL_MS
    assert AcquireTimeout(0, TTL_MS).turn_ms == 0
