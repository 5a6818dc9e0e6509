"""`redlock.celery.owner_label`: which run of which task holds a lock, by its label."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from redlock._core.votes import masked_token
from redlock.celery.owner_label import Attempt, attempt_of, owner_label, task_and_worker
from tests.unit.helpers import SECRET

IDS = [
    "4f1c6ad2-0a5e-4e31-9d0a-6e3a9d3a1b11",
    "job 1",
    "über-1",
    "bob",
    "bob@example.com",
    "bob@w1",
    "x" * 101,
    "x" * 200 + "a" + "x" * 200,
    "x" * 200 + "b" + "x" * 200,
    "a\nb",
    "a\\nb",
    "a  b",
    'q"\\z',
    "\ud800",
    "report*1234",
    "bob@w1@h retry 3 id 0123456789ab since 2026-11-24T12:00:00Z",
]


def label_of(task_id: str, retries: int = 0, worker: str = "w1@h", replacements: int = 0) -> str:
    """The holder of a lock as a waiter sees it."""
    numbers = {"retries": retries, "replaced_task_nesting": replacements}
    request = SimpleNamespace(id=task_id, called_directly=False, hostname=worker, **numbers)
    task: Any = SimpleNamespace(request=request)
    return masked_token(f"{SECRET}:{owner_label(task)}")


@pytest.mark.parametrize(
    "attempt", [Attempt(0, 0), Attempt(0, 1), Attempt(0, 12), Attempt(2, 0), Attempt(3, 1)], ids=str
)
@pytest.mark.parametrize("task_id", IDS, ids=ascii)
def test_a_label_names_its_own_task_and_no_other(task_id: str, attempt: Attempt) -> None:
    label = label_of(task_id, attempt.retries, replacements=attempt.replacements)
    assert {other: attempt_of(other, label) for other in IDS} == {
        other: attempt if other == task_id else None for other in IDS
    }


def test_an_id_that_fits_only_a_short_worker_is_found() -> None:
    ids = ["x" * 200 + end for end in "ab"]
    for task_id in ids:
        label = label_of(task_id, worker=f"w1@{'h' * 100}")
        assert [attempt_of(other, label) == Attempt(0, 0) for other in ids] == [other == task_id for other in ids]


def test_most_labels_are_short() -> None:
    assert label_of("id-1").startswith("id-1@w1@h since 20")
    assert label_of("id-1", 2).startswith("id-1@w1@h retry 2 since 20")
    assert label_of("id-1", 2, replacements=1).startswith("id-1@w1@h replaced 1 retry 2 since 20")
    assert label_of("bob@example.com").startswith("bob@example.com@w1@h id ")


@pytest.mark.parametrize(
    "label", ["", "-", None, "id-1", "id-10@w1@h since 1", "h/7/x@h since 1", "id-1@w1@h id 0123456789ab since 1"]
)
def test_other_labels_are_of_no_task(label: object) -> None:
    assert attempt_of("id-1", label) is None


@pytest.mark.parametrize(
    "label", ["id-1@w1@h since 1", "id-1@w1@h since 2026-11-24T12:00:00Z (01234567)", "id-1@h", "id-1@w1@h"]
)
def test_a_label_without_a_retry_is_of_the_first_attempt(label: str) -> None:
    assert attempt_of("id-1", label) == Attempt(0, 0)


@pytest.mark.parametrize("task_id", ["id-1", "bob@example.com", "task-1@celery@w9 since 2020-01-01T00:00:00Z"])
@pytest.mark.parametrize("retries", [0, 3])
def test_the_task_and_the_worker_are_read_from_a_label(task_id: str, retries: int) -> None:
    label = label_of(task_id, retries).rpartition(" since ")[0]
    assert task_and_worker(label) == (task_id, "w1@h")


@pytest.mark.parametrize("label", ["host/7/MainThread", "report[7]@host", "somebody", ""])
def test_a_label_outside_of_a_task_has_no_worker(label: str) -> None:
    assert task_and_worker(label) == ("", "")
