"""Tests of the marks in `redlock.celery.delivery`: counts and times that travel with a message, and its copies."""

from __future__ import annotations

from datetime import datetime
from types import SimpleNamespace
from typing import Any

import pytest
from celery import Celery
from celery.exceptions import Ignore, Retry

from redlock import LockContended, QuorumUnavailable
from redlock.celery import delivery as module
from redlock.celery import expiry
from redlock.celery.conflict_policy import Policy
from redlock.celery.delivery import ATTEMPT, SINCE, Returned
from redlock.celery.duplicate_delivery import COPY, EARLIER, REQUEUES
from redlock.celery.expiry import EXPIRES
from redlock.celery.message_content import CONTENT_TYPE, NAMES
from redlock.celery.origin_queue import ORIGIN, Origin
from tests.unit.messages import Deliver, Sent

APP = Celery(set_as_current=False, broker="memory://")
BROADCAST = {ORIGIN: Origin("orders", is_broadcast=True)}
NOW = 1_795_842_000.0


@APP.task(name="tests.test_delivery_marks.charge")
def charge() -> None:
    """A task that needs a lock."""


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The clock of the module, in a list that a test changes. Every pause is the longest one."""
    now = [NOW]
    monkeypatch.setattr(module, "time", SimpleNamespace(time=lambda: now[0]))
    monkeypatch.setattr("random.uniform", lambda least, most: (least, most)[1])
    return now


def test_workers_of_all_versions_know_the_marks_by_these_names() -> None:
    assert (REQUEUES, SINCE, COPY) == ("redlock_requeues", "redlock_since", "redlock_copy")
    assert (EXPIRES, NAMES, ATTEMPT) == ("redlock_expires", "redlock_names", "redlock_attempt")
    assert (CONTENT_TYPE, EARLIER, ORIGIN) == ("redlock_content_type", "redlock_earlier", "redlock_origin")


@pytest.mark.parametrize(
    ("since", "waited_ms"),
    [(None, 0), (-0.5, 0), (0.0, 0), (0.5, int((NOW - 0.5) * 1_000)), (NOW - 2.5, 2_500), (NOW, 0), (NOW + 1, 0)],
)
def test_the_wait_counts_from_the_first_delivery(
    delivered: Deliver, clock: list[float], sent: Sent, since: float, waited_ms: int
) -> None:
    delivery = delivered(**{SINCE: since})
    assert delivery.waited_ms() == waited_ms
    clock[0] += 1
    assert delivery.waited_ms() == waited_ms + 1_000
    assert delivery.requeue(5.0) == 5.0
    assert delivery.requeue_copy(4.0) == 4.0
    assert [again["headers"][SINCE] for again in sent] == [since if waited_ms else NOW] * 2
    clock[0] = 0.0
    assert delivery.waited_ms() == 0, "the clock was set back"


@pytest.mark.usefixtures("clock")
def test_a_task_goes_back_if_the_shortest_pause_fits(
    delivered: Deliver, sent: Sent, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "has_quorum_queues", lambda *_: True)
    delivery = delivered()
    for left, pause in ((1.9, None), (2.0, 1.0), (7.9, 6.0)):
        monkeypatch.setattr(expiry, "seconds_left", lambda _, left=left: left)
        assert delivery.requeue(30.0) == pause
    assert [again["countdown"] for again in sent] == [1.0, 6.0]


def test_a_copy_that_has_met_the_first_stays_a_copy(delivered: Deliver, sent: Sent) -> None:
    delivery = delivered()
    for holder, has_met in ((None, False), ("id-2@h", False), ("id-1@h", True), ("id-2@h", True), ("-", True)):
        delivery.waiting("x", holder)
        assert delivery.has_met is has_met
    assert delivery.meets_another, "an unknown holder changes nothing"
    delivery.requeue(1.0)
    assert sent[-1]["headers"][COPY] == 1
    assert delivered(**sent[-1]["headers"]).has_met


EXPIRY = "2999-01-01T00:00:00+00:00"


@pytest.mark.parametrize("expiry", [EXPIRY, datetime.fromisoformat(EXPIRY)], ids=repr)
def test_a_copy_hides_its_expiry_while_the_first_may_run(delivered: Deliver, sent: Sent, expiry: object) -> None:
    """At the expiry Celery would store REVOKED for the running task."""
    delivery = delivered(expires=expiry)
    delivery.waiting("x", "id-1@h since 1")
    delivery.requeue_copy(1.0)
    delivery.requeue(1.0)
    for again in sent:
        assert (again["expires"], again["headers"][EXPIRES]) == (None, EXPIRY)


def test_a_copy_hides_its_expiry_after_its_first_has_gone_too(delivered: Deliver, sent: Sent) -> None:
    """At the expiry Celery would store REVOKED over the end of the first."""
    delivery = delivered(**{EXPIRES: EXPIRY, COPY: 2})
    assert charge.request.expires == EXPIRY, "the body and a retry see the expiry"
    delivery.requeue(1.0)
    delivery.waiting("x", "id-2@h since 1")
    delivery.requeue(1.0)
    charge.request.expires = "2000-01-01T00:00:00+00:00"
    assert delivery.requeue(1.0), "the next run reads whether the first has ended"
    assert [again["expires"] for again in sent] == [None, None, None]
    assert [again["headers"][EXPIRES] for again in sent[:2]] == [EXPIRY, EXPIRY]
    assert not delivery.has_expired


@pytest.mark.parametrize(("left", "has_expired"), [(-1, True), (0, True), (0.1, False)])
def test_a_copy_expires_at_its_hidden_expiry(
    delivered: Deliver, monkeypatch: pytest.MonkeyPatch, left: float, has_expired: bool
) -> None:
    monkeypatch.setattr(expiry, "seconds_left", lambda _: left)
    assert delivered(**{EXPIRES: EXPIRY}).has_expired is has_expired
    assert not delivered(**{EXPIRES: EXPIRY}, expires=EXPIRY).has_expired, "the sender has invented the mark"


def test_a_copy_that_never_expires_has_no_mark(delivered: Deliver, sent: Sent) -> None:
    delivered().requeue_copy(1.0)
    assert EXPIRES not in sent[-1]["headers"]


@pytest.mark.parametrize("mark", ["soon", 5, [], True, "2026-13-45"])
def test_an_invented_expiry_counts_as_none(delivered: Deliver, sent: Sent, mark: object) -> None:
    delivery = delivered(**{EXPIRES: mark})
    assert not delivery.has_expired
    delivery.requeue(1.0)
    assert sent[-1]["expires"] is None
    assert EXPIRES not in sent[-1]["headers"]


def test_a_retry_is_no_copy_of_its_earlier_attempt(delivered: Deliver, sent: Sent) -> None:
    delivery = delivered(retries=2, expires=EXPIRY)
    for holder, is_copy in (
        ("id-1@h since 1", False),
        ("id-1@h retry 1 since 1", False),
        ("id-1@h retry 2 since 1", True),
    ):
        assert delivery.is_of_this_task(holder) is is_copy
    delivery.waiting("x", "id-1@h retry 1 since 1")
    assert (delivery.must_run, delivery.has_met) == (True, False)
    delivery.requeue(1.0)
    assert sent[-1]["expires"] == EXPIRY
    assert not {COPY, EXPIRES} & sent[-1]["headers"].keys()
    delivery.waiting("x", "id-2@h since 1")
    assert not delivery.must_run


@pytest.mark.parametrize("later", [{}, {"retries": 1}, {"replaced_task_nesting": 1}], ids=str)
def test_a_later_attempt_has_only_the_expiry_of_an_earlier(
    delivered: Deliver, sent: Sent, clock: list[float], later: dict[str, Any]
) -> None:
    """Celery 5.7 sends a retry of a killed run in its main process, where the headers still have the marks."""
    copy = delivered(**{REQUEUES: 2, COPY: 3}, expires=EXPIRY)
    copy.waiting("x", "id-1@h since 1")
    copy.requeue(1.0)
    clock[0] += 5
    again = delivered(**sent[-1]["headers"], **later)
    counts = (again.requeue_count, again.meetings, again.has_met, again.waited_ms())
    assert counts == ((0, 0, False, 0) if later else (3, 3, True, 5_000))
    assert charge.request.expires == EXPIRY
    again.requeue(1.0)
    assert delivered(**sent[-1]["headers"], **later).requeue_count == counts[0] + 1


@pytest.mark.parametrize("retries", [None, "2", -1])
def test_an_invented_count_of_retries_counts_as_none(delivered: Deliver, retries: object) -> None:
    assert delivered(retries=retries).is_of_this_task("id-1@h since 1")


def test_only_a_copy_is_the_copy_of_a_lost_run(delivered: Deliver) -> None:
    fields = {EARLIER: {"status": "STARTED"}}
    assert not delivered(**fields).has_begun, "the sender has invented the mark"
    assert delivered(**fields, delivery_info={"redelivered": True}).has_begun


@pytest.mark.usefixtures("rabbitmq")
@pytest.mark.parametrize("fields", [{"delivery_info": {"redelivered": True}}, {COPY: 0}], ids=str)
@pytest.mark.parametrize("on_conflict", ["skip", "raise"])
def test_a_broadcast_that_came_again_is_not_lost(
    delivered: Deliver, sent: Sent, on_conflict: str, fields: dict[str, Any]
) -> None:
    """Its first run may have been killed in the body, and no state in the result backend says so."""
    contended = LockContended("x", "id-1@w@h since 1 (01234567)")
    with pytest.raises(Retry):
        Policy(0, on_conflict, 0).apply(contended, delivered(**BROADCAST, **fields))
    assert sent[-1]["headers"][COPY] == 0, "the next run knows that it is not the first"


@pytest.mark.usefixtures("rabbitmq", "acknowledged_late")
def test_rabbitmq_takes_a_broadcast_back(delivered: Deliver) -> None:
    with pytest.raises(Returned):
        delivered(**BROADCAST).return_to_broker("x")


def test_a_broadcast_that_came_once_is_skipped(delivered: Deliver) -> None:
    assert Policy(0, "skip", None).apply(LockContended("x", "id-1@w@h since 1"), delivered(**BROADCAST)) is not None


@pytest.mark.parametrize(("on_conflict", "limit"), [("requeue", 0), ("skip", None), ("raise", None)])
def test_a_copy_without_a_quorum_goes_back(delivered: Deliver, sent: Sent, on_conflict: str, limit: int | None) -> None:
    """Its first copy may run, so neither a failure nor a skip may end the task."""
    policy = Policy(0, on_conflict, limit)
    for error in (QuorumUnavailable("x", 3, 5, {}), LockContended("x"), LockContended("x", "-")):
        with pytest.raises(Ignore):
            policy.apply(error, delivered(**{COPY: 3}))
    assert [again["headers"][COPY] for again in sent] == [3, 3, 3]


@pytest.mark.usefixtures("clock")
def test_the_pauses_of_a_copy_grow(delivered: Deliver, sent: Sent) -> None:
    for meetings in (0, 3, 1_000):
        with pytest.raises(Ignore):
            Policy(0, "skip", None).apply(LockContended("x", "id-1@h since 1"), delivered(**{COPY: meetings}))
    assert [again["countdown"] for again in sent] == [0.5, 4.0, 30.0]


def test_an_unknown_holder_is_no_other_holder(delivered: Deliver) -> None:
    delivery = delivered(**{COPY: 1})
    for holder in (None, "-"):
        delivery.waiting("x", holder)
        assert (delivery.meets_another, delivery.must_run) == (False, True)
    delivery.waiting("x", "id-2@h since 1")
    assert (delivery.meets_another, delivery.must_run) == (True, False)


def test_a_failure_to_send_is_logged_once(delivered: Deliver, caplog: pytest.LogCaptureFixture) -> None:
    delivery = delivered()
    assert delivery.pause_ms() == 0
    for error in (OSError("gone"), ValueError("else")):
        delivery.not_sent(error)
    assert caplog.messages == ["requeue-failed task=id-1 why='OSError: gone'"]
    assert delivery.pause_ms() == 2_000


def test_a_message_that_is_sent_again_may_be_a_copy(delivered: Deliver, sent: Sent) -> None:
    """The broker may have taken the message whose confirmation did not arrive."""
    delivery = delivered()
    delivery.requeue(1.0)
    delivery.not_sent(TimeoutError("no confirmation"))
    delivery.requeue(1.0)
    delivery.not_sent(TimeoutError("no confirmation"))
    delivery.requeue_copy(1.0)
    assert [again["headers"].get(COPY) for again in sent] == [None, 0, 1]


@pytest.mark.usefixtures("rabbitmq")
def test_a_broadcast_that_is_sent_again_keeps_its_limit(delivered: Deliver, sent: Sent) -> None:
    """A broadcast with the mark of a copy goes back without a limit."""
    delivery = delivered(**BROADCAST)
    delivery.not_sent(TimeoutError("no confirmation"))
    delivery.requeue(1.0)
    assert COPY not in sent[-1]["headers"]
