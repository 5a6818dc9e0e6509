"""The schedule of renewals, without threads and loops."""

from __future__ import annotations

import gc
import weakref
from contextlib import suppress
from typing import Any

import pytest

from redlock._core.protocol import Steps
from redlock._locking.renewal_schedule import RenewalSchedule
from redlock._transport.threads import ConnectionSet
from tests.integration.tracer import Interrupted, Place, Tracer, instructions

LATE = "renewal-late"


class Given:
    """The part of a lease that the schedule reads."""

    _connections: ConnectionSet | None = None

    def __init__(self, resource: str = "x", *, ttl_ms: int = 3_000, is_renewed: bool = True) -> None:
        self.resource, self.ttl_ms, self._is_renewed = resource, ttl_ms, is_renewed
        self.is_held = True
        self.reports = 0

    def _renewal(self, connections: ConnectionSet | None) -> Steps[int | None]:  # noqa: ARG002 - see below
        raise AssertionError

    def _report_loss(self) -> None:
        self.reports += 1


@pytest.fixture
def schedule() -> RenewalSchedule[Any]:
    return RenewalSchedule("raise ttl")


def add(schedule: RenewalSchedule[Any], *leases: Given, due_ms: int) -> None:
    for lease in leases:
        schedule.add(weakref.ref(lease), due_ms)


def test_leases_that_are_due_soon_are_taken_too(schedule: RenewalSchedule[Any]) -> None:
    """So that leases that are taken one after the other share an exchange."""
    first, soon, later = Given(), Given(), Given()
    for lease, due_ms in ((first, 1_000), (soon, 1_010), (later, 1_011)):
        add(schedule, lease, due_ms=due_ms)
    assert schedule.next_ms() == 1_000
    assert schedule.take(999) == []
    assert schedule.take(1_000) == [first, soon]
    assert schedule.next_ms() == 1_011


def test_a_limited_number_of_leases_is_under_way(schedule: RenewalSchedule[Any]) -> None:
    leases = [Given() for _ in range(100)]
    add(schedule, *leases, due_ms=1_000)
    taken = schedule.take(1_000)
    assert taken == leases[:64]
    assert schedule.take(1_000) == []
    assert schedule.next_ms() is None, "a driver would call again at once"
    schedule.renewed(taken[0], 2_000)
    assert schedule.next_ms() == 1_000
    assert schedule.take(1_000) == leases[64:65]


def test_a_lease_that_its_owner_has_dropped_is_not_due(schedule: RenewalSchedule[Any]) -> None:
    lease = Given()
    add(schedule, lease, due_ms=1_000)
    (taken,) = schedule.take(1_000)
    schedule.renewed(taken, 2_000)
    del lease, taken
    gc.collect()
    assert schedule.next_ms() is None
    assert schedule.take(2_000) == []


def test_a_dropped_lease_among_others_is_passed_over(schedule: RenewalSchedule[Any]) -> None:
    first, dropped, last = Given(), Given(), Given()
    add(schedule, first, dropped, last, due_ms=1_000)
    del dropped
    gc.collect()
    assert schedule.take(1_000) == [first, last]


def test_a_failed_lease_is_due_again_soon(schedule: RenewalSchedule[Any], caplog: pytest.LogCaptureFixture) -> None:
    leases = [Given("r-1"), Given("r-2"), Given("released")]
    add(schedule, *leases, due_ms=1_000)
    taken = schedule.take(1_000)
    leases[2].is_held = False
    schedule.failed(taken, ZeroDivisionError("why"), 1_000)
    assert schedule.next_ms() == 1_050
    assert schedule.take(1_050) == leases[:2]
    assert [lease.reports for lease in leases] == [1, 1, 1]
    (record,) = caplog.records
    assert record.getMessage() == "renewal-failed resource='r-1; r-2; released'"
    assert record.exc_info


def test_a_driver_that_was_interrupted_loses_no_lease(schedule: RenewalSchedule[Any]) -> None:
    leases = [Given() for _ in range(100)]
    add(schedule, *leases, due_ms=1_000)
    taken = schedule.take(1_000)
    schedule.renewed(taken[0], 5_000)
    schedule.recover(1_000)
    assert schedule.under_way() == []
    found: set[Given] = set()
    while taken := schedule.take(5_000):
        found.update(taken)
        for lease in taken:
            schedule.renewed(lease, None)
    assert found == set(leases)


def test_an_interrupted_step_leaves_one_entry_per_lease() -> None:
    def step(place: Place | None) -> list[Place]:
        lease, schedule = Given(), RenewalSchedule[Any]("raise ttl")
        add(schedule, lease, due_ms=1_000)

        def renew() -> None:
            for taken in schedule.take(1_000):
                schedule.renewed(taken, 3_000)

        if place is None:
            return instructions(renew)
        with suppress(Interrupted):
            Tracer(place).run(renew)
        schedule.recover(1_000)
        assert [entry[2]() for entry in schedule._heap] == [lease], place
        return []

    for place in dict.fromkeys(step(None)):
        step(place)


def test_ended_leases_take_no_memory(schedule: RenewalSchedule[Any]) -> None:
    """As in a process that takes many leases, and releases each one long before it is due."""
    kept, ended = [Given() for _ in range(10)], Given()
    ended.is_held = False
    add(schedule, *kept, due_ms=9_000)
    for due_ms in range(10_000, 20_000):
        add(schedule, ended, due_ms=due_ms)
    assert len(schedule._heap) <= 1_001
    assert schedule.take(9_000) == kept


def test_entries_are_looked_through_each_time_they_have_doubled(
    schedule: RenewalSchedule[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else each new lease would look through thousands of held leases."""
    lease, looks = Given(), list[int]()
    monkeypatch.setattr("heapq.heapify", lambda heap: looks.append(len(heap)))
    for due_ms in range(5_000):
        add(schedule, lease, due_ms=due_ms)
    assert looks == [1_001, 2_003, 4_007]


def test_the_first_late_renewal_is_logged_with_its_delay(
    schedule: RenewalSchedule[Any], caplog: pytest.LogCaptureFixture
) -> None:
    leases = [Given(f"r-{number}") for number in range(3)]
    for lease, ago in zip(leases, (900, 1_500, 2_500), strict=True):
        add(schedule, lease, due_ms=10_000 - ago)
    assert len(schedule.take(10_000)) == 3
    schedule.report_late()
    add(schedule, leases[0], due_ms=1_000)
    schedule.take(10_000)
    schedule.report_late()
    (record,) = caplog.records
    fields: Any = record
    assert fields.message.startswith(LATE)
    assert fields.redlock_fields == {"resource": "r-2", "delay_ms": 2_500, "ttl_ms": 3_000, "remedy": "raise ttl"}


def test_a_renewal_in_time_is_not_logged(schedule: RenewalSchedule[Any], caplog: pytest.LogCaptureFixture) -> None:
    in_time, given_back = Given(ttl_ms=300_000), Given()
    not_renewed = Given(is_renewed=False)
    for lease in (in_time, given_back, not_renewed):
        add(schedule, lease, due_ms=1_000)
    given_back.is_held = False
    assert schedule.take(10_000) == [in_time, not_renewed]
    schedule.report_late()
    assert not caplog.records


@pytest.mark.parametrize(("delay_ms", "is_late"), [(1_000, False), (1_001, True)])
def test_a_renewal_is_late_after_a_third_of_the_lease(
    schedule: RenewalSchedule[Any], caplog: pytest.LogCaptureFixture, delay_ms: int, is_late: bool
) -> None:
    lease = Given(ttl_ms=3_000)
    add(schedule, lease, due_ms=10_000 - delay_ms)
    assert schedule.take(10_000) == [lease]
    schedule.report_late()
    assert bool(caplog.records) is is_late


def test_an_interrupted_renewal_is_due_again_soon(schedule: RenewalSchedule[Any]) -> None:
    lease = Given()
    add(schedule, lease, due_ms=1_000)
    schedule.take(1_000)
    schedule.recover(1_000)
    assert schedule.next_ms() == 1_050
    assert schedule.take(1_049) == []
    assert schedule.take(1_050) == [lease]


def test_each_renewal_reports_a_loss(schedule: RenewalSchedule[Any]) -> None:
    lease = Given()
    add(schedule, lease, due_ms=1_000)
    schedule.take(1_000)
    schedule.renewed(lease, None)
    assert (lease.reports, schedule.under_way(), schedule.next_ms()) == (1, [], None)


def test_the_order_survives_the_removal_of_ended_leases(
    schedule: RenewalSchedule[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the two that have ended, the entries in the middle stand in no order."""
    monkeypatch.setattr(schedule, "_crowded", 6)
    leases = {due_ms: Given() for due_ms in (1, 10, 2, 11, 12, 3, 4)}
    for due_ms, lease in leases.items():
        if due_ms == 4:
            leases[1].is_held = leases[2].is_held = False
        add(schedule, lease, due_ms=due_ms)
    assert schedule.next_ms() == 3
    assert schedule.take(3) == [leases[3], leases[4], leases[10], leases[11], leases[12]]
