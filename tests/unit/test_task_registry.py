"""`redlock.celery.task_registry`: a worker's processes publish their locks in shared memory."""

from __future__ import annotations

import os
from types import SimpleNamespace
from typing import TYPE_CHECKING, cast

import pytest

from redlock.celery import task_registry
from redlock.celery.task_registry import TaskLockEntry, TaskLockRegistry

if TYPE_CHECKING:
    from celery import Task

    from redlock import Lease


class FakeLease:
    """The attributes of a request that the registry reads."""

    resource, fence = "account:42", 7


LEASE = cast("Lease", FakeLease())


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
    assert 20 < len(seen_from_main(child)) < 400
    memory = child._memory
    assert memory is not None
    assert not any(memory[4 * task_registry._SLOT_BYTES : 5 * task_registry._SLOT_BYTES])


def test_where_there_is_no_slot_nothing_is_written(child: TaskLockRegistry, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(task_registry, "own_slot", lambda: None)
    entry = TaskLockEntry(None)
    entry.acquired(LEASE)
    assert seen_from_main(child) == []
    assert [shown["state"] for shown in child.listed()] == ["holds"], "it knows by itself"


def test_outside_of_a_worker_a_process_has_no_slot() -> None:
    assert task_registry.own_slot() is None


LONG_NAMES = ", ".join("\U0001f512" * 256 for _ in range(20))


@pytest.mark.parametrize("task_id", ["x" * 20_000, "\U0001f512" * 20_000, "\ud800" * 20_000])
def test_no_task_id_and_no_name_hides_a_lock(child: TaskLockRegistry, task_id: str) -> None:
    task = cast("Task", SimpleNamespace(request=SimpleNamespace(id=task_id), name="close"))
    entry = TaskLockEntry(task)
    entry.waiting(LONG_NAMES, "\U0001f512" * 255)
    ((state, resource),) = seen_from_main(child)
    assert (state, str(resource)[:256]) == ("waits", LONG_NAMES[:256])
