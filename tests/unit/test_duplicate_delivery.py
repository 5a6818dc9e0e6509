"""Tests of `redlock.celery.duplicate_delivery`: redelivered copies and the states in the result backend."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from celery import Celery
from celery.app.task import Context
from celery.exceptions import Ignore, Retry, SoftTimeLimitExceeded
from celery.result import AsyncResult
from celery.signals import task_prerun, task_revoked

from redlock import LockContended, QuorumUnavailable
from redlock.celery import duplicate_delivery, locked
from redlock.celery.conflict_policy import Policy
from redlock.celery.delivery import Delivery
from redlock.celery.duplicate_delivery import COPY, EARLIER, REQUEUES
from redlock.celery.expiry import EXPIRES
from redlock.celery.origin_queue import ORIGIN, Origin
from redlock.celery.single_delivery import delivery_of
from tests import versions
from tests.unit.messages import Sent

APP = Celery(set_as_current=False, broker="memory://", backend="cache+memory://")
APP.conf.update(task_acks_late=True, worker_deduplicate_successful_tasks=True)
HIDDEN: dict[str, Any] = {EXPIRES: "2020-01-01T00:00:00+00:00"}
MARKS: list[dict[str, Any]] = [{"copy": 1}, {"redelivered": True}]
MARKED = ["has met", "redelivered"]


@APP.task(name="tests.test_duplicate_delivery.charge")
@locked("x")
def charge() -> None:
    """A task with late acknowledgement, so that messages may be redelivered."""


def free() -> None:
    """The body of a task without a lock."""


class Clock:
    """A clock that only sleeping moves, with a pause of the machine in each sleep."""

    def __init__(self) -> None:
        self.now = self.pause = 0.0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds + self.pause


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[Clock]:
    """The clock of the module; in the end there is no state and no request left."""
    clock = Clock()
    monkeypatch.setattr(duplicate_delivery, "time", clock)
    yield clock
    charge.backend.forget("id-1")
    end()


def end() -> None:
    """End the run of each message: a request has the fields of the one below too."""
    while charge.request_stack.top is not None:
        charge.pop_request()


def store(state: str, result: object = None) -> None:
    charge.backend.store_result("id-1", result, state)


def delivered(*, copy: int | None = None, redelivered: bool = False, **fields: Any) -> Delivery:  # noqa: ANN401
    """The message of a run; Celery's signal before the run is sent too."""
    usual: dict[str, Any] = {"id": "id-1", "called_directly": False, "delivery_info": {"redelivered": redelivered}}
    if copy is not None:
        usual[COPY] = copy
    end()
    charge.push_request(**usual | fields)
    task_prerun.send(sender=charge, task_id="id-1", task=charge)
    delivery = delivery_of(charge)
    assert delivery is not None
    return delivery


def test_a_message_that_came_once_is_no_copy() -> None:
    store("SUCCESS")
    assert not delivered().is_finished()


def test_a_copy_of_a_finished_task_has_nothing_to_do() -> None:
    store("SUCCESS")
    assert delivered(redelivered=True).is_finished()
    assert delivered(copy=0).is_finished()
    went_back: dict[str, Any] = {REQUEUES: 1}
    delivery = delivered(**went_back)
    store("STARTED")
    assert delivery.is_finished(), "a run has sent the message back, and the broker has delivered it again"
    broadcast: dict[str, Any] = {ORIGIN: Origin("bcast.1", is_broadcast=True)}
    assert not delivered(**went_back, **broadcast).is_finished()


@pytest.mark.parametrize(
    ("state", "seconds"), [("PENDING", 0.0), ("STARTED", 0.25), ("PROGRESS", 0.25), ("RETRY", 0.0)]
)
def test_a_copy_runs_where_the_task_has_no_end(state: str, seconds: float, clock: Clock) -> None:
    """As Celery does with a message that was delivered again."""
    store(state)
    delivery = delivered(redelivered=True)
    assert not delivery.is_finished()
    assert clock.now == 0.0, "without the lock no copy waits for an end"
    assert not delivery.is_finished(awaits_result=True)
    assert seconds <= clock.now < seconds + 0.1


@pytest.mark.parametrize("state", ["SUCCESS", "FAILURE", "REVOKED"])
def test_a_copy_that_met_the_first_ends_with_it(state: str) -> None:
    delivery = delivered()
    delivery.waiting("x", "id-1@host since 1")
    store(state)
    assert delivery.is_finished(awaits_result=True)


@pytest.mark.parametrize("pause", [0.0, 3.0], ids=["", "the machine stands still"])
@pytest.mark.parametrize("mark", MARKS, ids=MARKED)
def test_a_copy_waits_for_an_end_that_is_being_stored(
    monkeypatch: pytest.MonkeyPatch, clock: Clock, mark: dict[str, Any], pause: float
) -> None:
    """Of a task that releases its lock, and then stores its result: the copy may come in between."""
    clock.pause = pause
    states = iter(["STARTED", "STARTED", "SUCCESS"])
    store("STARTED")
    delivery = delivered(**mark)
    monkeypatch.setattr(charge.backend, "get_task_meta", lambda *_, **__: {"status": next(states)})
    assert delivery.is_finished(awaits_result=True)


def test_slow_reads_of_the_state_are_part_of_the_wait(monkeypatch: pytest.MonkeyPatch, clock: Clock) -> None:
    """Other tasks wait for the lock meanwhile."""
    store("STARTED")
    delivery = delivered(copy=1)

    def read(*_: object, **__: object) -> dict[str, Any]:
        clock.now += 0.25
        return {"status": "STARTED"}

    monkeypatch.setattr(charge.backend, "get_task_meta", read)
    assert not delivery.is_finished(awaits_result=True)
    assert 2.0 <= clock.now < 3.0


def test_a_copy_whose_first_died_waits_in_vain_and_runs(clock: Clock) -> None:
    store("STARTED")
    assert not delivered(copy=3).is_finished()
    assert clock.now == 0.0
    assert not delivered(copy=3).is_finished(awaits_result=True)
    assert clock.now >= 2.0


def test_a_failure_is_no_end_where_its_message_comes_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(charge, "acks_on_failure_or_timeout" if versions.CELERY < (5, 7) else "acks_on_timeout", False)
    store("FAILURE")
    assert not delivered(copy=1).is_finished()


@pytest.mark.parametrize("mark", MARKS, ids=MARKED)
def test_the_end_that_started_has_hidden_is_put_back(monkeypatch: pytest.MonkeyPatch, mark: dict[str, Any]) -> None:
    charge.backend.store_result("id-1", ValueError("first"), "FAILURE", traceback="where")
    delivery = delivered(**mark)
    store("STARTED")
    assert delivery.is_finished()
    for _ in range(2):
        meta = charge.backend.get_task_meta("id-1", cache=False)
        assert (meta["status"], meta["traceback"]) == ("FAILURE", "where")
        assert repr(meta["result"]) == "ValueError('first')"
        # Also where the state cannot be read a second time.
        store("STARTED")
        with monkeypatch.context() as gone:
            gone.setattr(duplicate_delivery, "_stored", lambda _: None)
            assert delivery.is_finished()


def test_an_end_that_is_put_back_has_all_of_its_fields(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(APP.conf, "result_extended", 1)
    about: dict[str, Any] = {"group": "g-1", "parent_id": "p-1", "task": charge.name, "hostname": "w1@h"}
    request = Context(id="id-1", args=[1], **about)
    request.children.append(AsyncResult("child-1", app=APP))
    charge.backend.store_result("id-1", ValueError("first"), "FAILURE", request=request)
    first = charge.backend.get_task_meta("id-1", cache=False)
    delivery = delivered(copy=1, args=[1], **about)
    store("STARTED")
    assert delivery.is_finished()
    again = charge.backend.get_task_meta("id-1", cache=False)
    fields = ("status", "children", "group_id", "parent_id", "name", "args", "worker")
    assert [again[field] for field in fields] == [first[field] for field in fields]
    assert (again["group_id"], again["name"], again["children"][0][0][0]) == ("g-1", charge.name, "child-1")


def test_a_backend_that_cannot_be_asked_stops_no_copy(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError("gone")

    monkeypatch.setattr(charge.backend, "get_task_meta", fail)
    assert not delivered(redelivered=True).is_finished(awaits_result=True)
    assert "state-unknown task=id-1 why='OSError: gone'" in caplog.text


@pytest.mark.parametrize("change", [{"worker_deduplicate_successful_tasks": 0}, {"task_acks_late": 0}], ids=str)
def test_copies_run_where_celery_does_not_deduplicate(monkeypatch: pytest.MonkeyPatch, change: dict[str, int]) -> None:
    for name, value in change.items():
        monkeypatch.setitem(APP.conf, name, value)
    monkeypatch.setattr(charge, "acks_late", bool(APP.conf.task_acks_late))
    store("SUCCESS")
    delivery = delivered(redelivered=True)
    assert not delivery.is_finished()
    assert not delivery.has_begun
    went_back: dict[str, Any] = {REQUEUES: 1}
    assert delivered(**went_back)._earlier is None, "a message that went back costs no look at the backend"


def test_a_copy_runs_where_the_backend_keeps_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    store("SUCCESS")
    monkeypatch.setattr(charge.backend, "persistent", False)
    assert not delivered(redelivered=True).is_finished()


def test_a_state_is_read_from_the_backend_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    store("STARTED")
    monkeypatch.setattr(charge.backend, "_cache", {"id-1": {"status": "SUCCESS"}})
    assert not delivered(redelivered=True).is_finished()


@pytest.mark.parametrize(
    ("fields", "persistent", "is_read"),
    [
        ({COPY: 0}, True, True),
        ({"delivery_info": {"redelivered": True}}, True, True),
        ({"delivery_info": {"redelivered": True}, "called_directly": True}, True, False),
        ({"delivery_info": {"redelivered": True}}, False, False),
        ({"delivery_info": {"redelivered": True}, "ignore_result": True}, True, False),
        ({REQUEUES: 1}, True, True),
        ({REQUEUES: 1, "ignore_result": True}, True, False),
        ({"delivery_info": {}}, True, False),
        ({"delivery_info": None}, True, False),
    ],
    ids=str,
)
def test_only_a_copy_asks_for_the_state_before_its_run(
    monkeypatch: pytest.MonkeyPatch, fields: dict[str, Any], persistent: bool, is_read: bool
) -> None:
    monkeypatch.setattr(charge.backend, "persistent", persistent)
    charge.push_request(**{"id": "id-1", "called_directly": False} | fields)
    # Celery's signals hide exceptions.
    duplicate_delivery._read_earlier_state(task=charge)
    assert (EARLIER in vars(charge.request)) is is_read


def test_the_state_of_a_task_without_a_lock_is_not_read() -> None:
    task = APP.task(name="tests.test_duplicate_delivery.free", shared=False)(free)
    task.push_request(id="id-1", called_directly=False, delivery_info={"redelivered": True})
    duplicate_delivery._read_earlier_state(task=task)
    assert EARLIER not in vars(task.request)


def test_a_copy_runs_where_the_task_stores_no_result() -> None:
    store("SUCCESS")
    assert not delivered(redelivered=True, ignore_result=True).is_finished()


def test_overtime_in_a_look_at_the_backend_is_no_unknown_state(monkeypatch: pytest.MonkeyPatch) -> None:
    delivery = delivered(redelivered=True)

    def fail(*_: object, **__: object) -> None:
        raise SoftTimeLimitExceeded

    monkeypatch.setattr(charge.backend, "get_task_meta", fail)
    with pytest.raises(SoftTimeLimitExceeded):
        delivery.is_finished(awaits_result=True)


def test_the_mark_of_a_copy_goes_back_with_it(sent: Sent) -> None:
    delivered(redelivered=True).requeue(1.0)
    assert sent[-1]["headers"][COPY] == 0
    delivered(copy=2, expires="2999-01-01T00:00:00+00:00").requeue_copy(1.0)
    assert (sent[-1]["headers"][COPY], sent[-1]["headers"][REQUEUES]) == (3, 0)
    assert sent[-1]["expires"] is None
    delivered().requeue(1.0)
    assert COPY not in sent[-1]["headers"]


def test_a_failed_task_without_its_result_can_be_sent_again() -> None:
    store("FAILURE", ValueError("on Monday"))
    charge.backend.forget("id-1")
    assert not delivered(redelivered=True).is_finished()


@pytest.mark.parametrize("on_conflict", ["skip", "raise", "requeue"])
def test_a_copy_without_a_lock_ends_after_the_first(on_conflict: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "redlock")
    store("SUCCESS")
    with pytest.raises(Ignore, match=r"^a copy of this task has come to its end: id-1$"):
        Policy(0, on_conflict, None).apply(LockContended("x", "id-2@host since 1"), delivered(redelivered=True))
    assert caplog.messages == ["duplicate task=id-1 resource=x then=dropped"]


@pytest.mark.parametrize(
    ("state", "result"), [("STARTED", None), ("PROGRESS", 7), ("RETRY", Retry("cancelled by Celery"))], ids=str
)
@pytest.mark.parametrize("deduplicates", [True, False])
@pytest.mark.parametrize("on_conflict", ["skip", "raise", "requeue"])
def test_a_copy_of_a_lost_run_is_neither_skipped_nor_refused(
    sent: Sent,
    monkeypatch: pytest.MonkeyPatch,
    on_conflict: str,
    *,
    deduplicates: bool,
    state: str,
    result: object,
) -> None:
    """The lost run may have had its effect, so the copy goes back until the lock is free."""
    monkeypatch.setitem(APP.conf, "worker_deduplicate_successful_tasks", deduplicates)
    store(state, result)
    for contended in (LockContended("x", "id-2@host since 1"), LockContended("x")):
        with pytest.raises(Ignore):
            Policy(0, on_conflict, 0).apply(contended, delivered(redelivered=True))
    with pytest.raises(Ignore):
        Policy(0, on_conflict, 0).on_soft_time_limit(SoftTimeLimitExceeded(), "x", delivered(redelivered=True))
    assert [call["headers"][COPY] for call in sent] == [0, 0, 0]


@pytest.mark.parametrize("later", [{"retries": 1}, {"replaced_task_nesting": 1}], ids=str)
@pytest.mark.parametrize("on_conflict", ["skip", "raise", "requeue"])
def test_a_retry_that_meets_its_earlier_attempt_goes_back(sent: Sent, on_conflict: str, later: dict[str, Any]) -> None:
    """The task has not ended, so no mode may end it: the earlier attempt is at its last lines, or was killed."""
    policy = Policy(0, on_conflict, 0)
    with pytest.raises(Retry):
        policy.apply(LockContended("x", "id-1@w@h since 1 (01234567)"), delivered(**later))
    assert len(sent) == 1
    retry = delivered(**later)
    retry.waiting("x", "id-1@w@h since 1 (01234567)")
    with pytest.raises(Retry):
        policy.on_soft_time_limit(SoftTimeLimitExceeded(), "x", retry)
    assert len(sent) == 2


@pytest.mark.usefixtures("sent")
@pytest.mark.parametrize("holds", [True, False])
def test_a_copy_that_expired_meanwhile_ends_as_revoked(caplog: pytest.LogCaptureFixture, holds: bool) -> None:
    caplog.set_level("INFO", "redlock")
    store("STARTED")
    copy = delivered(copy=1, **HIDDEN)
    policy = Policy(0, "requeue", None)
    with pytest.raises(Ignore, match=r"^a copy of this task is at work"):
        policy.apply(LockContended("x", "id-1@w@h since 1"), copy)
    with pytest.raises(Ignore):
        policy.apply(QuorumUnavailable("x", 3, 5, {}), copy)
    assert charge.backend.get_task_meta("id-1", cache=False)["status"] == "STARTED", "the first copy may run"
    revoked: list[bool] = []
    task_revoked.connect(lambda expired, **_: revoked.append(expired), sender=charge, weak=False, dispatch_uid="test")
    with pytest.raises(Ignore, match=r"^this copy of the task arrived after its expiry: id-1$"):
        if holds:
            policy.drop_finished_copy("x", copy, awaits_result=True)
        else:
            policy.apply(LockContended("x", "id-2@w@h since 1"), copy)
    task_revoked.disconnect(sender=charge, dispatch_uid="test")
    assert revoked == [True]
    assert charge.backend.get_task_meta("id-1", cache=False)["status"] == "REVOKED"
    assert caplog.messages[-1] == "duplicate task=id-1 resource=x then=expired"


@pytest.mark.parametrize("deduplicates", [True, False])
@pytest.mark.parametrize("hides", [True, False])
@pytest.mark.parametrize("begins", ["before", "after"])
def test_an_expired_copy_leaves_the_end_of_the_task(
    monkeypatch: pytest.MonkeyPatch, deduplicates: bool, hides: bool, begins: str
) -> None:
    """Celery does not drop copies by default. STARTED of this copy can hide the end that came before."""
    monkeypatch.setitem(APP.conf, "worker_deduplicate_successful_tasks", deduplicates)
    store("STARTED")
    if begins == "after":
        store("FAILURE", ValueError("first"))
    copy = delivered(copy=1, **HIDDEN)
    if begins == "before":
        store("FAILURE", ValueError("first"))
    elif hides:
        store("STARTED")
    with pytest.raises(Ignore):
        Policy(0, "requeue", None).drop_finished_copy("x", copy, awaits_result=True)
    meta = charge.backend.get_task_meta("id-1", cache=False)
    assert (meta["status"], repr(meta["result"])) == ("FAILURE", "ValueError('first')")


def test_an_expired_copy_awaits_the_end_of_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """A task releases its lock, then stores its result."""
    monkeypatch.setitem(APP.conf, "worker_deduplicate_successful_tasks", 0)
    states = iter(["STARTED", "STARTED", "SUCCESS"])
    copy = delivered(copy=1, **HIDDEN)
    monkeypatch.setattr(charge.backend, "get_task_meta", lambda *_, **__: {"status": next(states)})
    monkeypatch.setattr(charge.backend, "mark_as_revoked", lambda *_: pytest.fail("the task has ended"))
    with pytest.raises(Ignore):
        Policy(0, "requeue", None).drop_finished_copy("x", copy, awaits_result=True)


@pytest.mark.parametrize("stores", [True, False])
@pytest.mark.parametrize("chosen_by", ["sender", "task"])
def test_an_expired_copy_without_a_state_awaits_no_end(
    monkeypatch: pytest.MonkeyPatch, stores: bool, chosen_by: str
) -> None:
    """Celery stores a revoked task that ignores its result only if the task stores its errors."""
    revoked: list[tuple[Any, ...]] = []
    monkeypatch.setattr(charge, "store_errors_even_if_ignored", stores)
    monkeypatch.setattr(charge.backend, "mark_as_revoked", lambda *given: revoked.append(given))
    monkeypatch.setattr(charge.backend, "get_task_meta", lambda *_, **__: pytest.fail("there is no state to read"))
    monkeypatch.setattr(charge, "ignore_result", chosen_by == "task")
    fields: dict[str, Any] = {"ignore_result": True} if chosen_by == "sender" else {}
    with pytest.raises(Ignore):
        Policy(0, "requeue", None).drop_finished_copy("x", delivered(copy=1, **fields, **HIDDEN), awaits_result=True)
    assert [(task_id, why, is_stored) for task_id, why, _, is_stored in revoked] == [("id-1", "expired", stores)]


@pytest.mark.parametrize("backend", [None, "rpc://"])
def test_a_backend_without_states_is_not_asked(caplog: pytest.LogCaptureFixture, backend: str | None) -> None:
    app = Celery(set_as_current=False, broker="memory://", backend=backend)
    app.conf.result_persistent = True
    task = app.task(name="tests.test_duplicate_delivery.stateless")(charge.run)
    task.push_request(id="id-1", called_directly=False, delivery_info={"redelivered": True})
    duplicate_delivery._read_earlier_state(task=task)
    assert EARLIER not in vars(task.request)
    assert not caplog.messages


@pytest.mark.parametrize("state", ["PENDING", "RECEIVED", "RETRY", "SUCCESS", "FAILURE", "REVOKED"])
def test_a_redelivered_message_that_never_began_is_skipped(state: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(APP.conf, "worker_deduplicate_successful_tasks", 0)
    store(state)
    skipped = Policy(0, "skip", None).apply(LockContended("x", "id-2@host"), delivered(redelivered=True))
    assert skipped is not None
