"""`redlock.policy`: a task that could not have its lock is requeued, skipped or raises, and is never lost."""

from __future__ import annotations

import time
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any

import pytest
from celery import Celery
from celery.canvas import Signature
from celery.exceptions import Retry
from kombu.exceptions import OperationalError

from redlock import ConfigurationError, LockContended, QuorumUnavailable
from redlock.policy import REQUEUES, SINCE, Policy, Skipped, waited_ms

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

APP = Celery(set_as_current=False, broker="memory://")
CONTENDED = LockContended("account:42", "task-1@host (01234567)", 1.5)
NO_QUORUM = QuorumUnavailable("account:42", 3, 5, {"h:1": "connection refused"})


@APP.task(name="tests.test_policy.charge", bind=True)
def charge(self: Any, account_id: int) -> None:  # noqa: ANN401 - Celery is untyped
    """A task that needs a lock."""


def policy(otherwise: str = "requeue", max_requeues: int | None = None) -> Policy:
    return Policy.checked(1.0, otherwise, max_requeues)


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[Signature]:
    """What is handed to the broker."""
    signatures: list[Signature] = []

    def send(signature: Signature) -> None:
        signatures.append(signature)

    monkeypatch.setattr(Signature, "apply_async", send)
    return signatures


@pytest.fixture
def running() -> Iterator[Callable[..., Any]]:
    """The task as a worker would run it, with these fields of its request."""
    pushed = []

    def run(**fields: Any) -> Any:  # noqa: ANN401 - Celery is untyped
        usual: dict[str, Any] = {
            "id": "id-1",
            "args": [42],
            "kwargs": {},
            "retries": 2,
            "called_directly": False,
            "delivery_info": {"exchange": "", "routing_key": "slow", "priority": 3},
        }
        charge.push_request(**usual | fields)
        pushed.append(charge)
        return charge

    yield run
    for task in pushed:
        task.pop_request()


def test_waiting_for_no_time_and_never_going_back_are_legal() -> None:
    assert Policy.checked(0, "requeue", 0) == Policy(0, "requeue", 0)


def test_who_skips_says_so_and_why() -> None:
    skipped = policy("skip").refused(CONTENDED, None)
    assert skipped == Skipped(
        {"status": "skipped", "resource": "account:42", "holder": "task-1@host (01234567)"},
    )


@pytest.mark.parametrize("otherwise", ["skip", "raise"])
def test_too_few_votes_are_never_a_skip(otherwise: str) -> None:
    """Nobody knows whether somebody else does the work."""
    with pytest.raises(QuorumUnavailable):
        policy(otherwise).refused(NO_QUORUM, None)


def test_who_raises_raises_what_there_was(running: Callable[..., Any], sent: list[Signature]) -> None:
    with pytest.raises(LockContended) as caught:
        policy("raise").refused(CONTENDED, running())
    assert caught.value is CONTENDED
    assert not sent


@pytest.mark.parametrize("error", [CONTENDED, NO_QUORUM], ids=["contended", "no quorum"])
def test_a_requeued_task_is_the_same_task(
    running: Callable[..., Any], sent: list[Signature], error: LockContended | QuorumUnavailable
) -> None:
    with pytest.raises(Retry):
        policy().refused(error, running(headers={"trace": "t-1"}))
    (again,) = sent
    assert (again.task, again.args, again.options["task_id"]) == ("tests.test_policy.charge", (42,), "id-1")
    assert (again.options["queue"], again.options["priority"]) == ("slow", 3)
    assert again.options["headers"]["trace"] == "t-1"


def test_going_back_costs_none_of_the_tasks_own_retries(running: Callable[..., Any], sent: list[Signature]) -> None:
    with pytest.raises(Retry):
        policy().refused(CONTENDED, running(retries=2))
    assert sent[0].options["retries"] == 2


def test_each_way_back_is_counted_and_the_first_one_remembered(
    running: Callable[..., Any], sent: list[Signature]
) -> None:
    headers: dict[str, Any] = {}
    for count in (1, 2, 3):
        with pytest.raises(Retry):
            policy().refused(CONTENDED, running(headers=headers))
        headers = sent[-1].options["headers"]
        assert headers[REQUEUES] == count
    assert {again.options["headers"][SINCE] for again in sent} == {headers[SINCE]}


def test_the_pause_is_random_grows_and_is_bounded(running: Callable[..., Any], sent: list[Signature]) -> None:
    for count in (0, 5, 1_000):
        for _ in range(40):
            with pytest.raises(Retry):
                policy().refused(CONTENDED, running(headers={REQUEUES: count, SINCE: 0.0}))
    pauses = [again.options["countdown"] for again in sent]
    assert all(0.1 <= pause <= 30.0 for pause in pauses)
    assert len(set(pauses)) > 100
    assert max(pauses[:40]) <= 0.5 < max(pauses[40:80]) < max(pauses[80:])


def expiring(seconds: float) -> str:
    """As a message has it."""
    return (datetime.now(timezone.utc) + timedelta(seconds=seconds)).isoformat()


@pytest.mark.parametrize("seconds", [-5, 0, 1])
def test_a_task_that_would_expire_in_the_queue_raises_instead(
    running: Callable[..., Any], sent: list[Signature], seconds: float
) -> None:
    with pytest.raises(LockContended):
        policy().refused(CONTENDED, running(expires=expiring(seconds)))
    assert not sent


def test_a_task_that_expires_comes_back_before_that(running: Callable[..., Any], sent: list[Signature]) -> None:
    for _ in range(50):
        with pytest.raises(Retry):
            policy().refused(CONTENDED, running(expires=expiring(5), headers={REQUEUES: 20, SINCE: 0.0}))
    pauses = [again.options["countdown"] for again in sent]
    assert all(0.1 <= pause <= 4.0 for pause in pauses)
    assert max(pauses) > 2.0


@pytest.mark.parametrize("limit", [0, 1, 5])
def test_a_task_that_went_back_as_often_as_it_may_raises(
    running: Callable[..., Any], sent: list[Signature], limit: int
) -> None:
    with pytest.raises(LockContended):
        policy(max_requeues=limit).refused(CONTENDED, running(headers={REQUEUES: limit, SINCE: 0.0}))
    assert not sent


def test_the_last_time_that_it_may_go_back_it_goes(running: Callable[..., Any], sent: list[Signature]) -> None:
    with pytest.raises(Retry):
        policy(max_requeues=5).refused(CONTENDED, running(headers={REQUEUES: 4, SINCE: 0.0}))
    assert len(sent) == 1


@pytest.mark.parametrize("fields", [{"called_directly": True}, {"is_eager": True}])
def test_a_task_without_a_queue_to_go_back_to_raises(
    running: Callable[..., Any], sent: list[Signature], fields: dict[str, Any]
) -> None:
    with pytest.raises(LockContended):
        policy().refused(CONTENDED, running(**fields))
    with pytest.raises(LockContended):
        policy().refused(CONTENDED, None)
    assert not sent


def test_where_the_broker_does_not_take_it_the_caller_goes_on_waiting(
    running: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: Signature) -> None:
        raise OperationalError("connection refused")

    monkeypatch.setattr(Signature, "apply_async", refuse)
    assert policy().refused(CONTENDED, running()) is None


def test_the_time_in_the_queue_counts_and_is_asked_for_once(running: Callable[..., Any]) -> None:
    task = running(headers={REQUEUES: 3, SINCE: time.time() - 2.0, "trace": "t-1"})
    assert 2_000 <= waited_ms(task) < 60_000
    assert waited_ms(task) == 0
    assert task.request.headers == {"trace": "t-1"}


def test_a_clock_that_was_set_back_is_no_negative_wait(running: Callable[..., Any]) -> None:
    assert waited_ms(running(headers={SINCE: time.time() + 3_600})) == 0


def test_who_never_went_back_has_not_waited_there(running: Callable[..., Any]) -> None:
    assert waited_ms(None) == waited_ms(running(headers=None)) == 0


@pytest.mark.parametrize("otherwise", ["", "drop", None, ["skip"]])
def test_another_way_out_is_refused(otherwise: Any) -> None:  # noqa: ANN401
    with pytest.raises(ConfigurationError, match="'requeue', 'skip' or 'raise'"):
        Policy.checked(1.0, otherwise, None)
