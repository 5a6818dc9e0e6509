"""What becomes of a Celery task that could not have its lock: requeue, skip or raise.

Invariants:
1. Nothing is lost. A requeued task is the same message (`redlock.delivery`). Where it can't be sent, for whatever
   reason, the caller goes on waiting where it is and tries again later.
2. "Too few nodes voted" is never a skip: it does not say whether another task does the work.
3. A task that was called directly, or eagerly, has no queue to go back to: it raises. So does one that is called
   by another task that holds a lock: back in the queue it would be that other task.
4. A task that expires goes back only as long as it can come back in time; then it raises.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from celery.exceptions import Retry, SoftTimeLimitExceeded

from redlock import checks, log
from redlock.errors import ConfigurationError, LockContended

if TYPE_CHECKING:
    from redlock.delivery import Delivery
    from redlock.errors import RedlockError

_BACKOFF_FIRST, _BACKOFF_LAST = 0.25, 30.0
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

    def refused(self, error: RedlockError, delivery: Delivery | None) -> Skipped | None:
        """Skip, requeue or raise; None means: go on waiting, the task could not be sent.

        Raises:
            Retry: The task is back in the queue.
            RedlockError: The error that was given, where the policy says so.
        """
        if self.otherwise == "skip" and isinstance(error, LockContended):
            log.info("skipped", resource=error.resource, holder=error.holder)
            return Skipped({"status": "skipped", "resource": error.resource, "holder": error.holder})
        if self.otherwise != "requeue" or delivery is None or not delivery.has_a_queue:
            raise error
        count = delivery.requeues + 1
        if self.max_requeues is not None and count > self.max_requeues:
            raise error
        try:
            pause = delivery.send_back(min(_BACKOFF_FIRST * 2 ** min(count, 10), _BACKOFF_LAST))
        except SoftTimeLimitExceeded:
            raise
        except Exception as exc:  # noqa: BLE001 - whatever keeps it from being sent, the message in hand is the task
            delivery.not_sent(exc)
            return None
        if pause is None:
            raise error
        log.info("requeued", task=delivery.task_id, resource=error.lock_name, count=count, countdown=f"{pause:.2f}")
        raise Retry(str(error), exc=error, when=pause)

    def overtime(self, delivery: Delivery | None) -> None:
        """The soft time limit is over before the task had its lock: that is no failure where it may be requeued.

        Raises:
            Returned: The broker gets the message back. Otherwise the exception at hand leaves the task.
        """
        if self.otherwise == "requeue" and delivery is not None:
            delivery.give_back()
