"""Tests of `task_events`: the events of a task's lock, and the task's independence of the sender."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from celery import Celery
from celery.events.state import State

from redlock import _log
from redlock.celery import expiry, task_events
from redlock.celery.task_events import NO_EVENTS, Sender, TaskEventEmitter, emitter_for, wait_listeners
from tests.no_threads import no_thread

APP = Celery(set_as_current=False, broker="memory://")


@APP.task(name="tests.test_events.charge", bind=True)
def charge(self: Any) -> None:  # noqa: ANN401 - Celery is untyped
    """A task that needs a lock."""


@APP.task(name="tests.test_events.quiet", bind=True, send_events=False)
def quiet(self: Any) -> None:  # noqa: ANN401 - Celery is untyped
    """A task that sends no events."""


LEASE: Any = SimpleNamespace(resource="account:42", fence=7, waited_ms=12)


class Listener:
    def __init__(self) -> None:
        self.heard: list[str] = []
        self.fields: list[dict[str, object]] = []

    def __call__(self, name: str, **fields: object) -> None:
        self.heard.append(name)
        self.fields.append(fields)


@pytest.fixture
def listener() -> Listener:
    return Listener()


@pytest.fixture
def run(listener: Listener) -> TaskEventEmitter:
    """The events of a task that tells of no free lock."""
    return TaskEventEmitter(listener, uncontended=False)


@pytest.fixture
def in_a_worker(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Any]]:
    """The task in a worker that sends task events, with these fields of the request."""
    monkeypatch.setattr(task_events, "_worker_sends", True)
    pushed = []

    def run(task: Any = charge, **fields: Any) -> Any:  # noqa: ANN401 - Celery is untyped
        task.push_request(**{"id": "id-1", "hostname": "w1@h", "called_directly": False} | fields)
        pushed.append(task)
        return task

    yield run
    for task in pushed:
        task.pop_request()


def test_a_wait_is_told_once_however_often_the_task_tries(listener: Listener, run: TaskEventEmitter) -> None:
    with wait_listeners(run):
        for _ in range(3):
            _log.debug("retry", resource="account:42", holder="task-9@h (01234567)")
    assert listener.heard == ["task-lock-waiting"]
    (fields,) = listener.fields
    assert (fields["lock_resource"], fields["lock_holder"]) == ("account:42", "task-9@h (01234567)")


def test_a_wait_is_told_before_the_first_attempt(listener: Listener, run: TaskEventEmitter) -> None:
    with wait_listeners(run):
        _log.info("waiting", resource="account:42", holder="-")
    assert listener.heard == ["task-lock-waiting"]


@pytest.mark.parametrize("delivered", [0.0, 40.0])
def test_a_new_holder_is_told_but_not_each_of_many(
    listener: Listener, monkeypatch: pytest.MonkeyPatch, delivered: float
) -> None:
    """The wait began with the first delivery of the task, perhaps in an earlier run."""
    run = TaskEventEmitter(listener, uncontended=False, since=delivered)
    now = 100.0
    monkeypatch.setattr(time, "time", lambda: now)
    for at, holder in ((100.0, "-"), (100.1, "a"), (100.2, "b"), (101.2, "-"), (101.3, "c"), (103.0, "c")):
        now = at
        run.waiting("account:42", holder)
    assert [(one["lock_holder"], one["lock_since"]) for one in listener.fields] == [
        ("-", delivered or 100.0),
        ("a", delivered or 100.0),
        ("c", delivered or 100.0),
    ]


def test_a_wait_that_is_none_of_this_tasks_is_not_told(listener: Listener, run: TaskEventEmitter) -> None:
    with wait_listeners(run):
        other = threading.Thread(target=_log.debug, args=("retry",), kwargs={"resource": "x", "holder": "y"})
        other.start()
        other.join()
        _log.debug("extended", resource="account:42", holder="it")
    _log.debug("retry", resource="account:42", holder="it")
    assert listener.heard == []


def test_a_lock_that_was_free_is_told_only_where_everything_is() -> None:
    for uncontended, heard in ((True, ["task-lock-acquired"]), (False, [])):
        listener = Listener()
        TaskEventEmitter(listener, uncontended=uncontended).acquired(LEASE)
        assert listener.heard == heard


def test_after_a_wait_acquired_and_lost_are_sent(listener: Listener, run: TaskEventEmitter) -> None:
    run.waiting("account:42", "-")
    run.acquired(LEASE)
    run.lost(LEASE)
    assert listener.heard == ["task-lock-waiting", "task-lock-acquired", "task-lock-lost"]
    assert all(name.startswith("lock_") for fields in listener.fields for name in fields), "as no field of Celery's"
    assert listener.fields[1] == {"lock_resource": "account:42", "lock_fence": 7, "lock_waited_ms": 12}


def test_a_worker_that_sends_task_events_tells_of_its_tasks(in_a_worker: Callable[..., Any]) -> None:
    assert emitter_for(in_a_worker(), "all") is not NO_EVENTS
    assert emitter_for(in_a_worker(), "contention") is not NO_EVENTS


def test_nobody_is_told_where_celery_itself_would_tell_nobody(in_a_worker: Callable[..., Any]) -> None:
    assert emitter_for(None, "all") is NO_EVENTS
    assert emitter_for(in_a_worker(), "off") is NO_EVENTS
    assert emitter_for(in_a_worker(quiet), "all") is NO_EVENTS
    assert emitter_for(in_a_worker(called_directly=True), "all") is NO_EVENTS
    assert emitter_for(in_a_worker(is_eager=True), "all") is NO_EVENTS


def test_a_worker_without_task_events_tells_nobody(
    in_a_worker: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(task_events, "_worker_sends", False)
    assert emitter_for(in_a_worker(), "all") is NO_EVENTS


def test_events_beyond_the_limit_are_dropped_and_counted(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(time, "sleep", lambda _seconds: None)
    caplog.set_level("DEBUG", "redlock")
    sent: list[object] = []
    monkeypatch.setattr(Sender, "_send", staticmethod(lambda _app, batch: sent.extend(batch)))
    sender = Sender(APP)
    with no_thread():  # that empties the queue
        for number in range(1_500):
            sender.put("w1@h", {"type": "task-lock-waiting", "uuid": str(number)})
    assert sender._queue.qsize() == 1_000
    for _ in range(2):
        sender._work()
    assert len(sent) == 1_000
    assert caplog.messages == ["events-dropped count=500 why='the broker takes them too slowly'"], "counted once"


def test_nothing_is_made_before_there_is_something_to_tell() -> None:
    assert not Sender(APP)._background._running.locked()


def test_a_forked_child_starts_anew() -> None:
    sender = Sender(APP)
    with sender._background._running:
        sender.put("w1@h", {"type": "task-lock-waiting", "uuid": "1"})
        sender.reset_after_fork()
    assert not sender._background._running.locked()
    assert sender._queue.empty()


def test_an_expired_copy_is_told_as_celery_tells_it(
    in_a_worker: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[tuple[str, dict[str, object]]] = []
    monkeypatch.setattr(Sender, "put", lambda _self, hostname, event: sent.append((hostname, event)))
    monkeypatch.setattr("time.time", lambda: 5.0)
    expiry.revoke(in_a_worker())
    fields = {"uuid": "id-1", "timestamp": 5.0, "terminated": False, "signum": None, "expired": True}
    assert sent == [("w1@h", {"type": "task-revoked"} | fields)]
    expiry.revoke(in_a_worker(quiet))
    monkeypatch.setattr(task_events, "_worker_sends", False)
    expiry.revoke(in_a_worker())
    assert len(sent) == 1


def test_a_copy_that_waits_for_its_first_copy_tells_nothing(
    in_a_worker: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[str] = []
    monkeypatch.setattr(Sender, "put", lambda _self, _hostname, event: sent.append(event["lock_holder"]))
    for holder in ("id-1@w2 since 1 (01234567)", "id-1@w2 retry 1 since 1", "id-12@w2 since 1 (01234567)"):
        emitter_for(in_a_worker(), "all").waiting("account:42", holder)
    assert sent == ["id-12@w2 since 1 (01234567)"]
    emitter_for(in_a_worker(retries=1), "all").waiting("account:42", "id-1@w2 since 1")
    assert sent[1:] == ["id-1@w2 since 1"], "a retry waits for its earlier attempt"


@pytest.mark.parametrize("last", ["waiting", "acquired", "lost"])
def test_the_end_of_a_task_replaces_the_state_of_its_lock(last: str) -> None:
    """Also the event of a revoked task, which is no later one for Celery than the event of a state of its own."""
    seen = State()

    def shown(*kinds: str) -> str:
        for kind in kinds:
            event = {"type": f"task-{kind}", "uuid": "1", "hostname": "w@h", "timestamp": 1.0, "local_received": 1.0}
            seen.event(event | {"clock": 1, "pid": 1, "utcoffset": 0})
        return str(seen.tasks["1"].state)

    assert shown("received", "started", f"lock-{last}") == f"LOCK-{last.upper()}"
    assert shown("started") == f"LOCK-{last.upper()}"
    assert shown("revoked", f"lock-{last}") == "REVOKED"
    assert shown("succeeded") == "SUCCESS"
