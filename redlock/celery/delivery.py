"""The message that started a task's run: reads its headers, and sends the same message back to the queue.

Invariants:
1. The message has the content of the received message (`redlock.celery.message_content`) and goes to the queue that
   the received message came from (`redlock.celery.origin_queue`). An `apply_async` of the task's own class is not
   called. The sender has called it; a second call could change the message again, or drop a task that is not done.
2. `requeue` passes on every error of the broker and the serializer. Then the received message is still the task.
"""

from __future__ import annotations

import random
import time
from typing import TYPE_CHECKING, Any

from celery import Task
from celery.exceptions import Ignore, Reject

from redlock import _log
from redlock.admin import visibility_timeout
from redlock.celery import duplicate_delivery, expiry, pools
from redlock.celery._compat import confirmed_publish, has_quorum_queues
from redlock.celery.duplicate_delivery import COPY, EARLIER, REQUEUES
from redlock.celery.expiry import EXPIRES
from redlock.celery.message_content import CONTENT_TYPE, NAMES, MessageContent
from redlock.celery.origin_queue import ORIGIN, NoWayBack, Origin, origin_of, way_back
from redlock.celery.owner_label import Attempt, attempt_of

if TYPE_CHECKING:
    from celery import Celery

SINCE = "redlock_since"
"""Message header: the first delivery of a task that went back to the queue without its lock (Unix time)."""
ATTEMPT = "redlock_attempt"
"""Message header: the attempt that went back."""
_SHORTEST_PAUSE, _NATIVE_PAUSE = 0.1, 1.0
"""Seconds. RabbitMQ delays messages of quorum queues by whole seconds (Celery's native delayed delivery)."""
_CONFIRM_SECONDS, _SEND_SECONDS = 10, 15
"""How long RabbitMQ may take to confirm a message, and for the whole send: Celery's default for a connection is 4 s."""
_PAUSES_IN_TIMEOUT = 3
"""A pause is at most this part of the broker's visibility timeout."""
_ON_THE_WAY = 1.0
"""Seconds that an expiring message may take from the end of its pause to a worker."""
_RETRY_MS, _LAST_RETRY_MS = 1_000, 30_000
_MARKS = (REQUEUES, SINCE, ATTEMPT, CONTENT_TYPE, NAMES, COPY, EARLIER, ORIGIN, EXPIRES)
_DELIVERY_COUNT, _DELIVERY_LIMIT = "x-delivery-count", 20
"""By default, RabbitMQ 4 drops a message of a quorum queue after so many returns."""


class Returned(Reject, Ignore):  # type: ignore[misc]  # Celery is untyped
    """The unchanged message goes back to the broker. The class is also an `Ignore`, which `autoretry_for` passes on."""


class Delivery:
    """The message that started a task's run."""

    def __init__(self, task: Task) -> None:
        self._task, self._request = task, task.request
        found = vars(self._request)
        headers = self._request.headers or {}
        # Taken out, so that a retry does not find them.
        marks = {name: headers.pop(name, found.pop(name, None)) for name in _MARKS}
        self._attempt = Attempt.of(self._request)
        if marks[ATTEMPT] not in (None, list(self._attempt)):
            # Celery's main process sends a retry of a killed run with the marks of that run (`retry_on_worker_lost`).
            marks |= dict.fromkeys((REQUEUES, SINCE, COPY))
        self.requeue_count = _count(marks[REQUEUES])
        """How often it went back to the queue."""
        since = marks[SINCE]
        now = time.time()
        self.since = since if isinstance(since, float) and 0 < since < now else now
        """The first delivery of the task, or the last call of a run that has had its lock; in seconds since 1970."""
        self.meetings = _count(marks[COPY])
        """How often this copy found the first copy of its task still running."""
        self._earlier: dict[str, Any] | None = marks[EARLIER]
        info = self._request.delivery_info or {}
        self._origin: Origin | None = marks[ORIGIN] or origin_of(info, task.app.amqp.queues.consume_from.values())
        # The messages of a broadcast share their id, and each of them is a task of its own.
        self._is_broadcast = self._origin is not None and self._origin.is_broadcast
        self._came_again = marks[COPY] is not None or bool(info.get("redelivered"))
        self._is_copy = self._came_again and not self._is_broadcast
        self.has_met = self.meetings > 0
        """Whether this message is a copy that found the first copy running, in this run or an earlier run."""
        self._holder: object = None
        self.has_expired = expiry.restore(self._request, marks[EXPIRES])
        """Whether this copy expired while Celery did not see its expiry."""
        self._failures = 0
        self.is_sent = False
        self.end: Exception | None = None
        """The `Retry`, `Ignore` or `Reject` with which the run ended."""
        self.has_run = False
        """Whether a call of this run had its lock, so that this run is the running copy."""
        self.can_be_sent = True
        """Whether this run has not tried to send the message yet."""
        self._content = MessageContent(self._request, marks[CONTENT_TYPE], marks[NAMES])

    def keep_arguments(self) -> None:
        """Keep the arguments for the way back, before the body can change them."""
        self._content.keep_arguments()

    def waiting(self, _resource: object, holder: object) -> None:
        """Note the run that holds the lock; `-` if the holder is unknown."""
        if holder not in {None, "-"}:
            self._holder = holder
            self.has_met = self.has_met or self.is_of_this_task(holder)

    def is_of_this_task(self, holder: object) -> bool:
        """Whether the holder runs this message or a later attempt; then this message is a redelivered copy."""
        attempt = self._attempt_of(holder)
        return attempt is not None and attempt >= self._attempt

    def _attempt_of(self, holder: object) -> Attempt | None:
        return None if self._is_broadcast else attempt_of(self.task_id, holder)

    @property
    def meets_another(self) -> bool:
        """Whether the last known holder of the lock is no copy of this message: then the first copy does not run."""
        return self._holder is not None and not self.is_of_this_task(self._holder)

    @property
    def has_begun(self) -> bool:
        """Whether this message is a copy of a lost run that had begun, and so may have had its effect."""
        return self._is_copy and duplicate_delivery.has_begun(self._earlier)

    @property
    def must_run(self) -> bool:
        """Whether this message must not end as skipped or refused, because no other message is sure to do the work.

        An earlier run had begun, or may have begun, or may still run; or an earlier attempt holds the lock.
        """
        # The state of a broadcast tells nothing of this message, so each of its redeliveries may have begun.
        may_have_begun = self.has_begun or (self._is_broadcast and self._came_again)
        attempt = self._attempt_of(self._holder)
        first_may_run = self.has_met and not self.meets_another
        return may_have_begun or first_may_run or (attempt is not None and attempt < self._attempt)

    def is_finished(self, *, awaits_result: bool = False) -> bool:
        """Whether this message is a copy whose first copy has finished; see `duplicate_delivery.is_finished`."""
        # The broker can deliver a message again that a run has already sent back: then there are two of them.
        came_back = self.requeue_count > 0 and not self._is_broadcast
        if not (self._is_copy or self.has_met or came_back):
            return False
        return duplicate_delivery.is_finished(
            self._task, self._earlier, has_met=self.has_met, awaits_result=awaits_result
        )

    @property
    def has_a_queue(self) -> bool:
        """Whether the task can go back to a queue. Apps with only eager calls have no queue."""
        return not self._task.app.conf.task_always_eager

    @property
    def task_id(self) -> str:
        """The id of the task. Redelivered copies have the same id."""
        return str(self._request.id)

    def waited_ms(self) -> int:
        """Milliseconds since the first delivery of the task."""
        return max(0, int((time.time() - self.since) * 1000))

    def requeue(self, longest: float) -> float | None:
        """Send the message back to the queue. A worker gets the message after a random pause.

        Args:
            longest: The longest pause in seconds. The broker may need a longer pause.

        Returns:
            The pause in seconds. None if the task would expire before its return; then nothing was sent.
        """
        # The first copy may run or have ended. Celery would store the expiry for that run, or over its end.
        hides = self.has_met
        left = float("inf") if hides else expiry.seconds_left(self._request) - _ON_THE_WAY
        least, pause = self._pause(min(longest, left))
        if left < least:
            return None
        marks = {REQUEUES: self.requeue_count + 1, SINCE: self.since}
        # A send that failed may have reached the queue, as without a confirmation in time: then two messages run. A
        # message of a broadcast is never taken for finished, and the mark would lift the limit of its returns.
        may_be_in_the_queue = self._failures and not self._is_broadcast
        if self._came_again or self.has_met or may_be_in_the_queue:
            marks[COPY] = max(self.meetings, int(self.has_met))
        self._send(marks, pause, hides=hides)
        return pause

    def requeue_copy(self, longest: float) -> float:
        """Send back a copy that found its first copy running; see `requeue`. Its expiry is hidden from Celery."""
        _, pause = self._pause(longest)
        marks = {REQUEUES: self.requeue_count, SINCE: self.since, COPY: self.meetings + 1}
        self._send(marks, pause, hides=True)
        return pause

    def _pause(self, longest: float) -> tuple[float, float]:
        """The broker's shortest pause, and a random pause up to the longest, in seconds."""
        natively = _delays_natively(self._task.app)
        least = _NATIVE_PAUSE if natively else _SHORTEST_PAUSE
        # A worker holds the message during the pause: the broker must not deliver it again meanwhile.
        timeout = visibility_timeout.timeout_of(self._task.app.conf)
        longest = longest if timeout is None else min(longest, timeout / _PAUSES_IN_TIMEOUT)
        pause = random.uniform(least, max(least, longest))  # noqa: S311 - jitter, not a secret
        return least, float(int(pause)) if natively else pause

    def _send(self, marks: dict[str, Any], pause: float, *, hides: bool) -> None:
        app = self._task.app
        is_amqp = _is_amqp(app)
        user_id = (_connection(app).userid or "guest") if is_amqp else None
        marks = marks | {ATTEMPT: list(self._attempt)} | (expiry.hidden(self._request) if hides else {})
        options = self._content.options(marks, user_id) | self._place() | {"countdown": pause}
        if hides:
            options["expires"] = None
        # An exception of a signal handler can strike when the broker has the message already.
        self.can_be_sent = False
        if is_amqp:
            self._send_confirmed(options)
        else:
            Task.apply_async(self._task, *self._content.arguments(), **options)
        self.is_sent = True

    def _send_confirmed(self, options: dict[str, Any]) -> None:
        with self._task.app.producer_or_acquire() as producer:
            # Without a confirmation, a message on a dead connection would be lost while the received message is
            # acknowledged. A retry would use a new channel without confirmations, so the caller repeats the call.
            channel = producer.channel
            channel.basic_publish = confirmed_publish(channel, _CONFIRM_SECONDS)
            try:
                Task.apply_async(self._task, *self._content.arguments(), **options, producer=producer, retry=False)
            except BaseException:
                # The pool would say good-bye to a broker that does not answer, and wait for its reply without end.
                producer.connection.collect()
                raise

    def not_sent(self, why: Exception) -> None:
        """Count a failure to send the message. The first reason of a run is logged."""
        if not self._failures:
            _log.warning("requeue-failed", task=self.task_id, why=f"{type(why).__name__}: {why}")
        self._failures += 1

    @property
    def lacks_time(self) -> bool:
        """Whether the pool could kill this task, which is over its soft time limit, before its message is sent."""
        return pools.overtime(self._task) < _SEND_SECONDS

    def pause_ms(self) -> int:
        """Milliseconds to wait in the worker's slot before the message is sent again; 0 without a failure."""
        return 0 if not self._failures else min(_RETRY_MS << min(self._failures - 1, 10), _LAST_RETRY_MS)

    def _place(self) -> dict[str, Any]:
        """The queue of the message, as arguments for `apply_async`."""
        origin = self._origin
        if origin is None:
            return {}
        app = self._task.app
        if origin.is_broadcast and not _is_amqp(app):
            raise NoWayBack("a broadcast has no queue to return to, so the task waits in its slot")
        return way_back(app, origin, self._request.delivery_info or {}, natively=_delays_natively(app))

    def revoke(self) -> None:
        """Store that the task has expired, unless the first copy has stored its end."""
        if not duplicate_delivery.has_ended(self._task, self._earlier):
            expiry.revoke(self._task)

    def return_to_broker(self, resource: str | None) -> None:
        """Return the message to the broker after the soft time limit, if the broker accepts a return.

        Raises:
            Returned: The broker takes the message back and delivers the message again.
        """
        is_kept = _is_amqp(self._task.app) or not self._is_broadcast
        if self._task.acks_late and is_kept and self._returns_left() > 0:
            _log.info("requeued", task=self.task_id, resource=resource, count=self.requeue_count, countdown="0.00")
            raise Returned("the soft time limit expired before the task had its lock", requeue=True)

    def _returns_left(self) -> int:
        """How often a quorum queue of RabbitMQ still takes the message back. Beyond that, the queue drops messages."""
        limits = [
            (queue.queue_arguments or {}).get("x-delivery-limit") for queue in self._task.app.amqp.queues.values()
        ]
        limit = min([_DELIVERY_LIMIT, *(limit for limit in limits if limit is not None)])
        return int(limit) - 1 - _count(vars(self._request).get(_DELIVERY_COUNT))


def _count(mark: object) -> int:
    """A count in a header, which the sender of the message may have invented."""
    return mark if isinstance(mark, int) and mark > 0 else 0


def _connection(app: Celery) -> Any:
    return app.producer_pool.connections.connection


def _is_amqp(app: Celery) -> bool:
    return bool(_connection(app).transport.driver_type == "amqp")


def _delays_natively(app: Celery) -> bool:
    return has_quorum_queues(app, _connection(app).transport.driver_type)
