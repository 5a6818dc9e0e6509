"""`redlock._locking.wait_report`: a report is encoded and decoded; a malformed report is ignored."""

from __future__ import annotations

import json
from typing import cast

import pytest

from redlock._locking import wait_report
from redlock._locking.wait_registry import PendingWait
from redlock._locking.wait_report import Waiter, decode, encode, iso, listed
from redlock._transport.reply_reader import ReplyError

NOW = 1_795_842_000_000
SINCE = 1_795_841_999.125


class FakeWait:
    """The part of a wait that a report needs."""

    def __init__(self, *names: str, owner_label: str = "task-1@w@h since 2026-11-28T04:00:00Z") -> None:
        self.names, self.owner_label, self.since = names, owner_label, SINCE


def report(*waits: FakeWait, prefix: str = "") -> str:
    return encode([cast("PendingWait", wait) for wait in waits], prefix)


def answer(*reports: tuple[str, int, str]) -> list[bytes]:
    """The reply of a node with these reports: process, time, text."""
    words = [f"{process} {at} {text}" for process, at, text in reports]
    return [word.encode(errors="surrogateescape") for word in (str(NOW), *words)]


def test_a_report_comes_back_as_it_was_made() -> None:
    waits = decode(answer(("p", NOW - 900, report(FakeWait("a", "b")))), "")
    label = "task-1@w@h since 2026-11-28T04:00:00Z"
    assert waits == {("a", label, SINCE), ("b", label, SINCE)}
    assert report() == ""


def test_only_the_newest_report_of_a_process_counts() -> None:
    old, new = report(FakeWait("a")), report(FakeWait("b"))
    for reports in ([("p", NOW - 900, old), ("p", NOW, new)], [("p", NOW, new), ("p", NOW - 900, old)]):
        assert {name for name, _, _ in decode(answer(*reports), "")} == {"b"}
    assert not decode(answer(("p", NOW - 900, old), ("p", NOW, "")), ""), "the wait has ended"


def test_a_process_that_has_died_waits_no_more() -> None:
    assert not decode(answer(("p", NOW - 4_000, report(FakeWait("a")))), "")


def test_a_prefix_sees_its_own_waits_alone() -> None:
    reports = answer(("p", NOW, report(FakeWait("a"), prefix="x:")), ("q", NOW, report(FakeWait("a"), prefix="y:")))
    assert {name for name, _, _ in decode(reports, "x:")} == {"a"}
    assert {name for name, _, _ in decode(reports, "")} == {"x:a", "y:a"}


@pytest.mark.parametrize(
    "text",
    [
        "no JSON",
        "[" * 100_000,
        "{}",
        "[1, [], [[], [], []], [[1], 2, 3]]",
        '[[["a"], "label", NaN]]',
        '[[["a"], "label", -1]]',
        '[[["a"], "label", 1e300]]',
        '[[["\\ud800"], "label", 1]]',
        '[[["a\\u202eb", ""], "label", 1]]',
        "\udcff",
    ],
)
def test_a_report_of_another_shape_is_ignored(text: str) -> None:
    assert decode(answer(("p", NOW, text)), "") == set()


@pytest.mark.parametrize("said", [None, [], [None], 7, b"", [b"x", b"y", 3], ReplyError("NOPERM")])
def test_an_answer_of_another_shape_is_no_report(said: object) -> None:
    assert decode(said, "") == set()


def test_a_forged_label_is_escaped_and_short() -> None:
    ((_, label, _),) = decode(answer(("p", NOW, json.dumps([[["a"], "\x1b" + "x" * 9_000, 1]]))), "")
    assert label.startswith("\\x1b")
    assert len(label) <= 255


def test_a_node_cannot_report_waits_without_end() -> None:
    names = [str(number) for number in range(100_000)]
    assert decode(answer(("p", NOW, json.dumps([[names, "label", 1]]))), "") == set(), "no process writes so much"
    parts = [names[first : first + 1_500] for first in range(0, 100_000, 1_500)]
    reports = [(f"p{at}", NOW, json.dumps([[part, "label", 1]])) for at, part in enumerate(parts)]
    assert 5_000 <= len(decode(answer(*reports), "")) < 6_500


def test_a_label_is_escaped_once_for_all_its_names(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []

    def bounded(label: str) -> str:
        seen.append(label)
        return label

    monkeypatch.setattr(wait_report, "bounded_label", bounded)
    waits = decode(answer(("p", NOW, json.dumps([[["a", "b", "c"], "label", 1]]))), "")
    assert len(waits) == 3
    assert seen == ["label"]


def test_a_report_has_a_limit() -> None:
    waits = [FakeWait(f"{number}:{'é' * 400}") for number in range(100)]
    assert 5 < len(json.loads(report(*waits))) < 100
    assert len(report(*waits).encode()) <= 16_384


def test_waiters_have_positions_and_a_holder() -> None:
    waits = [("a", "late", 3.5), ("a", "early since x", 1.25), ("b", "other", 2.0), ("a", "owner since x", 0.0)]
    assert listed(waits, {"a": "owner"}) == (
        Waiter("a", "early", iso(1.25), 1, "owner"),
        Waiter("a", "late", iso(3.5), 2, "owner"),
        Waiter("b", "other", iso(2.0), 1, ""),
    )
    assert iso(1.25) == "1970-01-01T00:00:01.250Z"


def test_a_time_in_a_task_id_forges_no_worker() -> None:
    forged = "task-1@celery@w9 since 2020-01-01T00:00:00Z@celery@w1"
    (waiter,) = listed([("a", f"{forged} since 2026-11-28T04:00:00Z", 1.0)], {"a": "task-1@celery@w9"})
    assert waiter.waiter == forged
