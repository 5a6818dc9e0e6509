"""What becomes of a Celery task that could not have its lock: requeue, skip or raise.

Invariants:
1. Nothing is lost. A requeued task is the same message (`redlock.celery.delivery`). Where it can't be sent, for
   whatever reason, the caller goes on waiting where it is and tries again later.
2. "Too few nodes voted" is never a skip: it does not say whether another task does the work.
3. A task that was called directly, or eagerly, has no queue to go back to: it raises. So does one that is called
   by another task that holds a lock: back in the queue it would be that other task.
4. A copy of a message that was delivered again, while its first copy is at work, is no competitor. It goes back in
   all three modes, without a result or a state, and ends without a trace when the first copy has come to its end.
5. A task that expires goes back only as long as it can come back in time; then it raises.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from celery.exceptions import Ignore, Retry, SoftTimeLimitExceeded

from redlock import _log, _validation
from redlock.errors import ConfigurationError, LockContended

if TYPE_CHECKING:
    from redlock.celery.delivery import Delivery
    from redlock.errors import RedlockError

_BACKOFF_FIRST, _BACKOFF_LAST = 0.25, 30.0
_CHOICES = ("requeue", "skip", "raise")


class Skipped(NamedTuple):
    """The task is to return this instead of running."""

    value: dict[str, object]


class Policy(NamedTuple):
    """How long to wait in the worker's slot, and what to do when that is over."""

    wait_ms: int
    on_conflict: str
    max_requeues: int | None

    @classmethod
    def checked(cls, wait: object, on_conflict: object, max_requeues: object) -> Policy:
        """A policy from the arguments of `@locked`.

        Raises:
            ConfigurationError: One of them is no good.
        """
        seconds = _validation.number("wait", wait, zero=True)
        if on_conflict not in _CHOICES:
            raise ConfigurationError(f"on_conflict is {on_conflict!r}; it must be 'requeue', 'skip' or 'raise'")
        if max_requeues is not None:
            _validation.count("max_requeues", max_requeues)
        return cls(int(seconds * 1000), str(on_conflict), max_requeues)  # type: ignore[arg-type]  # just checked

    def refused(self, error: RedlockError, delivery: Delivery | None) -> Skipped | None:
        """Skip, requeue or raise; None means: go on waiting, the task could not be sent.

        Raises:
            Retry: The task is back in the queue.
            Ignore: This message is a copy of a task that is at work, or was; its run ends without a trace.
            RedlockError: The error that was given, where the policy says so.
        """
        self.refuse_a_copy(error.lock_name, delivery)
        if delivery is not None and isinstance(error, LockContended) and delivery.is_of_this_task(error.holder):
            return self._step_back(error, delivery)
        # A copy of a run that was lost may not end as skipped or refused: the lost run may have had its effect.
        again = delivery is not None and delivery.has_begun
        if self.on_conflict == "skip" and isinstance(error, LockContended) and not again:
            _log.info("skipped", resource=error.resource, holder=error.holder)
            return Skipped({"status": "skipped", "resource": error.resource, "holder": error.holder})
        if not (self.on_conflict == "requeue" or again) or delivery is None or not delivery.has_a_queue:
            raise error
        count = delivery.requeues + 1
        if self.max_requeues is not None and count > self.max_requeues and not again:
            raise error
        try:
            pause = delivery.send_back(_longest(count))
        except SoftTimeLimitExceeded:
            raise
        except Exception as exc:  # noqa: BLE001 - whatever keeps it from being sent, the message in hand is the task
            delivery.not_sent(exc)
            return None
        if pause is None:
            raise error
        _log.info("requeued", task=delivery.task_id, resource=error.lock_name, count=count, countdown=f"{pause:.2f}")
        if delivery.has_met or again:
            raise Ignore(str(error))
        raise Retry(str(error), exc=error, when=pause)

    @staticmethod
    def refuse_a_copy(resource: str | None, delivery: Delivery | None, *, settle: bool = False) -> None:
        """End the run of a copy whose first copy has come to an end.

        Args:
            resource: What is locked.
            delivery: The message of the run, if it has one.
            settle: Whether the lock is held now: then an end that is being stored is waited for.

        Raises:
            Ignore: It has.
        """
        if delivery is not None and delivery.is_finished(settle=settle):
            _log.info("duplicate", task=delivery.task_id, resource=resource, then="dropped")
            raise Ignore(f"a copy of this task has come to its end: {delivery.task_id}")

    @staticmethod
    def _step_back(error: LockContended, delivery: Delivery) -> None:
        """Send a copy back for as long as its first copy is at work, in each of the three modes."""
        if not delivery.has_a_queue:
            raise error
        try:
            pause = delivery.send_copy_back(_longest(delivery.meetings + 1))
        except SoftTimeLimitExceeded:
            raise
        except Exception as exc:  # noqa: BLE001 - as above
            delivery.not_sent(exc)
            return
        _log.info(
            "duplicate", task=delivery.task_id, resource=error.resource, then="requeued", countdown=f"{pause:.2f}"
        )
        raise Ignore(f"a copy of this task is at work: {error.holder}")

    def overtime(self, delivery: Delivery | None) -> None:
        """The soft time limit is over before the task had its lock: that is no failure where it may be requeued.

        Raises:
            Returned: The broker gets the message back. Otherwise the exception at hand leaves the task.
        """
        if delivery is not None and (self.on_conflict == "requeue" or delivery.has_met or delivery.has_begun):
            delivery.release()


def _longest(count: int) -> float:
    """The longest pause before this return to the queue, in seconds."""
    return float(min(_BACKOFF_FIRST * 2 ** min(count, 10), _BACKOFF_LAST))
