"""Tests of `redlock.celery.delivery`: the message that goes back to the queue."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from celery import Celery
from kombu.entity import Exchange, Queue

from redlock.celery.delivery import CONTENT_TYPE, REQUEUES, SINCE, Delivery

if TYPE_CHECKING:
    from collections.abc import Iterator

APP = Celery(set_as_current=False, broker="memory://")
DELAY = "0." * 27 + "1."


@APP.task(name="tests.test_delivery.charge")
def charge(account_id: int) -> None:
    """A task that needs a lock."""


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """The options of each message that is sent."""
    calls: list[dict[str, Any]] = []
    monkeypatch.setattr(charge, "apply_async", lambda _args, _kwargs, **options: calls.append(options))
    return calls


@pytest.fixture
def quorum(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The app's queues are quorum queues of RabbitMQ."""
    monkeypatch.setattr("redlock.celery.delivery._delays_natively", lambda _: True)
    kept = APP.amqp.queues
    APP.amqp.__dict__["queues"] = APP.amqp.Queues(
        [Queue("mine", Exchange("orders", type="topic"), routing_key="orders.new")]
    )
    yield
    APP.amqp.__dict__["queues"] = kept


def back(sent: list[dict[str, Any]], *, longest: float = 30.0, **fields: Any) -> dict[str, Any]:  # noqa: ANN401
    """The options of the message that goes back for a request with these fields."""
    usual = {"id": "id-1", "args": [42], "kwargs": {}, "called_directly": False, "delivery_info": {"routing_key": "q"}}
    charge.push_request(**usual | fields)
    try:
        delivery = Delivery.of(charge)
        assert delivery is not None
        delivery.requeue(longest)
    finally:
        charge.pop_request()
    return sent[-1]


def test_notes_of_the_broker_do_not_go_back(sent: list[dict[str, Any]]) -> None:
    notes = {"x-death": [{"queue": "q"}], "x-first-death-queue": "q", "x-last-death-reason": "expired"}
    counts = {"x-delivery-count": 3, "x-acquired-count": 4, "x-opt-enqueue-time": 5}
    fields: dict[str, Any] = {**notes, **counts, "x-trace": "t", "traceparent": "00-1"}
    again = back(sent, **fields)["headers"]
    assert {name for name in again if name.startswith("x-")} == {"x-trace"}
    assert again["traceparent"] == "00-1"


def test_headers_beside_a_header_of_that_name_go_back_too(sent: list[dict[str, Any]]) -> None:
    again = back(sent, headers={"sentry-trace": "s"}, traceparent="00-1")["headers"]
    assert (again["sentry-trace"], again["traceparent"]) == ("s", "00-1")


def test_marks_are_found_beside_a_header_named_headers(sent: list[dict[str, Any]]) -> None:
    marks: dict[str, Any] = {REQUEUES: 4, SINCE: 5.0}
    again = back(sent, headers={"sentry-trace": "s"}, **marks)["headers"]
    assert (again[REQUEUES], again[SINCE]) == (5, 5.0)


def test_serializer_and_compression_go_back(sent: list[dict[str, Any]]) -> None:
    fields: dict[str, Any] = {CONTENT_TYPE: "application/x-python-serialize", "compression": "application/x-gzip"}
    again = back(sent, **fields)
    assert (again["serializer"], again["compression"]) == ("pickle", "application/x-gzip")
    assert CONTENT_TYPE not in again["headers"]
    assert "serializer" not in back(sent)


def test_a_run_is_not_its_own_parent(sent: list[dict[str, Any]]) -> None:
    again = back(sent)
    assert again["headers"]["parent_id"] is None
    assert again["add_to_parent"] is False


def test_a_message_to_a_queue_goes_back_to_that_queue(sent: list[dict[str, Any]]) -> None:
    assert back(sent, delivery_info={"exchange": "", "routing_key": "slow"})["queue"] == "slow"


@pytest.mark.usefixtures("quorum")
def test_a_delayed_message_goes_back_by_its_own_routing_key(sent: list[dict[str, Any]]) -> None:
    """Celery delays a message by the routing key of its queue, so the message needs its original queue."""
    again = back(sent, delivery_info={"exchange": "orders", "routing_key": f"{DELAY}orders.new"})
    assert (again["queue"], again["exchange"], again["routing_key"]) == ("mine", "orders", "orders.new")

    again = back(sent, delivery_info={"exchange": "orders", "routing_key": f"{DELAY}orders.old"})
    assert (again["queue"].routing_key, again["queue"].exchange.type) == ("orders.old", "topic")


@pytest.mark.usefixtures("quorum")
@pytest.mark.parametrize("longest", [0.1, 0.5, 1.0, 3.0, 30.0])
def test_a_pause_of_native_delayed_delivery_is_a_whole_second(sent: list[dict[str, Any]], longest: float) -> None:
    for _ in range(20):
        pause = back(sent, longest=longest)["countdown"]
        assert pause == int(pause)
        assert 1 <= pause <= max(1, longest)


@pytest.mark.parametrize("mark", ["x", -1_000_000, float("nan"), [], 1.5])
def test_an_invented_count_of_requeues_counts_as_none(sent: list[dict[str, Any]], mark: object) -> None:
    marks: dict[str, Any] = {REQUEUES: mark}
    assert back(sent, **marks)["headers"][REQUEUES] == 1
