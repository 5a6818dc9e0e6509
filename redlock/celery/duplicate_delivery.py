"""What the result backend says of a task whose message was delivered more than once.

Invariants:
1. A copy stores no state of its own. Celery stores STARTED before a body runs, so an end that is already stored is
   read before that, and put back.
2. What can't be read is not known: then the copy runs, as each message of Celery is delivered at least once.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from celery import states
from celery.exceptions import SoftTimeLimitExceeded
from celery.signals import task_prerun

from redlock import _log

if TYPE_CHECKING:
    from celery import Task

COPY = "redlock_copy"
"""Message header of a copy: how often it met its first copy at work; 0 if it was only delivered again."""
EARLIER = "redlock_earlier"
"""Where the state from before a copy's run is kept in its request."""

_SETTLE_SECONDS = 2.0
"""A task stores its result after it has given its lock back: how long a copy waits for that with the lock in hand."""
_LOOK_SECONDS = 0.05


def is_finished(task: Task, earlier: dict[str, Any] | None, *, settle: bool) -> bool:
    """Whether the first copy of this task has come to an end, so that this copy has nothing to do.

    Args:
        task: The task, while a copy of it runs.
        earlier: The state that was stored when this run began, if it was read.
        settle: Whether to wait for a moment for an end that is being stored.
    """
    if not _deduplicates(task):
        return False
    final = _final(task)
    if earlier is not None and earlier["status"] in final:
        _put_back(task, earlier)
        return True
    until = time.monotonic() + (_SETTLE_SECONDS if settle else 0)
    while (meta := _stored(task)) is not None:
        if meta["status"] in final:
            return True
        if time.monotonic() >= until:
            return False
        time.sleep(_LOOK_SECONDS)
    return False


def has_begun(earlier: dict[str, Any] | None) -> bool:
    """Whether an earlier copy had begun to run, by the state that was stored when this run began.

    Its body may have had its effect, so this copy must not end as skipped or refused. Known with `task_track_started`.
    """
    return earlier is not None and earlier["status"] == states.STARTED


def _deduplicates(task: Task) -> bool:
    """As Celery decides it for messages that were delivered again (celery/app/trace.py)."""
    return bool(
        task.acks_late
        and task.app.conf.worker_deduplicate_successful_tasks
        and task.backend.persistent
        and not task.request.ignore_result
    )


def _final(task: Task) -> set[str]:
    """The states after which a task does not run again; not a failure whose message goes back to the queue.

    Celery runs a message that is delivered again after a failure; then the task would have two ends.
    """
    on_failure, on_timeout = getattr(task, "acks_on_failure", None), getattr(task, "acks_on_timeout", None)
    acknowledged = task.acks_on_failure_or_timeout if on_failure is None else on_failure and on_timeout
    return {states.SUCCESS, states.REVOKED} | ({states.FAILURE} if acknowledged is not False else set())


def _stored(task: Task) -> dict[str, Any] | None:
    try:
        meta: dict[str, Any] = task.backend.get_task_meta(task.request.id, cache=False)
    except SoftTimeLimitExceeded:
        raise
    except Exception as error:  # noqa: BLE001 - each backend has errors of its own, and none of them says anything
        _log.warning("state-unknown", task=task.request.id, why=f"{type(error).__name__}: {error}")
        return None
    return meta


def _put_back(task: Task, earlier: dict[str, Any]) -> None:
    now = _stored(task)
    if now is None or now["status"] != earlier["status"]:
        task.backend.store_result(
            task.request.id, earlier["result"], earlier["status"], traceback=earlier.get("traceback")
        )


@task_prerun.connect
def _look_before_it_starts(task: Any, **_: Any) -> None:  # noqa: ANN401 - Celery's signals pass what they like
    found = vars(task.request)
    is_copy = COPY in found or (task.request.delivery_info or {}).get("redelivered")
    if is_copy and not task.request.called_directly and _deduplicates(task):
        found[EARLIER] = _stored(task)
