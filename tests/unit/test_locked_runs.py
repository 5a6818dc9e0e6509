"""`@locked` around a body: each ending of a run, with a lease that needs no node."""

from __future__ import annotations

import contextlib
import functools
import gc
import itertools
import time
import weakref
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from celery import Celery, Task
from celery._state import _task_stack
from celery.exceptions import Ignore, Reject, Retry, SoftTimeLimitExceeded
from celery.signals import task_postrun, task_prerun

from redlock import LockContended, LockLost, NotHeld, NoThread, QuorumUnavailable, Redlock, RedlockError, Stale, _log
from redlock.celery import (
    current_lease,
    decorator,
    duplicate_delivery,
    locked,
    lost_lease,
    pools,
    single_delivery,
    task_events,
    task_registry,
)
from redlock.celery.conflict_policy import Policy
from redlock.celery.delivery import SINCE, Delivery, Returned
from redlock.celery.duplicate_delivery import COPY, REQUEUES
from redlock.celery.task_events import Sender
from redlock.celery.task_registry import TASK_LOCKS
from tests.repeated_calls import again
from tests.unit.locked_tasks import called_class
from tests.versions import needs_celery_5_5

APP = Celery("runs", set_as_current=False, broker="memory://")
NUMBERS = itertools.count()
CONTENDED = LockContended("x", "task-1@host (01234567)", 1.5)
LOST = LockLost("x", "its time was over")


class GivenLease:
    """A lease; a test decides each of its steps.

    Args:
        names: The resources.
        options: As for `Redlock.lease`.
    """

    def __init__(self, names: list[str], options: dict[str, Any]) -> None:
        self.names, self.options, self.resource = tuple(names), options, ", ".join(names)
        self.fence, self.waited_ms, self.is_lost, self.seen = 7, 0, False, ""
        self.waited_before: list[int] = []
        self.waits: list[int | None] = []
        self.acquiring: list[BaseException | None] = []
        self.ends: list[str] = []
        self.ending: BaseException | None = None

    def acquire(self, timeout_ms: int | None) -> None:
        self.waits.append(timeout_ms)
        self.waited_before.append(self.waited_ms)
        if self.seen:
            _log.debug("waiting", resource=self.resource, owner_label="me", holder=self.seen, position=1)
        if self.acquiring and (error := self.acquiring.pop(0)) is not None:
            raise error

    def ensure_valid(self) -> None:
        """Before a body that a loss interrupts."""

    def release(self) -> None:
        self._end("release")

    def close(self) -> None:
        self._end("close")

    def _end(self, how: str) -> None:
        self.ends.append(how)
        if self.ending is not None:
            raise self.ending


class Client(Redlock):
    """A client that gives a lease without nodes."""

    given: GivenLease
    acquiring: list[BaseException | None]
    ending: BaseException | None = None
    seen = ""

    def lease(self, names: Any, **options: Any) -> Any:  # type: ignore[override]  # noqa: ANN401 - not all of it
        self.given = GivenLease(names, options)
        self.given.acquiring, self.given.ending, self.given.seen = self.acquiring, self.ending, self.seen
        return self.given


@pytest.fixture
def client(monkeypatch: pytest.MonkeyPatch) -> Client:
    made = Client(["h:1", "h:2", "h:3", "h:4", "h:5"], max_ttl=60.0)
    made.acquiring = []
    monkeypatch.setattr(decorator, "client_of", lambda *_: made)
    return made


class Worker:
    """Runs functions as a worker runs a task, and keeps the messages that go back to the queue."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.sent: list[dict[str, Any]] = []
        self.refused = 0
        """How many messages the broker refuses."""
        self.interruption: BaseException | None = None
        self.sleeps: list[float] = []
        self._patch = monkeypatch

    def run(self, function: Callable[..., Any] | None = None, *, task: Any = None, **options: Any) -> Any:  # noqa: ANN401 - Celery is untyped
        """Run a function as the body of a task, or a task, with these options and fields of the request."""
        own = {name: options.pop(name) for name in ("bind", "base", "autoretry_for") if name in options}
        entry, fields = options.pop("entry", "run"), options
        task = task or APP.task(function, name=f"runs.{next(NUMBERS)}", acks_late=True, shared=False, **own)
        self._patch.setattr(Task, "apply_async", lambda _, *given, **options: self._send(*given, **options))
        usual: dict[str, Any] = {
            "id": "id-1",
            "args": [],
            "kwargs": {},
            "hostname": "w1@h",
            "called_directly": False,
            "delivery_info": {"exchange": "", "routing_key": "slow"},
        }
        task.push_request(**usual | fields)
        _task_stack.push(task)
        task_prerun.send(sender=task, task=task)
        try:
            return getattr(task, entry)()
        finally:
            task_postrun.send(sender=task, task=task)
            _task_stack.pop()
            task.pop_request()

    def _send(self, args: object, kwargs: object, **options: Any) -> None:  # noqa: ANN401 - as Celery
        if self.interruption is not None:
            raise self.interruption
        if self.refused:
            self.refused -= 1
            raise ConnectionError("the broker is down")
        self.sent.append(options | {"args": args, "kwargs": kwargs})


@pytest.fixture
def worker(monkeypatch: pytest.MonkeyPatch) -> Iterator[Worker]:
    made = Worker(monkeypatch)
    monkeypatch.setattr(time, "sleep", made.sleeps.append)
    yield made
    with pytest.raises(NotHeld):
        current_lease()


def returning(value: object) -> Callable[[], object]:
    def give() -> object:
        return value

    return give


def raising(error: BaseException) -> Callable[[], object]:
    def fail() -> object:
        raise error

    return fail


def test_a_run_gets_the_lease_that_its_options_ask_for(client: Client, worker: Worker) -> None:
    lease = worker.run(locked(["x", "y"], ttl=20.0, wait=2.5, max_hold=30.0, reentrant=True)(current_lease))
    assert lease is client.given
    options = client.given.options
    assert (client.given.names, client.given.waits, client.given.ends) == (("x", "y"), [2_500], ["close"])
    assert (options["ttl_ms"], options["max_hold_ms"]) == (20_000, 30_000)
    assert (options["renew"], options["reentrant"]) == (True, True)
    assert options["owner_label"].startswith("id-1@w1@h since ")


def test_a_copy_that_gets_the_lock_after_the_end_does_not_run(
    client: Client, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Delivery, "is_finished", lambda _self, *, awaits_result=False: awaits_result)
    with pytest.raises(Ignore):
        worker.run(locked("x")(raising(ValueError("the body"))))
    assert client.given.ends == ["release"]


def test_the_wait_of_a_run_counts_from_its_first_delivery(
    client: Client, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    now, acquire, shown = [7_200.0], GivenLease.acquire, list[object]()

    def wait(lease: GivenLease, timeout_ms: int | None) -> None:
        now[0] += 2
        try:
            acquire(lease, timeout_ms)
        finally:
            shown.extend(entry["since"] for entry in TASK_LOCKS.listed())

    def put(_: Sender, _hostname: str, event: dict[str, object]) -> None:
        shown.append(event.get("lock_since"))

    monkeypatch.setattr(GivenLease, "acquire", wait)
    monkeypatch.setattr("redlock.celery.delivery.time", SimpleNamespace(time=lambda: now[0]))
    monkeypatch.setattr(Sender, "put", put)
    monkeypatch.setattr(task_events, "_worker_sends", True)
    client.acquiring, client.seen, worker.refused = [CONTENDED, None], "task-1@host since 12", 1
    worker.run(locked("x")(returning(1)), headers={SINCE: 3_600.0})
    assert client.given.waited_before == [3_600_000, 3_602_000]
    began = "1970-01-01T01:00:00.000Z"
    assert shown == [3_600.0, began, began, None], "the last event is that of the acquired lock"


def test_a_call_outside_of_a_worker_has_a_lease_of_its_process(client: Client) -> None:
    lease: Any = locked("x")(current_lease)()
    assert lease is client.given
    assert client.given.options["owner_label"] is None, "host, process and thread, as for any lock"
    assert (client.given.options["max_hold_ms"], client.given.waited_ms) == (None, 0)
    assert client.given.options["ttl_ms"] is None, "the client's own"
    client.acquiring, client.seen = [CONTENDED], "id-1@h"
    with pytest.raises(LockContended):
        locked("x")(returning(1))()
    assert client.given.ends == ["release"]


def test_a_task_that_calls_another_directly_has_no_message(client: Client, worker: Worker) -> None:
    worker.run(locked("x")(returning(1)), called_directly=True)
    assert client.given.options["owner_label"] is None


def test_a_run_that_has_met_its_first_copy_leaves_no_trace(client: Client, worker: Worker) -> None:
    client.acquiring, client.seen = [CONTENDED], "id-1@w2@h since 12"
    with pytest.raises(Ignore):
        worker.run(locked("x")(returning(1)))
    assert len(worker.sent) == 1


@pytest.mark.parametrize("on_lost", ["check", "raise"])
def test_a_run_is_listed_and_interrupted_by_its_loss(client: Client, worker: Worker, on_lost: Any) -> None:  # noqa: ANN401
    states: list[object] = []

    def body() -> None:
        states.extend(shown["state"] for shown in task_registry.TASK_LOCKS.listed())
        client.given.is_lost = True
        client.given.options["on_lost"](client.given)
        states.extend(shown["state"] for shown in task_registry.TASK_LOCKS.listed())

    with pytest.raises(LockLost) if on_lost == "raise" else contextlib.nullcontext():
        worker.run(locked("x", on_lost=on_lost)(body))
    assert states == (["holds"] if on_lost == "raise" else ["holds", "lost"])
    assert task_registry.TASK_LOCKS.listed() == []


def test_a_pool_without_signals_is_refused_at_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lost_lease, "_tasks", [])
    lost_lease._check_pool(SimpleNamespace(pool_cls="threads"))
    for body in (returning, raising):
        locked("x", on_lost="raise")(body)
    locked("x")(returning)
    said = (
        f"on_lost='raise' of {__name__}.returning, {__name__}.raising needs the prefork or solo pool; "
        "this worker's is thread. Use on_lost='check' and current_lease().ensure_valid()"
    )
    with pytest.raises(SystemExit) as refused:
        lost_lease._check_pool(SimpleNamespace(pool_cls="threads"))
    assert str(refused.value) == said
    lost_lease._check_pool(SimpleNamespace(pool_cls="solo"))


LIMITS = [((7, 5), 9, 11, 7_000), ((None, 5), 9, 11, 9_000), (None, None, 11, 11_000), (None, None, None, None)]


@pytest.mark.parametrize("limits", LIMITS, ids=["message", "task", "worker", "none"])
def test_a_lease_is_renewed_until_the_hard_limit_of_the_run(
    client: Client, worker: Worker, monkeypatch: pytest.MonkeyPatch, limits: tuple[Any, ...]
) -> None:
    message, own, of_worker, expected_ms = limits
    monkeypatch.setattr(pools, "_name", "prefork")
    monkeypatch.setattr(pools, "_time_limit", of_worker)
    monkeypatch.setattr(APP.Task, "time_limit", own)
    worker.run(locked("x")(returning(1)), timelimit=message)
    assert client.given.options["max_hold_ms"] == expected_ms
    worker.run(locked("x", max_hold=7.5)(returning(1)), timelimit=message)
    assert client.given.options["max_hold_ms"] == 7_500


@pytest.mark.parametrize("error", [ValueError("body"), SystemExit(1), Retry(), Ignore()])
def test_an_error_of_the_body_is_not_masked_by_the_release(
    client: Client, worker: Worker, error: BaseException
) -> None:
    client.ending = LOST
    with pytest.raises(type(error)) as caught:
        worker.run(locked("x")(raising(error)))
    assert caught.value is error
    assert client.given.ends == ["release"]


def test_a_lease_that_was_lost_fails_a_run_that_succeeded(client: Client, worker: Worker) -> None:
    client.ending = LOST
    with pytest.raises(LockLost):
        worker.run(locked("x")(returning(1)))


def test_a_skipped_run_has_no_lease_to_close(client: Client, worker: Worker) -> None:
    client.acquiring, client.ending = [CONTENDED], NotHeld("not held")
    value = worker.run(locked("x", on_conflict="skip")(returning(1)))
    assert value == {"status": "skipped", "resource": "x", "holder": CONTENDED.holder}
    assert client.given.ends == []


def test_a_stale_write_is_remembered_and_begun_again(client: Client, worker: Worker) -> None:
    seen = client._context.proposal(("x",), 0) + 10**15
    body = raising(Stale("x", 7, seen))
    with pytest.raises(Retry):
        worker.run(locked("x")(body))
    (again,) = worker.sent
    assert again["headers"][REQUEUES] == 1
    assert client.given.ends == ["release"], "before the message goes back"
    assert client._context.proposal(("x",), 0) == seen + 1
    with pytest.raises(Stale):
        worker.run(locked("x", on_conflict="raise")(body))
    with pytest.raises(Stale):
        worker.run(locked("x", max_requeues=2)(body), headers={REQUEUES: 2})
    assert len(worker.sent) == 1


def test_a_stale_run_waits_until_the_broker_takes_it(client: Client, worker: Worker) -> None:
    worker.refused = 2
    with pytest.raises(Retry):
        worker.run(locked("x")(raising(Stale("x", 7, 8))))
    assert len(worker.sent) == 1
    assert worker.sleeps == [1.0, 2.0]
    assert client.given.ends == ["release"]


@pytest.mark.parametrize(
    "error",
    [CONTENDED, QuorumUnavailable("x", 3, 5, {}), NoThread("no thread", "x"), SoftTimeLimitExceeded()],
    ids=["contended", "no quorum", "no thread", "overtime"],
)
def test_a_run_without_its_lock_goes_back(client: Client, worker: Worker, error: BaseException) -> None:
    client.acquiring = [error]
    with pytest.raises(Retry):
        worker.run(locked("x")(returning(1)))
    assert len(worker.sent) == 1
    assert client.given.ends == ["release"]


@pytest.mark.parametrize(("error", "sleeps"), [(CONTENDED, []), (NoThread("no thread", "x"), [1.0, 2.0])])
def test_a_run_waits_longer_while_the_broker_refuses_it(
    client: Client, worker: Worker, error: RedlockError, sleeps: list[float]
) -> None:
    """The acquire of a free lock does not wait, so a process without threads sleeps before it."""
    client.acquiring, worker.refused = [error, error, None], 2
    assert worker.run(locked("x", wait=0)(returning(1))) == 1
    assert client.given.waits == [0, 1_000, 2_000]
    assert worker.sleeps == sleeps


def test_a_lock_inside_a_locked_body_never_sends_the_task_back(client: Client, worker: Worker) -> None:
    def body() -> None:
        client.acquiring = [CONTENDED]
        locked("y")(returning(1))()

    with pytest.raises(LockContended):
        worker.run(locked("x")(body))
    assert worker.sent == []


@pytest.mark.parametrize("how", ["function", "run"])
def test_a_call_from_a_body_never_sends_its_task_back(client: Client, worker: Worker, how: str) -> None:
    called = locked("y")(returning(1))
    inner = APP.task(called, name=f"runs.{next(NUMBERS)}", shared=False) if how == "run" else None

    def body() -> None:
        client.acquiring = [CONTENDED]
        (called if inner is None else inner.run)()

    with pytest.raises(LockContended):
        worker.run(body)
    assert worker.sent == []


def through(function: Callable[..., Any]) -> Callable[..., Any]:
    """A decorator between `@app.task` and `@locked`."""

    @functools.wraps(function)
    def call(*args: object, **kwargs: object) -> object:
        return function(*args, **kwargs)

    return call


class Charge(APP.Task):  # type: ignore[name-defined,misc]  # Celery is untyped
    abstract = True

    @locked("x")
    def run(self) -> None:
        """The body."""


class Refund(Charge):
    """A task that uses the `run` of its base class."""

    name = "runs.refund"

    def run(self) -> None:
        super().run()


class Repeating(APP.Task):  # type: ignore[name-defined,misc]  # Celery is untyped
    """A base class of tasks that are called up to three times."""

    abstract = True

    def __call__(self, *args: object, **kwargs: object) -> object:
        return again(super().__call__)(*args, **kwargs)


class Once(APP.Task):  # type: ignore[name-defined,misc]  # Celery is untyped
    """A base class of tasks that sends no task twice, as `QueueOnce` of celery-once."""

    abstract = True

    def apply_async(self, *_: object, **__: object) -> None:
        """Send nothing."""


def of_itself(_task: object) -> None:
    """The body of a bound task."""


WAYS: dict[str, Any] = {
    "bound": {"function": locked("x")(of_itself), "bind": True},
    "autoretry": {"function": locked("x")(returning(1)), "autoretry_for": (ValueError,)},
    "decorated": {"function": through(through(locked("x")(returning(1))))},
    "bound, decorated, autoretry": {
        "function": through(locked("x")(of_itself)), "bind": True, "autoretry_for": (ValueError,)
    },
    "class": {"task": APP.register_task(Refund())},
    "call": {"function": returning(1), "base": called_class(), "entry": "__call__"},
    "once": {"function": locked("x")(returning(1)), "base": Once},
    "repeated": {"function": again(locked("x")(returning(1)))},
    "call, repeated": {"function": locked("x")(returning(1)), "base": Repeating, "entry": "__call__"},
}  # fmt: skip


@pytest.mark.parametrize(
    "way", [pytest.param(way, marks=[needs_celery_5_5] if way == "call, repeated" else []) for way in WAYS]
)
def test_a_task_goes_back_however_it_is_made(client: Client, worker: Worker, way: str) -> None:
    client.acquiring = [CONTENDED]
    with pytest.raises(Retry):
        worker.run(**WAYS[way])
    assert len(worker.sent) == 1


@pytest.mark.parametrize(("end", "runs"), [(Retry(), 1), (Ignore(), 3), (Reject(), 3)], ids=repr)
def test_a_run_that_has_sent_its_retry_is_not_repeated(
    client: Client, worker: Worker, end: Exception, runs: int
) -> None:
    """An `Ignore` or `Reject` of the body has no effect until it leaves the task."""
    client.acquiring, bodies = [None] * runs + [AssertionError("one acquire more")], []

    def body() -> None:
        bodies.append(1)
        raise end

    with pytest.raises(type(end)) as caught:
        worker.run(again(locked("x")(body)))
    assert (caught.value, len(bodies)) == (end, runs)


def test_a_request_that_stays_on_the_stack_ends_no_later_run(client: Client, worker: Worker) -> None:
    """As after a `before_start` that pushes a request, and a `Retry`, after which Celery calls no `after_return`."""
    bodies = []

    @locked("x")
    def body() -> None:
        bodies.append(task.request.id)
        task.push_request()
        raise Retry

    task = APP.task(body, name=f"runs.{next(NUMBERS)}", acks_late=True, shared=False)
    for number, outcome in enumerate([CONTENDED, None, None, CONTENDED]):
        client.acquiring = [outcome]
        with pytest.raises(Retry):
            worker.run(task=task, id=f"id-{number}", args=[number])
    assert (bodies, [message["args"] for message in worker.sent]) == (["id-1", "id-2"], [[0], [3]])


def test_a_task_of_the_body_does_not_end_its_run(client: Client, worker: Worker) -> None:
    client.acquiring, bodies = [None, AssertionError("a second acquire")], []
    inner = APP.task(returning(1), name=f"runs.{next(NUMBERS)}", shared=False)

    def body() -> None:
        bodies.append(inner.apply().get())
        raise Retry

    with pytest.raises(Retry):
        worker.run(again(locked("x")(body)))
    assert bodies == [1]


def test_a_run_that_ended_leaves_nothing_to_the_collector(
    client: Client, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With an `Ignore`: a `Retry` of Celery refers to itself."""
    client.acquiring, kept = [None], list[weakref.ref[Delivery]]()

    def is_finished(*_: object, **__: object) -> bool:
        run = single_delivery._run.get()
        assert run is not None
        assert run.delivery is not None
        kept.append(weakref.ref(run.delivery))
        return True

    monkeypatch.setattr(duplicate_delivery, "is_finished", is_finished)
    gc.disable()
    try:
        with contextlib.suppress(Ignore):
            worker.run(locked("x")(returning(1)), headers={COPY: 0})
        assert kept[0]() is None
    finally:
        gc.enable()


def test_the_time_of_an_earlier_body_is_no_wait(
    client: Client, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A copy that has run its body awaits no result of the first copy either."""
    waited, awaited = [], list[bool]()

    def body() -> None:
        waited.append(client.given.waited_ms)
        raise ValueError("the store is away")

    monkeypatch.setattr(
        duplicate_delivery, "is_finished", lambda *_, awaits_result, **__: awaited.append(awaits_result)
    )
    client.acquiring = [None] * 3
    with pytest.raises(ValueError, match="away"):
        worker.run(again(locked("x")(body)), headers={SINCE: time.time() - 3_600, COPY: 0})
    assert waited[0] >= 3_600_000
    assert max(waited[1:]) < 3_600_000
    assert awaited == [True]


def test_a_copy_that_was_dropped_is_not_repeated(
    client: Client, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(duplicate_delivery, "is_finished", lambda *_, **__: True)
    with pytest.raises(Ignore):
        worker.run(again(locked("x")(raising(AssertionError("the body")))), headers={COPY: 0})
    assert client.given.ends == ["release"]


def test_a_message_in_the_queue_is_not_sent_again(
    client: Client, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The soft time limit can strike on the way from the send to the end of the run."""
    client.acquiring = [CONTENDED, CONTENDED]
    overtime = SoftTimeLimitExceeded()
    monkeypatch.setattr("redlock.celery.conflict_policy.Retry", lambda *_, **__: overtime)
    monkeypatch.setattr(Policy, "on_soft_time_limit", lambda *_: None)
    with pytest.raises(Ignore):
        worker.run(again(locked("x")(returning(1))))
    assert len(worker.sent) == 1


def test_a_repeated_run_keeps_its_marks_and_arguments(client: Client, worker: Worker) -> None:
    order = {"id": 7}

    def body() -> None:
        order["id"] += 1
        client.acquiring = [CONTENDED]
        raise ValueError

    with pytest.raises(Retry):
        worker.run(again(locked("x", max_requeues=3)(body)), headers={REQUEUES: 2}, args=[order])
    assert (worker.sent[0]["headers"][REQUEUES], worker.sent[0]["args"]) == (3, [{"id": 7}])


@pytest.mark.parametrize("where", ["wait", "requeue"])
def test_overtime_without_a_broker_returns_the_message(client: Client, worker: Worker, where: str) -> None:
    if where == "wait":
        client.acquiring, worker.refused = [SoftTimeLimitExceeded()], 1
    else:
        worker.interruption = SoftTimeLimitExceeded()
    with pytest.raises(Returned):
        worker.run(locked("x")(raising(Stale("x", 7, 8))))
    assert client.given.ends == ["release"]


def test_a_stale_run_goes_back_with_its_first_arguments(client: Client, worker: Worker) -> None:
    """The time of its body is no wait."""
    order: dict[str, Any] = {"id": 7, "items": ["book"]}
    now = time.time()

    def body() -> None:
        order["items"].append(order.pop("id"))
        raise Stale("x", 7, 8)

    with pytest.raises(Retry):
        worker.run(again(locked("x")(body)), args=[order], headers={SINCE: now - 3_600})
    assert [message["args"] for message in worker.sent] == [[{"id": 7, "items": ["book"]}]]
    assert worker.sent[0]["headers"][SINCE] >= now
    assert client.given.ends == ["release"]
