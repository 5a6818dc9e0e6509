"""The renewing thread's list of leases."""

from __future__ import annotations

import threading
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from redlock.clock import now_ms
from redlock.driver import Driver
from redlock.renewal import Renewal
from redlock.wire import Codec

if TYPE_CHECKING:
    import pytest


CODEC = Codec(5, "", 10_000)


class Given(SimpleNamespace):
    """As much of a lease as the list looks at; weak references to it work."""


def test_it_wakes_up_for_what_is_still_held_and_not_for_each_lease_that_was_given_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    renewal, waits = Renewal(Driver((), CODEC)), []

    def wait(seconds: float) -> None:
        waits.append(seconds)
        renewal.close()

    monkeypatch.setattr(renewal, "_thread", threading.current_thread())
    monkeypatch.setattr(renewal._changed, "wait", wait)
    over: list[Any] = [Given(held=False) for _ in range(10)]
    held: Any = Given(held=True)
    for number, lease in enumerate(over):
        renewal.add(lease, now_ms() + 60_000 + number)
    renewal.add(held, now_ms() + 120_000)

    assert renewal._next() == []
    (seconds,) = waits
    assert 100 < seconds <= 120, "it waited for one that was given back"


def test_the_first_late_renewal_is_logged_with_its_delay(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    renewal = Renewal(Driver((), CODEC))
    renewal._thread = threading.current_thread()
    started = now_ms()
    leases: list[Any] = [Given(held=True, ttl_ms=3_000, resource=f"r-{number}", links=None) for number in range(3)]
    for lease, ago in zip(leases, (900, 1_500, 2_500), strict=True):
        renewal.add(lease, started - ago)
    monkeypatch.setattr(renewal, "_renew", lambda _wanted, _leases: renewal.close())
    renewal._run()
    (record,) = [record for record in caplog.records if "renewal-late" in record.message]
    fields: Any = record
    assert fields.redlock_fields["resource"] == "r-2"
    assert 2_500 <= fields.redlock_fields["delay_ms"] < 100_000
    assert "raise ttl" in fields.redlock_fields["remedy"]


def test_a_renewal_in_time_is_not_logged(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    renewal = Renewal(Driver((), CODEC))
    renewal._thread = threading.current_thread()
    lease: Any = Given(held=True, ttl_ms=300_000, resource="x", links=None)
    given_back: Any = Given(held=False, ttl_ms=3_000, resource="y", links=None)
    renewal.add(lease, now_ms() - 1_000)
    renewal.add(given_back, now_ms() - 999)
    monkeypatch.setattr(renewal, "_renew", lambda _wanted, _leases: renewal.close())
    renewal._run()
    assert not caplog.records
