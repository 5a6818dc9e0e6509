"""Tests of `conflict_policy`: a task without its lock is requeued, skipped or raises, and is never lost."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from typing import Any, TypeAlias

import pytest
from celery import Celery, Task
from celery.exceptions import Ignore, Retry, SoftTimeLimitExceeded
from celery.signals import task_postrun
from kombu.exceptions import EncodeError, OperationalError

from redlock import ConfigurationError, LockContended, NoThread, QuorumUnavailable, RedlockError, Stale
from redlock.celery import pools
from redlock.celery.conflict_policy import Policy, _longest
from redlock.celery.delivery import SINCE, Delivery, Returned
from redlock.celery.duplicate_delivery import COPY, REQUEUES
from redlock.celery.origin_queue import NoWayBack
from redlock.celery.single_delivery import delivery_of
from tests.unit.messages import Deliver, Sent

APP = Celery(set_as_current=False, broker="memory://")
CONTENDED = LockContended("account:42", "task-1@host (01234567)", 1.5)
NO_QUORUM = QuorumUnavailable("account:42", 3, 5, {"h:1": "connection refused"})
LIMIT = SoftTimeLimitExceeded()
Fail: TypeAlias = Callable[[Exception], list[Exception]]


@APP.task(name="tests.test_policy.charge", bind=True)
def charge(self: Any, account_id: int) -> None:  # noqa: ANN401 - Celery is untyped
    """A task that needs a lock."""


def policy(on_conflict: str = "requeue", max_requeues: int | None = None) -> Policy:
    return Policy.checked(1.0, on_conflict, max_requeues)


def overtime(chosen: Policy, delivery: Delivery | None) -> None:
    """The soft time limit ends the wait for the lock; the caller raises the limit if this call raises nothing."""
    chosen.on_soft_time_limit(LIMIT, "account:42", delivery)


@pytest.fixture
def running(delivered: Deliver) -> Deliver:
    """Makes the message of a second retry; its request has these fields."""
    usual = {"args": [42], "kwargs": {}, "retries": 2, "delivery_info": {"routing_key": "slow", "priority": 3}}
    return lambda **fields: delivered(**usual | fields)


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch) -> Fail:
    """Lets each message of the task fail with this error; a list has the error once for each try."""

    def fail(error: Exception) -> list[Exception]:
        tries: list[Exception] = []

        def send(*_: object, **__: object) -> None:
            tries.append(error)
            raise error

        monkeypatch.setattr(Task, "apply_async", send)
        return tries

    return fail


def test_waiting_for_no_time_and_never_going_back_are_legal() -> None:
    assert Policy.checked(0, "requeue", 0) == Policy(0, "requeue", 0)


def test_a_skipped_task_returns_the_reason(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "redlock")
    skipped = policy("skip").apply(CONTENDED, None)
    assert skipped == {"status": "skipped", "resource": "account:42", "holder": "task-1@host (01234567)"}
    assert caplog.messages == ["skipped resource=account:42 holder='task-1@host (01234567)'"]


@pytest.mark.parametrize("error", [NO_QUORUM, NoThread("no thread")], ids=["no quorum", "no thread"])
@pytest.mark.parametrize("on_conflict", ["skip", "raise"])
def test_an_unknown_holder_is_never_a_skip(on_conflict: str, error: RedlockError) -> None:
    """The error does not show whether another task does the work."""
    with pytest.raises(type(error)):
        policy(on_conflict).apply(error, None)


def test_the_mode_raise_raises_the_given_error(running: Deliver, sent: Sent) -> None:
    with pytest.raises(LockContended) as caught:
        policy("raise").apply(CONTENDED, running())
    assert caught.value is CONTENDED
    assert not sent


@pytest.mark.parametrize("error", [CONTENDED, NO_QUORUM], ids=["contended", "no quorum"])
def test_a_requeued_task_is_the_same_task(
    running: Deliver, sent: Sent, caplog: pytest.LogCaptureFixture, error: LockContended | QuorumUnavailable
) -> None:
    caplog.set_level("INFO", "redlock")
    with pytest.raises(Retry) as retry:
        policy().apply(error, running(headers={"trace": "t-1"}))
    (again,) = sent
    assert (retry.value.exc, retry.value.when) == (error, again["countdown"])
    requeued = f"requeued task=id-1 resource=account:42 count=1 countdown={again['countdown']:.2f}"
    assert caplog.messages == [requeued]
    assert (again["args"], again["kwargs"], again["task_id"]) == ([42], {}, "id-1")
    assert again["retries"] == 2, "the way back costs none of the task's own retries"
    assert (again["routing_key"], again["priority"]) == ("slow", 3)
    assert again["headers"]["trace"] == "t-1"


def test_each_way_back_is_counted_and_the_first_one_remembered(running: Deliver, sent: Sent) -> None:
    headers: dict[str, Any] = {}
    for count in (1, 2, 3):
        with pytest.raises(Retry):
            policy().apply(CONTENDED, running(headers=dict(headers)))
        headers = sent[-1]["headers"]
        assert headers[REQUEUES] == count
    assert {again["headers"][SINCE] for again in sent} == {headers[SINCE]}


def test_the_pause_is_random_grows_and_is_bounded(running: Deliver, sent: Sent) -> None:
    for count in (0, 5, 1_000):
        for _ in range(40):
            with pytest.raises(Retry):
                policy().apply(CONTENDED, running(headers={REQUEUES: count, SINCE: 0.0}))
    assert [_longest(count) for count in (1, 2, 3, 4, 5, 6, 7, 1_000)] == [0.5, 1, 2, 4, 8, 16, 30, 30]
    pauses = [again["countdown"] for again in sent]
    assert all(0.1 <= pause <= 30.0 for pause in pauses)
    assert len(set(pauses)) > 100
    assert max(pauses[:40]) <= 0.5 < max(pauses[40:80]) < max(pauses[80:])


def expiring(seconds: float) -> str:
    """The format of an expiry in a message."""
    return (datetime.now(timezone.utc) + timedelta(seconds=seconds)).isoformat()


@pytest.mark.parametrize("seconds", [-5, 0, 1])
def test_a_task_that_would_expire_in_the_queue_raises_instead(running: Deliver, sent: Sent, seconds: float) -> None:
    with pytest.raises(LockContended):
        policy().apply(CONTENDED, running(expires=expiring(seconds)))
    assert not sent


def test_a_task_that_expires_comes_back_before_that(running: Deliver, sent: Sent) -> None:
    for _ in range(50):
        with pytest.raises(Retry):
            policy().apply(CONTENDED, running(expires=expiring(5), headers={REQUEUES: 20, SINCE: 0.0}))
    pauses = [again["countdown"] for again in sent]
    assert all(0.1 <= pause <= 4.0 for pause in pauses)
    assert max(pauses) > 2.0


@pytest.mark.parametrize("limit", [0, 1, 5])
def test_a_task_goes_back_as_often_as_it_may_and_raises_then(running: Deliver, sent: Sent, limit: int) -> None:
    headers = {REQUEUES: limit, SINCE: 0.0}
    with pytest.raises(LockContended):
        policy(max_requeues=limit).apply(CONTENDED, running(headers=dict(headers)))
    assert not sent
    with pytest.raises(Retry):
        policy(max_requeues=limit + 1).apply(CONTENDED, running(headers=headers))
    assert len(sent) == 1


@pytest.mark.parametrize("fields", [{"called_directly": True}, {"is_eager": True}])
def test_a_task_without_a_queue_to_go_back_to_raises(running: Deliver, sent: Sent, fields: dict[str, Any]) -> None:
    with pytest.raises(LockContended):
        policy().apply(CONTENDED, running(**fields))
    with pytest.raises(LockContended):
        policy().apply(CONTENDED, None)
    assert not sent


@pytest.mark.parametrize(
    "error", [OperationalError("refused"), ValueError("countdown"), EncodeError("no JSON")], ids=repr
)
def test_a_task_that_cannot_be_sent_goes_on_waiting(
    running: Deliver, failing: Fail, caplog: pytest.LogCaptureFixture, error: Exception
) -> None:
    failing(error)
    delivery, pauses = running(), []
    for _ in range(8):
        assert policy().apply(CONTENDED, delivery) is None
        pauses.append(delivery.pause_ms())
    assert pauses == [1_000, 2_000, 4_000, 8_000, 16_000, 30_000, 30_000, 30_000]
    assert len([record for record in caplog.records if "requeue-failed" in record.message]) == 1
    assert type(error).__name__ in caplog.text


def test_a_soft_time_limit_while_sending_is_no_broker_error(running: Deliver, failing: Fail) -> None:
    failing(SoftTimeLimitExceeded())
    with pytest.raises(SoftTimeLimitExceeded):
        policy().apply(CONTENDED, running())


def test_an_app_with_only_eager_calls_has_no_queue(
    running: Deliver, sent: Sent, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(APP.conf, "task_always_eager", 1)
    for holder in ("id-2@host since 1", "id-1@host retry 2 since 1"):
        with pytest.raises(LockContended):
            policy().apply(LockContended("account:42", holder), running())
    overtime(policy(), running())
    assert not sent


@pytest.mark.parametrize("acks_late", [True, False])
def test_overtime_requeues_the_task(
    running: Deliver, sent: Sent, monkeypatch: pytest.MonkeyPatch, acks_late: bool
) -> None:
    monkeypatch.setattr(charge, "acks_late", acks_late)
    with pytest.raises(Retry) as retry:
        overtime(policy(max_requeues=5), running(headers={REQUEUES: 4, SINCE: 1.0}))
    (again,) = sent
    assert (again["headers"][REQUEUES], retry.value.when) == (5, again["countdown"])


@pytest.mark.parametrize(("limit", "fields"), [(0, {}), (5, {"headers": {REQUEUES: 5}})])
def test_overtime_counts_as_a_way_back(running: Deliver, sent: Sent, limit: int, fields: dict[str, Any]) -> None:
    overtime(policy(max_requeues=limit), running(**fields))
    assert not sent


def test_overtime_after_the_way_back_sends_no_second_message(running: Deliver, sent: Sent) -> None:
    delivery = running()
    delivery.requeue(1.0)
    with pytest.raises(Ignore):
        overtime(policy(), delivery)
    assert len(sent) == 1


@pytest.fixture
def refused(failing: Fail) -> None:
    """The broker takes no message."""
    failing(OperationalError("refused"))


@pytest.mark.usefixtures("acknowledged_late")
@pytest.mark.parametrize("seconds", [0.5, 14.9])
def test_overtime_does_not_wait_for_the_broker_until_the_kill(
    running: Deliver, sent: Sent, monkeypatch: pytest.MonkeyPatch, seconds: float
) -> None:
    """Celery fails a task that its pool kills, also with `acks_late`."""
    monkeypatch.setattr(pools, "overtime", lambda _: seconds)
    met = running(headers={REQUEUES: 5, COPY: 1})
    met.waiting("account:42", "id-2@host since 1")
    for delivery, limit in ((running(), None), (running(), 1), (met, 5)):
        with pytest.raises(Returned):
            overtime(policy(max_requeues=limit), delivery)
    assert not sent
    overtime(policy(max_requeues=5), running(headers={REQUEUES: 5}))


@pytest.mark.parametrize(("seconds", "change"), [(15, {}), (1, {"acks_late": False}), (1, {"x-delivery-count": 19})])
def test_overtime_sends_where_it_has_time_or_no_other_way(
    running: Deliver, sent: Sent, monkeypatch: pytest.MonkeyPatch, seconds: float, change: dict[str, int]
) -> None:
    left = dict(change)
    monkeypatch.setattr(charge, "acks_late", left.pop("acks_late", True))
    monkeypatch.setattr(pools, "overtime", lambda _: seconds)
    with pytest.raises(Retry):
        overtime(policy(), running(**left))
    assert len(sent) == 1


@pytest.mark.usefixtures("refused", "acknowledged_late")
@pytest.mark.parametrize("left", [{}, {"x-delivery-count": 18}], ids=["fresh", "returned often"])
def test_overtime_returns_a_message_that_cannot_be_sent(running: Deliver, left: dict[str, int]) -> None:
    with pytest.raises(Returned) as caught:
        overtime(policy(), running(**left))
    assert caught.value.requeue
    # Celery's `autoretry_for` would spend a retry on a plain `Reject`.
    assert isinstance(caught.value, Ignore)


@pytest.mark.usefixtures("refused")
@pytest.mark.parametrize(
    ("on_conflict", "acks", "left"),
    [
        ("requeue", "early", {}),
        ("raise", "late", {}),
        ("skip", "late", {}),
        ("requeue", "late", {"x-delivery-count": 19}),
    ],
    ids=["acknowledged early", "raise", "skip", "the broker would drop it"],
)
def test_overtime_fails_where_a_return_would_lose_the_task(
    running: Deliver, monkeypatch: pytest.MonkeyPatch, on_conflict: str, acks: str, left: dict[str, int]
) -> None:
    monkeypatch.setattr(charge, "acks_late", acks == "late")
    overtime(policy(on_conflict), running(**left))
    overtime(policy(on_conflict), None)


@pytest.mark.usefixtures("acknowledged_late")
@pytest.mark.parametrize("error", [LIMIT, OperationalError("refused")], ids=repr)
@pytest.mark.parametrize("holder", ["id-2@host since 1", "id-1@host retry 2 since 1"], ids=["another task", "a copy"])
def test_overtime_does_not_repeat_a_message_in_doubt(
    running: Deliver, failing: Fail, error: Exception, holder: str
) -> None:
    """The limit strikes while the message is sent, or while the task waits for the broker."""
    tries = failing(error)
    delivery = running()
    with contextlib.suppress(SoftTimeLimitExceeded):
        policy().apply(LockContended("account:42", holder), delivery)
    assert delivery.has_met == holder.startswith("id-1@")
    with pytest.raises(Returned):
        overtime(policy(), delivery)
    assert len(tries) == 1


@pytest.mark.parametrize("on_conflict", ["requeue", "raise", "skip"])
def test_a_copy_that_has_met_the_first_leaves_no_trace(running: Deliver, sent: Sent, on_conflict: str) -> None:
    """Another task may hold the lock by now: the copy goes back all the same, and stores no state."""
    delivery = running(expires="2099-01-01T00:00:00")
    delivery.waiting("account:42", "id-1@host retry 2 since 1")
    delivery.waiting("account:42", "id-2@host since 1")
    with pytest.raises(Ignore):
        overtime(policy(on_conflict, max_requeues=0), delivery)
    assert (sent[0]["headers"][COPY], sent[0]["expires"]) == (1, None)
    if on_conflict == "requeue":
        with pytest.raises(Ignore):
            policy().apply(CONTENDED, delivery)
        assert len(sent) == 2


@pytest.mark.parametrize("error", [EncodeError("no JSON"), NoWayBack("a broadcast")], ids=repr)
def test_a_stale_run_that_can_never_go_back_raises(running: Deliver, failing: Fail, error: Exception) -> None:
    """Its body has ended, so no lock would end a wait in the slot."""
    failing(error)
    with pytest.raises(Stale):
        policy().apply(Stale("account:42", 7, 8), running())


def test_a_stale_run_waits_for_a_broker_that_is_away(running: Deliver, failing: Fail) -> None:
    failing(OperationalError("refused"))
    assert policy().apply(Stale("account:42", 7, 8), running()) is None


def test_the_time_in_the_queue_counts_for_all_calls_of_a_run(running: Deliver) -> None:
    delivery = running(headers={REQUEUES: 3, SINCE: time.time() - 2.0, "trace": "t-1"})
    assert 2_000 <= delivery.waited_ms() < 60_000
    assert charge.request.headers == {"trace": "t-1"}
    assert delivery_of(charge) is delivery
    task_postrun.send(sender=charge, task=charge)
    assert delivery_of(charge) is not delivery
    assert json.dumps(vars(charge.request)), "an application may log its request"


@pytest.mark.parametrize("on_conflict", ["", "drop", None, ["skip"]])
def test_another_way_out_is_refused(on_conflict: Any) -> None:  # noqa: ANN401
    with pytest.raises(ConfigurationError, match="'requeue', 'skip' or 'raise'"):
        Policy.checked(1.0, on_conflict, None)
