"""Sends the Celery events of a task's lock to Flower and other listeners: LOCK-WAITING, LOCK-ACQUIRED, LOCK-LOST.

Invariants:
1. A task never waits for an event and never fails because of an event, also after an exception from a signal handler.
   A queue takes the events and drops the excess; a daemon thread sends them. With an unreachable broker a direct send
   would block for seconds.
2. The thread starts with the first event, hence after the fork, and uses a connection of Celery's own pool.
3. Like Celery's own task events, these events need a worker with `-E` or `worker_send_task_events`. Tasks with
   `send_events=False`, direct calls and eager runs send none.
4. A release sends no event: a hard time limit leaves 100 ms, and the event of the task's end follows.
5. Field names of the lock's events begin with `lock_`. Other names could overwrite fields of the task in Celery's event
   state (celery/events/state.py).
6. The state of a lock follows STARTED and precedes REVOKED, in every process that imports this module. For Celery a
   custom state comes after REVOKED, so a revoked task would keep the state of its lock.
7. An expired copy sends Celery's own event, because Celery does not see the end of this run.
"""

from __future__ import annotations

import contextlib
import time
import weakref
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any, Protocol

from celery import states
from celery.signals import worker_init

from redlock import _log
from redlock._background import Background
from redlock._locking.caller_context import package_variable
from redlock._process import after_fork_in_child
from redlock.celery.owner_label import Attempt, attempt_of
from redlock.errors import NoThread

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from contextvars import ContextVar

    from celery import Celery, Task

    from redlock.lease import Lease

_MOST_QUEUED = 1_000
_GATHER_SECONDS = 0.05
"""The pause after a message: events in quick succession share the next message."""
_AGAIN_SECONDS = 1.0
"""The shortest time between two waiting events, for a lock whose holder changes often."""
_PAUSE_SECONDS = 1.0
"""The pause after a failure, so that an unreachable broker causes few attempts."""

_STATES = ("LOCK-WAITING", "LOCK-ACQUIRED", "LOCK-LOST")
"""The states of a task in Flower. Celery makes them from the names of the events."""
_order = states.PRECEDENCE_LOOKUP
_order.update(dict.fromkeys(_STATES, (_order[states.REVOKED] + _order[states.STARTED]) / 2))

_worker_sends = False
_listeners: ContextVar[tuple[WaitListener, ...]] = package_variable("redlock_wait_listeners", ())
_senders: weakref.WeakKeyDictionary[Any, Sender] = weakref.WeakKeyDictionary()


class TaskEventEmitter:
    """The events of one run of a task. Every method returns at once and raises nothing.

    Args:
        send: Takes an event's name and fields.
        uncontended: Whether to send an event for a lock that was acquired without waiting.
        since: The begin of the wait, in seconds since 1970; 0 for its first report.
    """

    def __init__(self, send: Callable[..., None], *, uncontended: bool, since: float = 0.0) -> None:
        self._send = send
        self._uncontended = uncontended
        self._waited = False
        self._holder: object = None
        self._since, self._sent_at = since, 0.0

    def waiting(self, resource: object, holder: object) -> None:
        """Report that the task waits for this holder, `-` for an unknown holder. Called at each attempt.

        The beginning of the wait and a change of the holder send an event, for known holders at most once a second.
        """
        if self._waited and holder in {"-", self._holder}:
            return
        now = time.time()
        if self._holder not in {None, "-"} and now < self._sent_at + _AGAIN_SECONDS:
            return
        self._since = self._since or now
        self._waited, self._holder, self._sent_at = True, holder, now
        self._send("task-lock-waiting", lock_resource=resource, lock_holder=holder, lock_since=self._since)

    def acquired(self, lease: Lease) -> None:
        """Report that the task has acquired the lock."""
        if self._uncontended or self._waited:
            self._send(
                "task-lock-acquired",
                lock_resource=lease.resource,
                lock_fence=lease.fence,
                lock_waited_ms=lease.waited_ms,
            )

    def lost(self, lease: Lease) -> None:
        """Report that the lock was lost while the task runs. Called from another thread."""
        self._send("task-lock-lost", lock_resource=lease.resource)


NO_EVENTS = TaskEventEmitter(lambda *_, **__: None, uncontended=False)


def emitter_for(task: Task | None, level: str, since: float = 0.0) -> TaskEventEmitter:
    """The emitter for this run of a task.

    Args:
        task: The task; None outside of a task.
        level: The setting `redlock_events`: "all", "contention" (no events of locks that were free) or "off".
        since: The first delivery of the task, from which its wait counts.
    """
    if not _worker_sends or level == "off" or task is None or not task.send_events:
        return NO_EVENTS
    request = task.request
    if request.called_directly or request.is_eager:
        return NO_EVENTS
    sender, uuid, hostname, attempt = _sender_of(task.app), request.id, request.hostname, Attempt.of(request)

    def send(name: str, **fields: object) -> None:
        holding = attempt_of(str(uuid), fields.get("lock_holder"))
        if holding is not None and holding >= attempt:
            # This run is a redelivered copy with the same id. Listeners keep the state of the run that holds the lock.
            return
        sender.put(hostname, {"type": name, "uuid": uuid, "timestamp": time.time(), **fields})

    return TaskEventEmitter(send, uncontended=level == "all", since=since)


def send_expired(task: Task) -> None:
    """Send Celery's own event of a task that has expired, if the worker sends events."""
    if _worker_sends and task.send_events:
        event = {"type": "task-revoked", "uuid": task.request.id, "timestamp": time.time()}
        _sender_of(task.app).put(task.request.hostname, event | {"terminated": False, "signum": None, "expired": True})


def _sender_of(app: Celery) -> Sender:
    sender = _senders.get(app)
    return _senders.setdefault(app, Sender(app)) if sender is None else sender


class WaitListener(Protocol):
    """An observer of waits for a lock."""

    def waiting(self, resource: object, holder: object) -> None:
        """Another holder has the lock."""


@contextlib.contextmanager
def wait_listeners(*observers: WaitListener) -> Iterator[None]:
    """Report every wait for a lock inside the block to these observers."""
    reset = _listeners.set(observers)
    try:
        yield
    finally:
        _listeners.reset(reset)


def has_listeners() -> bool:
    """Whether observers of this thread, greenlet or task get its waits."""
    return bool(_listeners.get())


def _notice(_event: str, fields: Mapping[str, object]) -> None:
    for observer in _listeners.get():
        observer.waiting(fields["resource"], fields["holder"])


_log.watch(_notice, "waiting", "retry")


class Sender:
    """Sends the events of an app from its own thread."""

    def __init__(self, app: Celery) -> None:
        self._app = weakref.ref(app)
        self.reset_after_fork()

    def reset_after_fork(self) -> None:
        """Discard the parent's thread and queue in a forked child."""
        self._queue: SimpleQueue[tuple[str, dict[str, object]]] = SimpleQueue()
        self._dropped = 0
        """The events that found the queue full since the last message."""
        self._background = Background("redlock-events", self._work)

    def put(self, hostname: str, event: dict[str, object]) -> None:
        """Queue an event for the thread. A full queue drops the event, and the thread logs the number of these."""
        if self._queue.qsize() < _MOST_QUEUED:
            self._queue.put((hostname, event))
        else:
            self._dropped += 1
        # Without a thread, the next event tries again: no event may fail the task.
        with contextlib.suppress(NoThread):
            self._background.wake(0)

    def _work(self) -> None:
        batch = []
        with contextlib.suppress(Empty):
            while True:
                batch.append(self._queue.get_nowait())
        app = self._app()
        if app is None or not batch:
            return
        dropped, self._dropped = self._dropped, 0
        if dropped:
            _log.debug("events-dropped", count=dropped, why="the broker takes them too slowly")
        try:
            self._send(app, batch)
            time.sleep(_GATHER_SECONDS)
        except Exception as error:  # noqa: BLE001 - each broker has its own errors; the thread must go on
            _log.debug("events-dropped", count=len(batch), why=error)
            time.sleep(_PAUSE_SECONDS)

    @staticmethod
    def _send(app: Celery, batch: list[tuple[str, dict[str, object]]]) -> None:
        # All events of a process are from the same worker, so they share a message, as Celery's own events do.
        with app.events.default_dispatcher(hostname=batch[0][0]) as dispatcher:
            dispatcher.buffer_group, dispatcher.buffer_limit = {"task"}, len(batch) + 1
            for _, event in batch:
                fields = dict(event)
                dispatcher.send(fields.pop("type"), **fields)
            dispatcher.flush(errors=False)


@worker_init.connect
def _read_worker_options(sender: Any, **_: Any) -> None:
    global _worker_sends  # noqa: PLW0603 - a process is at most one worker
    _worker_sends = bool(sender.task_events)


def _reset_all_after_fork() -> None:
    for sender in list(_senders.values()):
        sender.reset_after_fork()


after_fork_in_child(_reset_all_after_fork)
