"""The renewing thread's list of leases."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from redlock._background import Background
from redlock._clock import now_ms
from redlock._locking.renewal import Renewal
from redlock._transport.codec import Codec
from redlock._transport.node import DEFAULT_NODES, Node
from redlock._transport.pool import ConnectionPool

if TYPE_CHECKING:
    import pytest

CODEC = Codec(5, "", 10_000)
NODES = [Node(url, 100) for url in DEFAULT_NODES]


class Given(SimpleNamespace):
    """The part of a lease that the schedule reads; weak references work."""


class FakeThread(Background):
    """A thread that is never started."""

    def __init__(self) -> None:
        super().__init__("fake", lambda: None)

    def wake(self, due_ms: int) -> None:
        """Nothing to do."""


def test_it_sleeps_until_a_lease_that_is_still_held_is_due() -> None:
    """And does not wake up for each lease that was given back."""
    renewal = Renewal(ConnectionPool(NODES, CODEC))
    renewal._background = FakeThread()
    over: list[Any] = [Given(is_held=False) for _ in range(10)]
    held: Any = Given(is_held=True)
    for number, lease in enumerate(over):
        renewal.add(lease, now_ms() + 60_000 + number)
    renewal.add(held, now_ms() + 120_000)
    seconds = renewal._work()
    assert seconds is not None
    assert 100 < seconds <= 120, "it waits for one that was given back"
    held.is_held = False
    assert renewal._work() is None, "there is nothing to wait for"


def test_the_first_late_renewal_is_logged_with_its_delay(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    renewal = Renewal(ConnectionPool(NODES, CODEC))
    renewal._background = FakeThread()
    started = now_ms()
    leases: list[Any] = [
        Given(is_held=True, ttl_ms=3_000, resource=f"r-{number}", connections=None) for number in range(3)
    ]
    for lease, ago in zip(leases, (900, 1_500, 2_500), strict=True):
        renewal.add(lease, started - ago)
    monkeypatch.setattr(renewal, "_renew", lambda _wanted, _leases: None)
    renewal._work()
    (record,) = [record for record in caplog.records if "renewal-late" in record.message]
    fields: Any = record
    assert fields.redlock_fields["resource"] == "r-2"
    assert 2_500 <= fields.redlock_fields["delay_ms"] < 100_000
    assert "raise ttl" in fields.redlock_fields["remedy"]


def test_a_renewal_in_time_is_not_logged(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    renewal = Renewal(ConnectionPool(NODES, CODEC))
    renewal._background = FakeThread()
    lease: Any = Given(is_held=True, ttl_ms=300_000, resource="x", connections=None)
    given_back: Any = Given(is_held=False, ttl_ms=3_000, resource="y", connections=None)
    renewal.add(lease, now_ms() - 1_000)
    renewal.add(given_back, now_ms() - 999)
    monkeypatch.setattr(renewal, "_renew", lambda _wanted, _leases: None)
    renewal._work()
    assert not caplog.records
