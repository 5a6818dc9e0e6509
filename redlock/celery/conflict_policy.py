"""Decides how a task ends that did not acquire its lock: requeue, skip or raise.

Invariants:
1. No task is lost. A requeued task is the same message (`redlock.celery.delivery`). If the message can't be sent,
   the task keeps waiting in its slot and sends the message again later.
2. A missing quorum or thread is never a skip: the error does not show whether another task does the work.
3. A direct or eager call has no queue to return to, so the call raises. The same holds for a call from the body of a
   task: the message is that task's.
4. A redelivered copy whose first copy still runs is no competitor. The copy goes back to the queue in all three modes,
   without a result or a state. After the first copy has finished, the copy is dropped without a trace.
   A retry that meets an earlier attempt of its task goes back in all three modes too: the task has not ended.
5. A task with an expiry goes back only while it can return before the expiry; after that, it raises. For a copy that
   has met its first copy see `redlock.celery.expiry`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, NamedTuple, TypeAlias, TypeVar, get_args

from celery.exceptions import Ignore, Retry, SoftTimeLimitExceeded
from kombu.exceptions import EncodeError

from redlock import _log, _validation
from redlock.celery.origin_queue import NoWayBack
from redlock.errors import LockContended, Stale

if TYPE_CHECKING:
    from collections.abc import Callable

    from redlock.celery.delivery import Delivery
    from redlock.errors import RedlockError

P = TypeVar("P")
OnConflict: TypeAlias = Literal["requeue", "skip", "raise"]
Skipped: TypeAlias = dict[str, object]
"""The value that a skipped task returns instead of running."""

_BACKOFF_FIRST, _BACKOFF_LAST = 0.25, 30.0


class Policy(NamedTuple):
    """The time to wait in the worker's slot, and the action at the end of the wait.

    Attributes:
        wait_ms: Milliseconds to wait, 0 or more.
        on_conflict: "requeue", "skip" or "raise".
        max_requeues: How often a task goes back to the queue before it raises; None without a limit.
    """

    wait_ms: int
    on_conflict: str
    max_requeues: int | None

    @classmethod
    def checked(cls, wait: object, on_conflict: object, max_requeues: object) -> Policy:
        """A policy from the arguments of `@locked`.

        Raises:
            ConfigurationError: An argument is invalid.
        """
        seconds = _validation.number("wait", wait, zero=True)
        _validation.choice("on_conflict", on_conflict, get_args(OnConflict))
        if max_requeues is not None:
            _validation.count("max_requeues", max_requeues)
        return cls(int(seconds * 1000), str(on_conflict), max_requeues)  # type: ignore[arg-type]  # just checked

    def apply(self, error: RedlockError, delivery: Delivery | None) -> Skipped | None:
        """Skip, requeue or raise.

        Args:
            error: The reason why the task has no lock.
            delivery: The message of the run; None for a direct call.

        Returns:
            The value of a skipped task. None if the message could not be sent: then the task waits on.

        Raises:
            Retry: The task is back in the queue.
            Ignore: This message is a copy of a task that runs or has run; the copy ends without a trace.
            RedlockError: The given error, in the mode "raise" and where no requeue is possible.
        """
        holder = error.holder if isinstance(error, LockContended) else None
        if delivery is not None:
            delivery.waiting(error.lock_name, holder)
            self.drop_finished_copy(error.lock_name, delivery)
        if delivery is not None and delivery.is_of_this_task(holder):
            waits_on = self._requeue_copy(error, error.lock_name, delivery)
        else:
            again = delivery is not None and delivery.must_run
            if self.on_conflict == "skip" and isinstance(error, LockContended) and not again:
                _log.info("skipped", resource=error.resource, holder=error.holder)
                return {"status": "skipped", "resource": error.resource, "holder": error.holder}
            waits_on = (
                (self.on_conflict == "requeue" or again)
                and delivery is not None
                and delivery.has_a_queue
                and self._requeue(error, error.lock_name, delivery)
            )
        if waits_on:
            return None
        try:
            raise error
        finally:
            # The name would keep the error and its frames alive until a garbage collection.
            del error

    def _may_go_back(self, delivery: Delivery) -> bool:
        return self.max_requeues is None or delivery.requeue_count < self.max_requeues or delivery.must_run

    def _requeue(self, error: RedlockError | SoftTimeLimitExceeded, resource: str | None, delivery: Delivery) -> bool:
        """Send the task back to the queue. False if that is not possible: then the caller raises the error."""
        count = delivery.requeue_count + 1
        if not self._may_go_back(delivery):
            return False
        pause = _pause_or_failure(delivery.requeue, _longest(count))
        if isinstance(pause, Exception):
            delivery.not_sent(pause)
            # After the body, no lock can end the wait. If the message can't be sent, no broker takes it later either.
            return not (isinstance(error, Stale) and isinstance(pause, EncodeError | NoWayBack))
        if pause is None:
            return False
        _log.info("requeued", task=delivery.task_id, resource=resource, count=count, countdown=f"{pause:.2f}")
        if delivery.has_met or delivery.has_begun:
            raise Ignore(str(error))
        raise Retry(str(error), exc=error, when=pause)

    @staticmethod
    def drop_finished_copy(resource: str | None, delivery: Delivery, *, awaits_result: bool = False) -> None:
        """End the run of a copy whose first copy has finished.

        A run that holds the lock awaits a result that is being stored.

        Raises:
            Ignore: The first copy has finished.
        """
        if delivery.is_finished(awaits_result=awaits_result):
            _log.info("duplicate", task=delivery.task_id, resource=resource, then="dropped")
            raise Ignore(f"a copy of this task has come to its end: {delivery.task_id}")
        # `awaits_result` means that this run holds the lock. In both cases the first copy does not run any more.
        if delivery.has_expired and (awaits_result or delivery.meets_another):
            _log.info("duplicate", task=delivery.task_id, resource=resource, then="expired")
            delivery.revoke()
            raise Ignore(f"this copy of the task arrived after its expiry: {delivery.task_id}")

    @staticmethod
    def _requeue_copy(error: RedlockError | SoftTimeLimitExceeded, resource: str | None, delivery: Delivery) -> bool:
        """Send a copy back to the queue while its first copy runs, in all three modes; False as for `_requeue`."""
        if not delivery.has_a_queue:
            return False
        pause = _pause_or_failure(delivery.requeue_copy, _longest(delivery.meetings + 1))
        if isinstance(pause, Exception):
            delivery.not_sent(pause)
            return True
        _log.info("duplicate", task=delivery.task_id, resource=resource, then="requeued", countdown=f"{pause:.2f}")
        raise Ignore(f"a copy of this task is at work: {error}")

    def on_soft_time_limit(self, limit: SoftTimeLimitExceeded, resource: str | None, delivery: Delivery | None) -> None:
        """Requeue the task if the soft time limit ended the wait for the lock.

        Where the policy requeues, the end of the wait is no failure of the task. If the message can't be sent, or the
        hard time limit leaves no time for that, the received message returns to the broker. If none of these is
        possible, as after `max_requeues`, the caller raises its own exception.

        Raises:
            Retry: The task is back in the queue.
            Ignore: The same, for a copy of a task that runs or has run.
            Returned: The broker takes the message back.
        """
        if delivery is None or not delivery.has_a_queue:
            return
        if not (self.on_conflict == "requeue" or delivery.has_met or delivery.must_run):
            return
        if delivery.is_sent:
            raise Ignore("the limit struck when the task was back in the queue")
        if delivery.lacks_time and (delivery.has_met or self._may_go_back(delivery)):
            # The pool would fail a task that it kills, while a return to the broker is immediate.
            delivery.return_to_broker(resource)
        if delivery.can_be_sent:
            requeue = self._requeue_copy if delivery.has_met else self._requeue
            if not requeue(limit, resource, delivery):
                return
        delivery.return_to_broker(resource)


def _pause_or_failure(send: Callable[[float], P], longest: float) -> P | Exception:
    """The pause of a message that was sent, or the error that prevented the send."""
    try:
        return send(longest)
    except SoftTimeLimitExceeded:
        raise
    except Exception as error:  # noqa: BLE001 - after any failure to send, the received message is still the task
        return error


def _longest(count: int) -> float:
    """The longest pause before this return to the queue, in seconds."""
    return float(min(_BACKOFF_FIRST * 2 ** min(count, 10), _BACKOFF_LAST))
