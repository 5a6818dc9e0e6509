"""The owner label of a task's lease: for the operator, and for other messages of the same task.

Invariants:
1. Most labels are `<task id>@<worker> since <start>`. A task that replaced another has ` replaced <number>` before the
   start, and a retry has ` retry <number>`.
2. A task id that a label can't show in full and for certain has ` id <digest>` there too. Such an id is long, or has an
   `@` or an invisible character.
3. Only the end of a label counts, because the sender of a task chooses its id.
"""

from __future__ import annotations

import hashlib
import re
import socket
import time
from typing import TYPE_CHECKING, Any, NamedTuple

from redlock._escaping import bounded_label

if TYPE_CHECKING:
    from celery import Task

_LONGEST_ID = 100
"""The nodes store the beginning of a long label, see `bounded_label`; the limit leaves room."""
_DIGITS = 12
_NUMBER = "[0-9]{1,9}"
_NOTES = (
    rf"(?: replaced (?P<replacements>{_NUMBER}))?(?: retry (?P<retries>{_NUMBER}))?(?: id (?P<digest>[0-9a-f]{{12}}))?"
)
_END = re.compile(_NOTES + r" since \S+(?: \([0-9a-f]{8}\))?\Z")
"""The end of a label, also with the eight digits of `masked_token`."""
_END_OF_HOLDER = re.compile(_NOTES + r"\Z")
"""The end of a label without its start."""


class Attempt(NamedTuple):
    """Which run of a task id: `self.replace` and `self.retry` keep the id. Later runs are larger.

    Attributes:
        replacements: How often a task replaced the one before it.
        retries: The retries of the last of these tasks.
    """

    replacements: int
    retries: int

    @classmethod
    def of(cls, request: Any) -> Attempt:
        """The attempt that this request begins. The sender of a message may have invented the numbers."""
        numbers = (request.replaced_task_nesting, request.retries)
        return cls(*(number if isinstance(number, int) and number > 0 else 0 for number in numbers))


def owner_label(task: Task | None) -> str | None:
    """The label for a run of this task; None for a direct call and outside of a task, as for any other lock."""
    request = task.request if task is not None else None
    if request is None or request.called_directly:
        return None
    since = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    replacements, retries = Attempt.of(request)
    notes = {"replaced": replacements, "retry": retries, "id": _digest(str(request.id))}
    note = "".join(f" {name} {value}" for name, value in notes.items() if value)
    return f"{request.id}@{request.hostname or socket.gethostname()}{note} since {since}"


def attempt_of(task_id: str, holder: object) -> Attempt | None:
    """The attempt that holds a lock; None if the holder is no run of this task.

    Args:
        task_id: The id of the task.
        holder: The label of the holder, also with the eight digits of its token.
    """
    label = str(holder)
    end = _END.search(label)
    replacements, retries, digest = end.groups() if end else (None, None, None)
    own = _digest(task_id)
    if own != (digest or "") or not (own or label.startswith(f"{task_id}@")):
        return None
    return Attempt(int(replacements or 0), int(retries or 0))


def task_and_worker(label: str) -> tuple[str, str]:
    """The task id and the worker in a label without its start; empty for a label outside of a task.

    Workers have names such as `celery@host`; other labels are like `host/123/MainThread` or `report[123]@host`.
    """
    # From the end: a task id can contain the name of another worker.
    task, *worker = _END_OF_HOLDER.sub("", label, count=1).rsplit("@", 2)
    return (task, "@".join(worker)) if worker[1:] else ("", "")


def _digest(task_id: str) -> str:
    """The digest of an id that a label can't show in full and for certain; empty for other ids."""
    if "@" not in task_id and len(task_id) <= _LONGEST_ID and bounded_label(task_id) == task_id:
        return ""
    return hashlib.sha256(task_id.encode("utf-8", "surrogatepass")).hexdigest()[:_DIGITS]
