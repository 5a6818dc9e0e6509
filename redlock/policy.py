"""What becomes of a Celery task that could not have its lock: requeue, skip or raise.

Rules of this file:
1. Nothing is lost. A requeued task keeps its id, links, priority, queue and retries; if the broker does not
   take it, the caller is told to go on waiting where it is.
2. "Too few nodes voted" is never a skip: it says nothing about whether somebody does the work.
3. A task that was called directly, or eagerly, has no queue to go back to: it raises. So does one that is called
   by another task that holds a lock: back in the queue it would be that other task.
4. A task that expires goes back only as long as it can come back in time; then it raises instead of going silent.
"""

from __future__ import annotations

import random
import time
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any, NamedTuple

from celery.exceptions import Retry
from celery.utils.time import maybe_iso8601, maybe_make_aware
from kombu.exceptions import OperationalError

from redlock import checks, log
from redlock.errors import ConfigurationError, LockContended, RedlockError

if TYPE_CHECKING:
    from celery import Task

REQUEUES, SINCE = "redlock_requeues", "redlock_since"
"""Message headers: how often a task went back to the queue for want of its lock, and since when (Unix time)."""

_BACKOFF_FIRST, _BACKOFF_LAST = 0.25, 30.0
_SHORTEST_PAUSE = 0.1
_ON_THE_WAY = 1.0
"""Seconds that a message may take from the end of its pause to a worker, for one that expires."""
_CHOICES = ("requeue", "skip", "raise")


class Skipped(NamedTuple):
    """The task is to return this instead of running."""

    value: dict[str, object]


class Policy(NamedTuple):
    """How long to wait in the worker's slot, and what to do when that is over."""

    wait_ms: int
    otherwise: str
    max_requeues: int | None

    @classmethod
    def checked(cls, wait: object, otherwise: object, max_requeues: object) -> Policy:
        """A policy from the arguments of `@locked`.

        Raises:
            ConfigurationError: One of them is no good.
        """
        seconds = checks.number("wait", wait, zero=True)
        if otherwise not in _CHOICES:
            raise ConfigurationError(f"otherwise is {otherwise!r}; it must be 'requeue', 'skip' or 'raise'")
        if max_requeues is not None:
            checks.count("max_requeues", max_requeues)
        return cls(int(seconds * 1000), str(otherwise), max_requeues)  # type: ignore[arg-type]  # just checked

    def refused(self, error: RedlockError, task: Task | None) -> Skipped | None:
        """Skip, requeue or raise; None means: go on waiting, the broker did not take the task.

        Raises:
            Retry: The task is back in the queue.
            RedlockError: The error that was given, where the policy says so.
        """
        if self.otherwise == "skip" and isinstance(error, LockContended):
            log.info("skipped", resource=error.resource, holder=error.holder)
            return Skipped({"status": "skipped", "resource": error.resource, "holder": error.holder})
        if self.otherwise != "requeue" or task is None or task.request.called_directly or task.request.is_eager:
            raise error
        request = task.request
        headers: dict[str, Any] = dict(request.headers or {})
        count = headers.get(REQUEUES, 0) + 1
        if self.max_requeues is not None and count > self.max_requeues:
            raise error
        most = min(_BACKOFF_FIRST * 2 ** min(count, 10), _BACKOFF_LAST, _seconds_left(request.expires) - _ON_THE_WAY)
        if most < _SHORTEST_PAUSE:
            raise error
        countdown = random.uniform(_SHORTEST_PAUSE, most)  # noqa: S311 - jitter, not a secret
        headers |= {REQUEUES: count, SINCE: headers.get(SINCE, time.time())}
        signature = task.signature_from_request(request, countdown=countdown, retries=request.retries, headers=headers)
        try:
            signature.apply_async()
        except OperationalError as exc:
            log.warning("requeue-failed", task=request.id, why=exc)
            return None
        log.info("requeued", task=request.id, resource=error.lock_name, count=count, countdown=f"{countdown:.2f}")
        raise Retry(str(error), exc=error, when=countdown, sig=signature)


def _seconds_left(expires: str | datetime | None) -> float:
    """Until a task expires; endless where it does not."""
    at = maybe_iso8601(expires)
    return float("inf") if at is None else float((maybe_make_aware(at) - datetime.now(timezone.utc)).total_seconds())


def waited_ms(task: Task | None) -> int:
    """How long this task has waited over all its requeues, 0 if it never was; forgets them."""
    headers = (task.request.headers or {}) if task is not None else {}
    headers.pop(REQUEUES, None)
    since = headers.pop(SINCE, None)
    return 0 if since is None else max(0, int((time.time() - since) * 1000))
