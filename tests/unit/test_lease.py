"""The renewal of a lease, driven without nodes."""

from __future__ import annotations

from typing import Any

import pytest

from redlock import Lease, Redlock
from redlock._clock import now_ms
from redlock._core.commands import Extend
from redlock._core.votes import deadline_ms
from tests.unit.helpers import grant

LINKS: Any = None
"""Nothing is sent."""


def held_until(deadline: int, max_hold_ms: int | None = None, *, taken_ms: int = 0) -> Lease:
    """A lease with a TTL of 5 s that was acquired a moment ago, with this deadline."""
    lease = Redlock().lease("account:42", renew=True, max_hold_ms=max_hold_ms)
    lease._grant = grant(deadline)
    lease._acquired_ms = taken_ms or now_ms()
    return lease


@pytest.mark.parametrize("ahead_ms", [0, 1, 4_000], ids=["same millisecond", "1 ms", "4 s"])
def test_a_deadline_beyond_the_ttl_does_not_end_renewal(ahead_ms: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """As after an extension by hand, or where a renewal starts in the millisecond of the grant."""
    now = now_ms()
    monkeypatch.setattr("redlock._locking.lease_steps.now_ms", lambda: now)
    lease = held_until(deadline_ms(5_000, now) + ahead_ms)
    assert isinstance(next(lease._renewal(LINKS)).command, Extend)
    assert not lease._stopped


def test_renewal_ends_where_max_hold_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    now = now_ms()
    monkeypatch.setattr("redlock._locking.lease_steps.now_ms", lambda: now)
    lease = held_until(deadline_ms(5_000, now), max_hold_ms=5_000, taken_ms=now)
    with pytest.raises(StopIteration) as ended:
        next(lease._renewal(LINKS))
    assert ended.value.value == deadline_ms(5_000, now), "it looks again when the deadline has come"
    assert "max_hold" in lease._stopped


def test_an_extension_by_hand_within_max_hold_is_renewed(monkeypatch: pytest.MonkeyPatch) -> None:
    now = now_ms()
    monkeypatch.setattr("redlock._locking.lease_steps.now_ms", lambda: now)
    lease = held_until(now + 8_000, max_hold_ms=20_000)
    assert isinstance(next(lease._renewal(LINKS)).command, Extend)
