"""Tests of the marks in `redlock.celery.delivery`: counts and times that travel with a message, and its copies."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from celery import Celery

from redlock.celery import delivery as module
from redlock.celery.delivery import REQUEUES, SINCE, Delivery
from redlock.celery.duplicate_delivery import COPY, EARLIER
from redlock.celery.message_content import CONTENT_TYPE
from redlock.celery.origin_queue import ORIGIN

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

APP = Celery(set_as_current=False, broker="memory://")
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


@pytest.fixture
def delivered() -> Iterator[Callable[..., Delivery]]:
    """The message of a run, with these fields of the request."""

    def deliver(**fields: Any) -> Delivery:  # noqa: ANN401 - Celery is untyped
        usual: dict[str, Any] = {"id": "id-1", "called_directly": False, "delivery_info": {"routing_key": "q"}}
        charge.push_request(**usual | fields)
        return Delivery(charge)

    yield deliver
    while charge.request_stack.top is not None:
        charge.pop_request()


def test_workers_of_all_versions_know_the_marks_by_these_names() -> None:
    assert (REQUEUES, SINCE, COPY) == ("redlock_requeues", "redlock_since", "redlock_copy")
    assert (CONTENT_TYPE, EARLIER, ORIGIN) == ("redlock_content_type", "redlock_earlier", "redlock_origin")


@pytest.mark.parametrize(
    ("since", "waited_ms"),
    [(None, 0), (-0.5, 0), (0.0, 0), (0.5, int((NOW - 0.5) * 1_000)), (NOW - 2.5, 2_500), (NOW, 0), (NOW + 1, 0)],
)
def test_the_wait_counts_from_the_first_way_back(
    delivered: Callable[..., Delivery], clock: list[float], sent: list[dict[str, Any]], since: float, waited_ms: int
) -> None:
    delivery = delivered(**{SINCE: since})
    assert delivery.waited_ms() == waited_ms
    assert delivery.requeue(5.0) == 5.0
    assert delivery.requeue_copy(4.0) == 4.0
    assert [again["headers"][SINCE] for again in sent] == [since if waited_ms else NOW] * 2
    clock[0] = 0.0
    assert delivery.waited_ms() == 0, "the clock was set back"


@pytest.mark.usefixtures("clock")
def test_a_task_goes_back_if_the_shortest_pause_fits(
    delivered: Callable[..., Delivery], sent: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "has_quorum_queues", lambda *_: True)
    delivery = delivered()
    for left, pause in ((1.9, None), (2.0, 1.0), (7.9, 6.0)):
        monkeypatch.setattr(delivery, "seconds_left", lambda left=left: left)
        assert delivery.requeue(30.0) == pause
    assert [again["countdown"] for again in sent] == [1.0, 6.0]


def test_a_copy_that_has_met_the_first_stays_a_copy(
    delivered: Callable[..., Delivery], sent: list[dict[str, Any]]
) -> None:
    delivery = delivered()
    for holder, has_met in ((None, False), ("id-2@h", False), ("id-1@h", True), ("id-2@h", True)):
        delivery.waiting("x", holder)
        assert delivery.has_met is has_met
    delivery.requeue(1.0)
    assert sent[-1]["headers"][COPY] == 0


def test_only_a_copy_is_the_copy_of_a_lost_run(delivered: Callable[..., Delivery]) -> None:
    fields: dict[str, Any] = {EARLIER: {"status": "STARTED"}}
    assert not delivered(**fields).has_begun, "the sender has invented the mark"
    assert delivered(**fields, delivery_info={"redelivered": True}).has_begun


def test_a_failure_to_send_is_logged_once(delivered: Callable[..., Delivery], caplog: pytest.LogCaptureFixture) -> None:
    delivery = delivered()
    assert delivery.pause_ms() == 0
    for error in (OSError("gone"), ValueError("else")):
        delivery.not_sent(error)
    assert caplog.messages == ["requeue-failed task=id-1 why='OSError: gone'"]
    assert delivery.pause_ms() == 2_000
