"""`redlock.celery.metrics`: the events of the log, added up over processes, in Prometheus' own words."""

from __future__ import annotations

import os
import time

import pytest
from billiard import current_process
from prometheus_client.parser import text_string_to_metric_families

from redlock.celery import metrics
from redlock.celery.metrics import Metrics, MetricSeries
from redlock.celery.task_registry import TASK_LOCKS

NODES = ("h:1", 'odd"\\node', "/run/a\n# HELP x.sock")


@pytest.fixture
def counted() -> Metrics:
    return Metrics(NODES)


def figures(counted: Metrics) -> dict[str, float]:
    """Each figure by its name and the value of its label, without that of the worker."""
    found: dict[str, float] = {}
    for family in text_string_to_metric_families(counted.text("celery@h")):
        for sample in family.samples:
            assert sample.labels.pop("worker") == "celery@h", sample
            found["/".join([sample.name, *sample.labels.values()])] = sample.value
    return found


def acquired(counted: Metrics, **fields: object) -> None:
    usual = {"resource": "a", "fence": 7, "rounds": 1, "waited_ms": 30, "missing": {}}
    counted.record("acquired", usual | fields)


def test_every_figure_is_there_from_the_start_and_is_zero(counted: Metrics) -> None:
    found = figures(counted)
    assert set(found.values()) == {0.0}
    assert {"redlock_acquired_total/2", "redlock_lost_total", "redlock_votes_missing_total/h:1"} <= set(found)


def test_no_two_workers_have_a_series_in_common(counted: Metrics) -> None:
    """Prometheus' clients refuse a host that shows the same series twice, with whatever values."""

    def series(worker: str) -> set[str]:
        return {line.rpartition(" ")[0] for line in counted.text(worker).splitlines() if not line.startswith("#")}

    assert series("celery@h")
    assert not series("celery@h") & series('"w2"@h')
    assert 'redlock_waiters{worker="\\"w2\\"@h"}' in series('"w2"@h')


def test_elections_are_counted_by_their_rounds(counted: Metrics) -> None:
    for fence, rounds in enumerate((1, 1, 2)):
        acquired(counted, rounds=rounds, fence=fence)
    found = figures(counted)
    assert (found["redlock_acquired_total/1"], found["redlock_acquired_total/2"]) == (2, 1)


def test_a_time_counts_in_every_bucket_that_is_long_enough(counted: Metrics) -> None:
    for waited_ms in (0, 5, 6, 900_000):
        acquired(counted, waited_ms=waited_ms)
    found = figures(counted)
    name = "redlock_wait_seconds"
    assert [found[f"{name}_bucket/{bound}"] for bound in ("0.005", "0.01", "60", "+Inf")] == [2, 3, 3, 4]
    assert found[f"{name}_sum"] == pytest.approx(900.011)


def test_a_lease_is_held_from_its_begin_to_its_end(counted: Metrics, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    acquired(counted, fence=7)
    acquired(counted, fence=8)
    now = 100.25
    counted.record("released", {"resource": "a", "fence": 8})
    now = 102.0
    counted.record("expired", {"resource": "a", "fence": 7})
    counted.record("released", {"resource": "a", "fence": 9})
    found = figures(counted)
    assert found["redlock_hold_seconds_count"] == 2
    assert found["redlock_hold_seconds_sum"] == pytest.approx(2.25)
    assert found["redlock_lost_total"] == 1, "the release of the expired lease found its loss"


def test_a_wait_is_contention_once(counted: Metrics) -> None:
    for event in ("waiting", "retry", "retry", "wait-ended", "waiting"):
        counted.record(event, {"missing": {}})
    assert figures(counted)["redlock_contended_total"] == 2


def test_the_waiters_of_all_processes_are_a_gauge(counted: Metrics, monkeypatch: pytest.MonkeyPatch) -> None:
    for slot, events in ((0, ["waiting", "waiting", "wait-ended"]), (3, ["waiting"])):
        monkeypatch.setattr(metrics, "own_slot", lambda slot=slot: slot)
        for event in events:
            counted.record(event, {})
    assert figures(counted)["redlock_waiters"] == 2
    counted.record("wait-ended", {})
    assert figures(counted)["redlock_waiters"] == 1


def test_the_waits_of_a_dead_process_are_over(counted: Metrics, monkeypatch: pytest.MonkeyPatch) -> None:
    counted.record("waiting", {})
    monkeypatch.setattr(metrics, "is_alive", lambda _pid: False)
    assert figures(counted)["redlock_waiters"] == 0
    monkeypatch.undo()
    monkeypatch.setattr(os, "getpid", os.getppid)
    counted.record("waiting", {})
    assert figures(counted)["redlock_waiters"] == 1, "its successor begins with none"


def test_missing_votes_are_counted_by_node_in_every_round(counted: Metrics) -> None:
    counted.record("retry", {"attempt": 2, "missing": {"h:1": "full"}})
    counted.record("vote-missing", {"missing": {"h:1": "full"}})
    counted.record("extended", {"missing": {"h:1": "full", 'odd"\\node': "loading"}})
    counted.record("refused", {"missing": {"of nobody": "it is not ours"}})
    found = figures(counted)
    assert (found["redlock_votes_missing_total/h:1"], found['redlock_votes_missing_total/odd"\\node']) == (3, 1)
    assert "vote-missing" in metrics.EVENTS


def test_a_clock_that_jumps_is_counted_by_its_node(counted: Metrics) -> None:
    counted.record("clock-jump", {"node": "h:1", "by_ms": 3_000, "jumps": 1})
    found = {name: value for name, value in figures(counted).items() if value}
    assert found == {"redlock_clock_jumps_total/h:1": 1}


def test_a_lost_lease_is_held_until_its_loss(counted: Metrics, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    acquired(counted)
    now = 101.0
    counted.record("lost", {"resource": "a", "fence": 7})
    now = 107.0
    counted.record("expired", {"resource": "a", "fence": 7})
    found = figures(counted)
    assert (found["redlock_hold_seconds_count"], found["redlock_hold_seconds_sum"]) == (1, 1.0)
    assert found["redlock_lost_total"] == 1


def test_a_child_beyond_the_last_slot_counts_nothing(counted: Metrics, monkeypatch: pytest.MonkeyPatch) -> None:
    """Several such children would add in one row, and lose counts of each other."""
    child = current_process()
    monkeypatch.setattr(TASK_LOCKS, "child_pid", os.getpid())
    monkeypatch.setattr(child, "index", 256, raising=False)
    for event in ("lost", "waiting"):
        counted.record(event, {"resource": "a", "fence": 7})
    assert not any(counted._cells)
    monkeypatch.setattr(child, "index", 255)
    counted.record("refused", {})
    assert figures(counted)["redlock_refused_total"] == 1


def test_the_main_process_and_the_first_child_share_no_row(counted: Metrics, monkeypatch: pytest.MonkeyPatch) -> None:
    counted.record("refused", {})
    monkeypatch.setattr(metrics, "own_slot", lambda: 0)
    counted.record("refused", {})
    place = counted._counters[MetricSeries("redlock_refused_total")]
    assert list(counted._cells[place :: counted._width])[:2] == [1, 1]


@pytest.mark.parametrize("event", ["refused", "requeued", "skipped"])
def test_what_is_just_counted_is_counted_under_its_own_name(counted: Metrics, event: str) -> None:
    counted.record(event, {})
    found = {name: value for name, value in figures(counted).items() if value}
    assert found == {f"redlock_{event}_total": 1}


def test_the_rows_of_all_processes_are_added_up(counted: Metrics, monkeypatch: pytest.MonkeyPatch) -> None:
    for slot in (0, 1, 255):
        monkeypatch.setattr(metrics, "own_slot", lambda slot=slot: slot)
        counted.record("refused", {})
    assert figures(counted)["redlock_refused_total"] == 3
    width = counted._width
    rows = [any(counted._cells[row * width : (row + 1) * width]) for row in range(257)]
    assert [row for row in range(257) if rows[row]] == [1, 2, 256], "no two of them add in one place"


def test_leases_that_nobody_gave_back_are_not_kept_without_end(counted: Metrics) -> None:
    for fence in range(25_000):
        acquired(counted, fence=fence)
    assert len(counted._open) <= 10_000


def test_a_forked_child_holds_nothing_of_its_parents(counted: Metrics) -> None:
    acquired(counted)
    counted.reset_after_fork()
    counted.record("released", {"resource": "a", "fence": 7})
    found = figures(counted)
    assert found["redlock_hold_seconds_count"] == 0
    assert found["redlock_acquired_total/1"] == 1


def test_a_line_break_in_a_label_stays_in_its_line(counted: Metrics) -> None:
    assert "redlock_votes_missing_total//run/a\\n# HELP x.sock" in figures(counted)
    assert not any(line.startswith("# HELP x") for line in counted.text("w@h").splitlines())
