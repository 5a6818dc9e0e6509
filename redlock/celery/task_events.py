"""What Flower and other listeners are told of a task's lock: LOCK-WAITING, LOCK-ACQUIRED, LOCK-LOST.

Rules of this file:
1. A task never waits for an event and never fails for one: it is put into a bounded queue, which drops what it has
   no room for, and a daemon thread sends it. A broker that is down would hold up the sender for seconds.
2. The thread starts with the first event, so after the fork, and takes its connection from Celery's own pool.
3. As Celery's own task events, these are sent only by a worker that was started to send them (`-E`, or
   `worker_send_task_events`), and not for tasks with `send_events=False`, direct calls and eager runs.
4. Nothing is sent about a release: a hard time limit leaves 100 ms, and what follows is the task's own end.
5. Fields begin with `lock_`: others would overwrite the task's own in Celery's event state (celery/events/state.py).
"""

from __future__ import annotations

import contextlib
import os
import queue
import threading
import time
import weakref
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Protocol

from celery.signals import worker_init

from redlock import _log

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from celery import Celery, Task

    from redlock.lease import Lease

_MOST_QUEUED = 1_000
_GATHER_SECONDS = 0.05
"""After a message, so that what happens in a hurry is told in one message instead of many."""
_AGAIN_SECONDS = 1.0
"""A lock that changes hands all the time must not send an event for each of its holders."""
_PAUSE_SECONDS = 1.0
"""After a failure, so that a broker that is down is not tried without end."""

_worker_sends = False
_ears: ContextVar[tuple[WaitListener, ...]] = ContextVar("redlock_ears", default=())
_senders: weakref.WeakKeyDictionary[Any, Sender] = weakref.WeakKeyDictionary()


class TaskEventEmitter:
    """What listeners are told of one run of a task; every method returns at once and raises nothing.

    Args:
        tell: Takes an event's name and fields.
        everything: Whether a lock that was had without waiting is worth an event.
    """

    def __init__(self, tell: Callable[..., None], *, everything: bool) -> None:
        self._tell = tell
        self._everything = everything
        self._waited = False
        self._holder: object = None
        self._since = self._told_at = 0.0

    def waiting(self, resource: object, holder: object) -> None:
        """The task waits for this holder, `-` if it is unknown; called at each attempt.

        An event is sent when the wait begins and when the holder changes, but only once a second for known holders.
        """
        if self._waited and holder in {"-", self._holder}:
            return
        now = time.time()
        if self._holder not in {None, "-"} and now < self._told_at + _AGAIN_SECONDS:
            return
        self._since = self._since or now
        self._waited, self._holder, self._told_at = True, holder, now
        self._tell("task-lock-waiting", lock_resource=resource, lock_holder=holder, lock_since=self._since)

    def acquired(self, lease: Lease) -> None:
        """The task has the lock."""
        if self._everything or self._waited:
            self._tell(
                "task-lock-acquired",
                lock_resource=lease.resource,
                lock_fence=lease.fence,
                lock_waited_ms=lease.waited_ms,
            )

    def lost(self, lease: Lease) -> None:
        """The lock was lost while the task is at work; called from another thread."""
        self._tell("task-lock-lost", lock_resource=lease.resource)


NO_EVENTS = TaskEventEmitter(lambda *_, **__: None, everything=False)


def told(task: Task | None, level: str) -> TaskEventEmitter:
    """Whom to tell about this run of a task.

    Args:
        task: The task, None outside of one.
        level: The setting `redlock_events`: "all", "contention" (nothing about locks that were free) or "off".
    """
    if not _worker_sends or level == "off" or task is None or not task.send_events:
        return NO_EVENTS
    request = task.request
    if request.called_directly or request.is_eager:
        return NO_EVENTS
    sender = _senders.get(task.app)
    if sender is None:
        sender = _senders.setdefault(task.app, Sender(task.app))
    uuid, hostname = request.id, request.hostname

    def tell(name: str, **fields: object) -> None:
        if str(fields.get("lock_holder", "")).startswith(f"{uuid}@"):
            return  # A copy that was delivered again: what is shown is the state of the run that holds the lock.
        sender.put(hostname, {"type": name, "uuid": uuid, "timestamp": time.time(), **fields})

    return TaskEventEmitter(tell, everything=level == "all")


class WaitListener(Protocol):
    """Somebody who wants to hear of a wait."""

    def waiting(self, resource: object, holder: object) -> None:
        """Somebody else has the lock."""


@contextlib.contextmanager
def wait_listeners(*observers: WaitListener) -> Iterator[None]:
    """In this block, which takes a lock, they hear of every wait."""
    reset = _ears.set(observers)
    try:
        yield
    finally:
        _ears.reset(reset)


def _notice(_event: str, fields: Mapping[str, object]) -> None:
    for observer in _ears.get():
        observer.waiting(fields["resource"], fields["holder"])


_log.watch(_notice, "waiting", "retry")


class Sender:
    """Sends events of one app from a thread of its own."""

    def __init__(self, app: Celery) -> None:
        self._app = weakref.ref(app)
        self.reset_after_fork()

    def reset_after_fork(self) -> None:
        """In a forked child: the parent's thread and what waits for it are not ours."""
        self._queue: queue.Queue[tuple[str, dict[str, object]]] = queue.Queue(_MOST_QUEUED)
        self._starting = threading.Lock()
        self._thread: threading.Thread | None = None

    def put(self, hostname: str, event: dict[str, object]) -> None:
        """Have an event sent, or drop it where too many wait already."""
        with contextlib.suppress(queue.Full):
            self._queue.put_nowait((hostname, event))
        if self._thread is None:
            with self._starting:
                if self._thread is None:
                    self._thread = threading.Thread(target=self._run, name="redlock-events", daemon=True)
                    self._thread.start()

    def _run(self) -> None:
        while True:
            batch = [self._queue.get()]
            with contextlib.suppress(queue.Empty):
                while True:
                    batch.append(self._queue.get_nowait())
            app = self._app()
            if app is None:
                return
            try:
                self._send(app, batch)
                time.sleep(_GATHER_SECONDS)
            except Exception as error:  # noqa: BLE001 - whatever it is, no task shall hear of it
                _log.debug("events-dropped", count=len(batch), why=error)
                time.sleep(_PAUSE_SECONDS)
            # A name that lives on until the next event would keep a dropped app alive.
            del app

    @staticmethod
    def _send(app: Celery, batch: list[tuple[str, dict[str, object]]]) -> None:
        # All of one process are of one worker. One message for all of them, as Celery's workers do it with theirs.
        with app.events.default_dispatcher(hostname=batch[0][0]) as dispatcher:
            dispatcher.buffer_group, dispatcher.buffer_limit = {"task"}, len(batch) + 1
            for _, event in batch:
                fields = dict(event)
                dispatcher.send(fields.pop("type"), **fields)
            dispatcher.flush(errors=False)


@worker_init.connect
def _look_at_the_worker(sender: Any, **_: Any) -> None:  # noqa: ANN401 - Celery's signals pass what they like
    global _worker_sends  # noqa: PLW0603 - a process is one worker or none
    _worker_sends = bool(sender.task_events)


def _reset_all_after_fork() -> None:
    for sender in list(_senders.values()):
        sender.reset_after_fork()


os.register_at_fork(after_in_child=_reset_all_after_fork)
