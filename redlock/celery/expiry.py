"""The expiry of a task. A copy of a running task hides its expiry from Celery.

Invariants:
1. The expiry of a copy that has met its first copy travels in a mark. At the expiry Celery would store REVOKED for the
   run of the first copy, or over its end.
2. In each run the request has the expiry, for the body and for a retry.
3. A copy that arrives after its expiry, and whose first copy is gone, ends without a run, as REVOKED unless
   the first copy has stored its end.
"""

from __future__ import annotations

from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

from celery.signals import task_revoked
from celery.utils.time import maybe_iso8601, maybe_make_aware

from redlock.celery import task_events
from redlock.celery.message_content import ignores_result

if TYPE_CHECKING:
    from celery import Task

EXPIRES = "redlock_expires"
"""Message header of a copy: the hidden expiry, as Celery writes it."""


def seconds_left(request: Any) -> float:
    """Seconds until the task of this request expires; infinite without an expiry."""
    at = maybe_iso8601(request.expires)
    if at is None:
        return float("inf")
    return float((maybe_make_aware(at) - datetime.now(timezone.utc)).total_seconds())


def hidden(request: Any) -> dict[str, str]:
    """The mark of a message that must not expire now."""
    at = request.expires
    return {} if at is None else {EXPIRES: at if isinstance(at, str) else at.isoformat()}


def restore(request: Any, mark: object) -> bool:
    """Give a request its hidden expiry back.

    Returns:
        Whether the task had expired at its arrival.
    """
    if not isinstance(mark, str) or request.expires is not None:
        return False
    try:
        maybe_iso8601(mark)
    except ValueError:
        return False  # the sender of the message has invented the mark
    request.expires = mark
    return seconds_left(request) <= 0


def revoke(task: Task) -> None:
    """Store the end of an expired task, as Celery does at the arrival of an expired message."""
    request = task.request
    stores = not ignores_result(task) or task.store_errors_even_if_ignored
    task.backend.mark_as_revoked(request.id, "expired", request, stores)
    task_events.send_expired(task)
    task_revoked.send(sender=task, request=request, terminated=False, signum=None, expired=True)
