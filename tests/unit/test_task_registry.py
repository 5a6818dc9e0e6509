"""`redlock.celery.task_registry`: a worker's processes publish their locks in shared memory."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from redlock import _log
from redlock._locking.wait_report import iso
from redlock.celery import task_events, task_registry
from redlock.celery.task_registry import TaskLockEntry, TaskLockRegistry

LEASE: Any = SimpleNamespace(resource="account:42", fence=7)


def task(task_id: str | None = "id-1") -> Any:  # noqa: ANN401 - as much of a task as the registry reads
    return SimpleNamespace(request=SimpleNamespace(id=task_id), name="shop.close")


@pytest.fixture
def child(monkeypatch: pytest.MonkeyPatch) -> TaskLockRegistry:
    """The board of a worker's child, which has the third slot."""
    here = TaskLockRegistry()
    here.share()
    monkeypatch.setattr(task_registry, "TASK_LOCKS", here)
    monkeypatch.setattr(task_registry, "own_slot", lambda: 3)
    return here


def seen_from_main(child: TaskLockRegistry) -> list[tuple[object, ...]]:
    """The entries that the main process reads."""
    main = TaskLockRegistry()
    main._memory = child._memory
    return [(shown["state"], shown["resource"]) for shown in main.listed()]


def test_the_main_process_sees_the_entries_of_a_child(child: TaskLockRegistry) -> None:
    entry = TaskLockEntry(None)
    assert seen_from_main(child) == []
    entry.waiting("account:42", "task-1@h (01234567)")
    assert seen_from_main(child) == [("waits", "account:42")]
    entry.acquired(LEASE)
    assert seen_from_main(child) == [("holds", "account:42")]
    entry.lost(LEASE)
    assert seen_from_main(child) == [("lost", "account:42")]
    entry.over()
    assert seen_from_main(child) == []


def test_a_loss_after_the_end_of_a_run_is_not_shown(child: TaskLockRegistry) -> None:
    """The thread that reports a loss may come late."""
    entry = TaskLockEntry(None)
    entry.acquired(LEASE)
    entry.over()
    entry.lost(LEASE)
    assert seen_from_main(child) == []
    assert child.listed() == []


def test_a_wait_shows_its_beginning_and_the_current_holder(child: TaskLockRegistry) -> None:
    entry = TaskLockEntry(None)
    entry.waiting("account:42", "-")
    (before,) = child._entries.values()
    for holder, shown in (("first", "first"), ("-", "first"), ("second", "second")):
        entry.waiting("account:42", holder)
        assert list(child._entries.values()) == [{**before, "holder": shown}]
    entry.acquired(LEASE)
    entry.waiting("account:42", "third")
    assert seen_from_main(child) == [("holds", "account:42")]


def test_a_wait_has_its_position_among_the_workers_waits(child: TaskLockRegistry) -> None:
    entries = [TaskLockEntry(None) for _ in range(4)]
    for entry, resource in zip(entries, ("a", "a", "b", "a"), strict=True):
        entry.waiting(resource, "-")
    entries[0].acquired(LEASE)
    main = TaskLockRegistry()
    main._memory = child._memory
    assert sorted((str(shown["resource"]), shown.get("position")) for shown in main.listed()) == [
        ("a", 1),
        ("a", 2),
        ("account:42", None),
        ("b", 1),
    ]


def test_an_interrupted_run_is_not_shown_for_ever(child: TaskLockRegistry) -> None:
    entry = TaskLockEntry(None)
    entry.acquired(LEASE)
    del entry
    assert not child._entries


def test_what_a_dead_child_left_is_not_shown(child: TaskLockRegistry, monkeypatch: pytest.MonkeyPatch) -> None:
    entry = TaskLockEntry(None)
    monkeypatch.setattr(os, "getpid", lambda: 2**22 + 5)  # above the largest there can be
    entry.acquired(LEASE)
    monkeypatch.undo()
    assert seen_from_main(child) == []


def test_what_is_half_written_is_not_read(child: TaskLockRegistry) -> None:
    entry = TaskLockEntry(None)
    entry.acquired(LEASE)
    memory, start = child._memory, 3 * task_registry._SLOT_BYTES
    assert memory is not None
    turn, pid, length = task_registry._HEAD.unpack_from(memory, start)
    task_registry._HEAD.pack_into(memory, start, turn + 1, pid, length)
    assert seen_from_main(child) == []
    entry.lost(LEASE)
    assert seen_from_main(child) == [("lost", "account:42")], "the next one to write puts it right"


def test_too_many_entries_are_cut_at_the_end_of_the_slot(child: TaskLockRegistry) -> None:
    entries = [TaskLockEntry(None) for _ in range(400)]
    for entry in entries:
        entry.waiting("account:" + "x" * 200, "-")
    assert len(seen_from_main(child)) in {25, 50}, "half of them are left out until the others fit"
    memory = child._memory
    assert memory is not None
    assert not any(memory[4 * task_registry._SLOT_BYTES : 5 * task_registry._SLOT_BYTES])


def test_where_there_is_no_slot_nothing_is_written(child: TaskLockRegistry, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(task_registry, "own_slot", lambda: None)
    entry = TaskLockEntry(None)
    entry.acquired(LEASE)
    assert seen_from_main(child) == []
    assert [shown["state"] for shown in child.listed()] == ["holds"], "it knows by itself"
    monkeypatch.setattr(task_registry, "own_slot", lambda: 3)
    monkeypatch.setattr(child, "_memory", None)
    entry.lost(LEASE)
    assert [shown["state"] for shown in child.listed()] == ["lost"]


@pytest.mark.parametrize(("beyond", "seen"), [(0, 1), (1, 0)])
def test_an_entry_fills_its_slot_to_the_last_byte(child: TaskLockRegistry, beyond: int, seen: int) -> None:
    entry, shown = TaskLockEntry(None), {"state": "holds", "resource": "", "since": ""}
    shown["resource"] = "x" * (16_384 - 12 - len(json.dumps([shown])) + beyond)
    child.show(entry, dict(shown))
    assert len(seen_from_main(child)) == seen


def test_each_write_has_a_number_of_its_own(child: TaskLockRegistry) -> None:
    memory, start = child._memory, 3 * task_registry._SLOT_BYTES
    assert memory is not None
    entry = TaskLockEntry(None)
    for before, after in ((0, 2), (2, 4), (2**31 - 2, 2**31), (2**31, 2)):
        task_registry._HEAD.pack_into(memory, start, before, 0, 0)
        entry.acquired(LEASE)
        turn, pid, length = task_registry._HEAD.unpack_from(memory, start)
        assert (turn, pid) == (after, os.getpid())
        assert length > 0


@pytest.mark.parametrize("half_written", [0, 1, 19, 20])
def test_a_half_written_slot_is_read_again(
    child: TaskLockRegistry, monkeypatch: pytest.MonkeyPatch, half_written: int
) -> None:
    entry, head, looks = TaskLockEntry(None), task_registry._HEAD, [0]
    entry.acquired(LEASE)

    def look(memory: Any, start: int) -> tuple[Any, ...]:  # noqa: ANN401 - a buffer
        if start != 3 * task_registry._SLOT_BYTES:
            return head.unpack_from(memory, start)
        looks[0] += 1
        return (5, os.getpid(), 0) if looks[0] <= half_written else head.unpack_from(memory, start)

    monkeypatch.setattr(task_registry, "_HEAD", SimpleNamespace(size=head.size, unpack_from=look))
    assert seen_from_main(child) == ([("holds", "account:42")] if half_written < 20 else [])
    assert looks == [half_written + 2 if half_written < 20 else 20]


@pytest.mark.parametrize(("index", "slot"), [(0, 0), (255, 255), (256, None), (-1, None), ("0", None), (None, None)])
def test_a_child_has_the_slot_of_its_place(monkeypatch: pytest.MonkeyPatch, index: object, slot: int | None) -> None:
    monkeypatch.setattr(task_registry, "TASK_LOCKS", TaskLockRegistry())
    monkeypatch.setattr(task_registry, "current_process", lambda: SimpleNamespace(index=index))
    task_registry._note_child()
    assert task_registry.own_slot() == slot
    task_registry.TASK_LOCKS.child_pid = os.getppid()
    assert task_registry.own_slot() is None, "a child of a task"
    assert task_registry.is_beyond_slots() is (index is not None)


def test_outside_of_a_worker_a_process_has_no_slot() -> None:
    assert task_registry.own_slot() is None


def test_an_entry_names_its_task_and_its_beginning(child: TaskLockRegistry, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.time", lambda: 1_795_842_001.9996)
    entry = TaskLockEntry(task())
    entry.acquired(LEASE)
    assert list(child._entries.values()) == [
        {
            "task": "id-1",
            "name": "shop.close",
            "state": "holds",
            "resource": "account:42",
            "since": "2026-11-28T05:00:01.999Z",
            "pid": os.getpid(),
            "fence": 7,
        }
    ]
    unsent = TaskLockEntry(task(None))
    assert unsent._about == {"task": None, "name": "shop.close"}


def test_the_oldest_entry_of_all_processes_comes_first(
    child: TaskLockRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    entries = [TaskLockEntry(None) for _ in range(3)]
    for entry, since in zip(entries, (2.0, 3.0, 1.0), strict=True):
        monkeypatch.setattr("time.time", lambda since=since: since)
        entry.waiting("a", str(since))
    found = [(shown["holder"], shown["position"]) for shown in child.listed()[::2]]
    assert found == [("1.0", 1), ("2.0", 3), ("3.0", 5)], "each is in the slot too"


@pytest.fixture
def in_body(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The body of a task, which waits for a lock of its own."""
    monkeypatch.setattr(task_registry, "current_task", task())
    yield
    task_registry._wait_in_body.set(None)


def say(event: str, holder: str = "first") -> None:
    _log.debug(event, resource="a", holder=holder, owner_label="me", position=1, waited_ms=5, acquired=True)


@pytest.mark.usefixtures("in_body")
def test_a_wait_in_a_body_is_shown_until_its_end(child: TaskLockRegistry) -> None:
    def shown() -> list[tuple[object, ...]]:
        return [(one["task"], one["state"], one["resource"], one["holder"]) for one in child._entries.values()]

    say("retry")
    say("wait-ended")
    assert shown() == [], "no wait has begun"
    for _ in range(2):
        say("waiting")
        assert shown() == [("id-1", "waits", "a", "first")]
        say("retry", "second")
        assert shown() == [("id-1", "waits", "a", "second")]
        assert seen_from_main(child) == [("waits", "a")]
        say("wait-ended")
        assert (shown(), seen_from_main(child)) == ([], [])
        say("retry", "third")
        assert shown() == []


@pytest.mark.usefixtures("in_body")
def test_only_a_wait_in_a_body_is_shown_by_the_log(child: TaskLockRegistry, monkeypatch: pytest.MonkeyPatch) -> None:
    with task_events.wait_listeners(SimpleNamespace(waiting=lambda *_: None)):
        say("waiting")
    monkeypatch.setattr(task_registry, "current_task", None)
    say("waiting")
    assert not child._entries


def test_a_worker_shares_its_locks_and_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    here = TaskLockRegistry()
    monkeypatch.setattr(task_registry, "TASK_LOCKS", here)
    task_registry._share_with_children()
    assert here._memory is not None
    assert len(here._memory) == 256 * 16_384
    entry = TaskLockEntry(None)
    entry.acquired(LEASE)
    assert [shown["state"] for shown in task_registry._locks(None)] == ["holds"]


LONG_NAMES = ", ".join("\U0001f512" * 256 for _ in range(20))


@pytest.mark.parametrize("task_id", ["x" * 20_000, "\U0001f512" * 20_000, "\ud800" * 20_000])
def test_no_task_id_and_no_name_hides_a_lock(child: TaskLockRegistry, task_id: str) -> None:
    entry = TaskLockEntry(task(task_id))
    entry.waiting(LONG_NAMES, "\U0001f512" * 255)
    ((state, resource),) = seen_from_main(child)
    assert (state, str(resource)[:256]) == ("waits", LONG_NAMES[:256])
    assert len(str(resource)) == 2_048


def test_a_wait_begins_with_its_task_and_a_hold_with_the_lock(
    child: TaskLockRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("time.time", lambda: 20.0)
    entry = TaskLockEntry(None, 10.0)
    entry.waiting("account:42", "-")
    assert {shown["since"] for shown in child.listed()} == {iso(10.0)}
    entry.acquired(LEASE)
    assert {shown["since"] for shown in child.listed()} == {iso(20.0)}
