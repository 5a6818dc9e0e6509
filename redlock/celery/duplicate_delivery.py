"""Reads the state of a task with a redelivered message from the result backend.

Invariants:
1. A copy stores no state of its own. Celery stores STARTED before a body runs. So a final state is read before that
   and restored afterwards. A failure that is stored in between is lost, and the copy runs: a backend has no command
   that reads and writes.
2. If the state can't be read, the copy runs: Celery delivers a message at least once.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from celery import states
from celery.exceptions import Retry, SoftTimeLimitExceeded
from celery.result import result_from_tuple
from celery.signals import task_prerun

from redlock import _log
from redlock.admin.visibility_timeout import is_locked
from redlock.celery._compat import acknowledges_failures
from redlock.celery.message_content import ignores_result

if TYPE_CHECKING:
    from collections.abc import Collection

    from celery import Task

COPY = "redlock_copy"
"""Message header of a copy: how often the copy found its first copy running; 0 for a plain redelivery."""
REQUEUES = "redlock_requeues"
"""Message header: how often the task went back to the queue without its lock."""
EARLIER = "redlock_earlier"
"""The request attribute with the state from before a copy's run."""

_NOT_BEGUN = frozenset({states.PENDING, states.RECEIVED, states.RETRY})
"""The states of a task whose next run has not begun."""
_MET_SECONDS, _BEGUN_SECONDS = 2.0, 0.25
"""How long a copy that holds the lock waits for the first copy's result: a task releases its lock before that. The
second time is for a copy that has not met the first copy, and only knows that the first copy had begun."""
_POLL_SECONDS = 0.05


def is_finished(task: Task, earlier: dict[str, Any] | None, *, has_met: bool, awaits_result: bool) -> bool:
    """Whether the first copy of this task has finished, so that this copy has nothing to do.

    Args:
        task: The task of the running copy.
        earlier: The stored state at the beginning of this run; None if unknown.
        has_met: Whether this copy has found the first copy running.
        awaits_result: Whether to wait up to two seconds for a result that is being stored. A copy that has not met the
            first copy waits a quarter of a second, and only if the first copy had begun. Its worker probably died, and
            other tasks wait for the lock.
    """
    seconds = 0.0
    if awaits_result:
        seconds = _MET_SECONDS if has_met else _BEGUN_SECONDS if has_begun(earlier) else 0.0
    return _deduplicates(task) and _is_in(_final(task), task, earlier, seconds)


def has_ended(task: Task, earlier: dict[str, Any] | None) -> bool:
    """Whether the first copy of this task has stored any end, which an expired copy must leave as it is.

    The first copy has released its lock, and may be storing its result.
    """
    return _keeps_state(task) and _is_in(states.READY_STATES, task, earlier, _MET_SECONDS)


def _is_in(ends: Collection[str], task: Task, earlier: dict[str, Any] | None, seconds: float) -> bool:
    """Whether the state is one of these ends by now, or within this time. An end that this run hid is stored again."""
    if earlier is not None and earlier["status"] in ends:
        _restore(task, earlier)
        return True
    left = seconds
    while True:
        began, meta = time.monotonic(), _stored(task)
        if meta is None:
            return False
        if meta["status"] in ends:
            return True
        if left <= 0:
            return False
        time.sleep(_POLL_SECONDS)
        # A look counts for a third at most: after a pause of the machine, the other run needs time to store its end.
        left -= min(time.monotonic() - began, seconds / 3)


def has_begun(earlier: dict[str, Any] | None) -> bool:
    """Whether an earlier copy had begun to run and did not end, by the stored state at the beginning of this run.

    The earlier body may have had its effect, so this copy must not end as skipped or refused. The state is STARTED,
    with Celery's setting `task_track_started`, or a state of the task's own, such as PROGRESS. A worker that loses its
    broker can kill its runs (`worker_cancel_long_running_tasks_on_connection_loss`): it stores RETRY with a `Retry`.
    """
    if earlier is None:
        return False
    is_cancelled = earlier["status"] == states.RETRY and isinstance(earlier.get("result"), Retry)
    return is_cancelled or earlier["status"] not in _NOT_BEGUN | states.READY_STATES


def _deduplicates(task: Task) -> bool:
    """Whether Celery itself drops redelivered messages of finished tasks, by the same test (celery/app/trace.py)."""
    return bool(task.acks_late and task.app.conf.worker_deduplicate_successful_tasks and _keeps_state(task))


def _keeps_state(task: Task) -> bool:
    """Whether a worker can read the state of the task. The backends `disabled` and `rpc` have no such method."""
    backend = task.backend
    return bool(backend.persistent and hasattr(backend, "_get_task_meta_for") and not ignores_result(task))


def _final(task: Task) -> set[str]:
    """The states after which a task does not run again.

    Celery itself drops only copies of a success. But each task ends once, also if its worker dies between a stored
    failure and the acknowledgement. A failure is final only if Celery acknowledges the message; otherwise Celery runs
    the redelivered message again.
    """
    return {states.SUCCESS, states.REVOKED} | ({states.FAILURE} if acknowledges_failures(task) else set())


def _stored(task: Task) -> dict[str, Any] | None:
    try:
        meta: dict[str, Any] = task.backend.get_task_meta(task.request.id, cache=False)
    except SoftTimeLimitExceeded:
        raise
    except Exception as error:  # noqa: BLE001 - each backend has its own errors; the state is unknown after any
        _log.warning("state-unknown", task=task.request.id, why=f"{type(error).__name__}: {error}")
        return None
    return meta


def _restore(task: Task, earlier: dict[str, Any]) -> None:
    now = _stored(task)
    if now is None or now["status"] != earlier["status"]:
        # By the children, Celery also sees that the links and the chain of a finished task were sent.
        task.request.children[:] = [result_from_tuple(child, task.app) for child in earlier.get("children") or ()]
        # The request has the rest of the state: group, parent, and with `result_extended` the fields of the task.
        task.backend.store_result(
            task.request.id,
            earlier["result"],
            earlier["status"],
            traceback=earlier.get("traceback"),
            request=task.request,
        )


@task_prerun.connect
def _read_earlier_state(task: Any, **_: Any) -> None:
    found = vars(task.request)
    is_copy = COPY in found or (task.request.delivery_info or {}).get("redelivered")
    may_be_copy = is_copy or (REQUEUES in found and _deduplicates(task))
    if may_be_copy and not task.request.called_directly and is_locked(task) and _keeps_state(task):
        found[EARLIER] = _stored(task)
