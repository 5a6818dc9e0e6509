"""Tests of `redlock.celery.delivery`: the message that goes back to the queue."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any, TypeAlias

import pytest
from celery import Celery, Task
from kombu.entity import Exchange, Queue

from redlock.celery import delivery as module
from redlock.celery.delivery import ATTEMPT, SINCE, Returned
from redlock.celery.duplicate_delivery import COPY, EARLIER, REQUEUES
from redlock.celery.message_content import CONTENT_TYPE, NAMES
from redlock.celery.origin_queue import ORIGIN, NoWayBack, Origin
from tests.unit.messages import Deliver, Sent

APP = Celery(set_as_current=False, broker="memory://")
Back: TypeAlias = Callable[..., dict[str, Any]]
DELAY = "0." * 27 + "1."


@APP.task(name="tests.test_delivery.charge")
def charge(account_id: int) -> None:
    """A task that needs a lock."""


@pytest.fixture
def quorum(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The app's queues are quorum queues of RabbitMQ."""
    monkeypatch.setattr(module, "has_quorum_queues", lambda *_: True)
    kept = APP.amqp.queues
    APP.amqp.__dict__["queues"] = APP.amqp.Queues(
        [Queue("mine", Exchange("orders", type="topic"), routing_key="orders.new")]
    )
    yield
    APP.amqp.__dict__["queues"] = kept


@pytest.fixture
def back(delivered: Deliver, sent: Sent) -> Back:
    """Gives the options of the message that goes back for a request with these fields."""

    def go_back(*, longest: float = 30.0, **fields: object) -> dict[str, Any]:
        delivered(**{"args": [42], "kwargs": {}} | fields).requeue(longest)
        return sent[-1]

    return go_back


def test_notes_of_the_broker_do_not_go_back(back: Back) -> None:
    notes = {"x-death": [{"queue": "q"}], "x-first-death-queue": "q", "x-last-death-reason": "expired"}
    counts = {"x-delivery-count": 3, "x-acquired-count": 4, "x-opt-enqueue-time": 5}
    fields: dict[str, Any] = {**notes, **counts, "x-trace": "t", "traceparent": "00-1"}
    again = back(**fields)["headers"]
    assert {name for name in again if name.startswith("x-")} == {"x-trace"}
    assert again["traceparent"] == "00-1"


def test_headers_of_celery_go_back_as_options_and_no_header(back: Back) -> None:
    own = {"argsrepr": "(42,)", "kwargsrepr": "{}", "compression": "application/x-gzip"}
    fields: dict[str, Any] = {**own, "lang": "py", "task": "charge", "timelimit": [None, 5]}
    again = back(**fields, correlation_id="c-1", properties={"delivery_mode": 1})
    assert set(again["headers"]) == {REQUEUES, SINCE, ATTEMPT, "parent_id"}
    assert {name: again[name] for name in own} == own
    assert (again["correlation_id"], again["delivery_mode"]) == ("c-1", 1)


def test_headers_beside_a_header_of_that_name_go_back_too(back: Back) -> None:
    mark = {NAMES: ["headers", "traceparent"]}
    again = back(headers={"sentry-trace": "s"}, traceparent="00-1", **mark)["headers"]
    assert (again["sentry-trace"], again["traceparent"]) == ("s", "00-1")
    assert NAMES not in again


def test_marks_are_found_beside_a_header_named_headers(back: Back) -> None:
    again = back(headers={"sentry-trace": "s"}, **{REQUEUES: 4, SINCE: 5.0})["headers"]
    assert (again[REQUEUES], again[SINCE]) == (5, 5.0)


def test_serializer_and_compression_go_back(back: Back) -> None:
    again = back(**{CONTENT_TYPE: "application/x-python-serialize", "compression": "application/x-gzip"})
    assert (again["serializer"], again["compression"]) == ("pickle", "application/x-gzip")
    assert CONTENT_TYPE not in again["headers"]
    assert "serializer" not in back()


def test_a_run_is_not_its_own_parent(back: Back) -> None:
    again = back()
    assert again["headers"]["parent_id"] is None
    assert again["add_to_parent"] is False


def test_a_message_to_a_queue_goes_back_to_that_queue(back: Back) -> None:
    again = back(delivery_info={"exchange": "", "routing_key": "slow"})
    assert (again["queue"].name, again["exchange"], again["routing_key"]) == ("slow", "", "slow")


def test_the_mark_of_the_arrival_names_the_queue(back: Back) -> None:
    again = back(delivery_info={"exchange": "orders", "routing_key": "orders.new"}, **{ORIGIN: Origin("slow")})
    assert (again["queue"].name, again["exchange"], again["routing_key"]) == ("slow", "", "slow")
    assert ORIGIN not in again["headers"]


@pytest.mark.usefixtures("quorum")
def test_a_delayed_message_goes_back_by_its_own_routing_key(back: Back) -> None:
    """Celery delays a message by the routing key of its queue, so the message gets a queue with its own key."""
    again = back(delivery_info={"exchange": "celery_delayed_0", "routing_key": f"{DELAY}orders.new"})
    assert (again["exchange"], again["routing_key"]) == ("orders", "orders.new")
    assert (again["queue"].routing_key, again["queue"].exchange.type) == ("orders.new", "topic")


def test_a_broadcast_has_no_queue_to_return_to(back: Back, sent: Sent) -> None:
    with pytest.raises(NoWayBack, match="so the task waits in its slot"):
        back(**{ORIGIN: Origin("bcast.1", is_broadcast=True), COPY: 1})
    assert not sent


@pytest.mark.usefixtures("acknowledged_late")
def test_the_messages_of_a_broadcast_are_no_copies(delivered: Deliver) -> None:
    marks = {ORIGIN: Origin("bcast.1", is_broadcast=True), EARLIER: {"status": "STARTED"}}
    delivery = delivered(delivery_info={"redelivered": True}, **marks)
    assert not delivery.is_of_this_task("id-1@w2@h since 12")
    assert not delivery.has_begun
    assert not delivery.is_finished()
    delivery.return_to_broker("x")


def test_a_message_without_a_place_goes_where_its_task_goes(back: Back) -> None:
    for again in (back(delivery_info={}), back(delivery_info=None)):
        assert not {"queue", "exchange", "routing_key"} & again.keys()


@pytest.mark.usefixtures("quorum")
@pytest.mark.parametrize("longest", [0.1, 0.5, 1.0, 3.0, 30.0])
def test_a_pause_of_native_delayed_delivery_is_a_whole_second(back: Back, longest: float) -> None:
    for _ in range(20):
        pause = back(longest=longest)["countdown"]
        assert pause == int(pause)
        assert 1 <= pause <= max(1, longest)


@pytest.mark.parametrize("mark", ["x", -1_000_000, float("nan"), [], 1.5])
def test_an_invented_count_of_requeues_counts_as_none(back: Back, mark: object) -> None:
    assert back(**{REQUEUES: mark})["headers"][REQUEUES] == 1


@pytest.mark.parametrize("mark", ["x", -1e300, float("nan"), float("inf"), 1e12, [], {}])
def test_an_invented_start_of_the_wait_counts_as_none(delivered: Deliver, back: Back, mark: object) -> None:
    assert delivered(**{SINCE: mark}).waited_ms() < 60_000
    assert 1e9 < back(**{SINCE: mark})["headers"][SINCE] < 1e11


@pytest.mark.usefixtures("sent")
@pytest.mark.parametrize("timeout", [0.6, 6])
def test_a_pause_is_a_third_of_the_visibility_timeout_at_most(
    delivered: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, timeout: float
) -> None:
    """The worker holds the message meanwhile; the broker would deliver a message in the queue again and again."""
    monkeypatch.setitem(APP.conf, "broker_transport_options", {"visibility_timeout": timeout})
    third = timeout / 3
    for requeue in (delivered().requeue, delivered().requeue_copy):
        pauses = [requeue(30.0) for _ in range(50)]
        assert 0.1 <= min(pauses) < max(pauses) <= third
        with monkeypatch.context() as longest:
            longest.setattr("random.uniform", lambda least, most: (least, most)[1])
            assert [requeue(seconds) for seconds in (30.0, 0.15, 0.0)] == [third, 0.15, 0.1]


def test_the_place_of_the_result_goes_back(back: Back) -> None:
    assert [back(ignore_result=chosen)["ignore_result"] for chosen in (True, False)] == [True, False]
    assert "ignore_result" not in back(), "the task itself chooses"


def test_a_task_with_a_longer_id_is_another_task(delivered: Deliver) -> None:
    holders = ("id-1@w1@h since 12", "id-10@w1@h since 12", "id-1", "", None)
    assert [delivered().is_of_this_task(holder) for holder in holders] == [True, False, False, False, False]


class Producer:
    """A producer of RabbitMQ; the channel and the connection note their use."""

    def __init__(self) -> None:
        self.collected = 0
        self.publish = lambda *_arguments, **_options: None
        self.channel = SimpleNamespace(basic_publish=self.publish)
        self.connection = self

    def collect(self) -> None:
        self.collected += 1


@pytest.mark.usefixtures("rabbitmq")
@pytest.mark.parametrize("error", [None, TimeoutError("no confirmation")])
def test_a_message_to_rabbitmq_is_confirmed_and_sent_once(
    delivered: Deliver, monkeypatch: pytest.MonkeyPatch, error: BaseException | None
) -> None:
    producer, calls = Producer(), []

    def send(*_: object, **options: Any) -> None:  # noqa: ANN401 - as Celery
        calls.append((options["producer"], options["retry"], producer.channel.basic_publish, options["routing_key"]))
        if error is not None:
            raise error

    monkeypatch.setattr(module, "has_quorum_queues", lambda *_: False)
    monkeypatch.setattr(module, "confirmed_publish", lambda *given: given)
    monkeypatch.setattr(APP, "producer_or_acquire", lambda: contextlib.nullcontext(producer))
    monkeypatch.setattr(Task, "apply_async", send)
    with contextlib.nullcontext() if error is None else pytest.raises(TimeoutError):
        delivered(args=[42], kwargs={}).requeue(30.0)
    assert calls == [(producer, False, (producer.channel, 10), "q")], "each message waits 10 s for its confirmation"
    assert producer.collected == (error is not None), "the pool must not wait for a broker that does not answer"


@pytest.mark.parametrize("user", ["guest", "ann"])
def test_rabbitmq_gets_no_message_of_another_user(back: Back, request: pytest.FixtureRequest, user: str) -> None:
    """A connection without a name has the user `guest`."""
    assert back(properties={"user_id": user})["user_id"] == user, "another broker takes any user"
    request.getfixturevalue("rabbitmq")
    assert back(properties={"user_id": user}).get("user_id") == (user if user == "guest" else None)


@pytest.mark.usefixtures("acknowledged_late")
@pytest.mark.parametrize(
    ("limit", "returned", "is_taken"), [(5, 3, True), (5, 4, False), (50, 18, True), (50, 19, False)]
)
def test_a_quorum_queue_takes_a_message_back_until_its_limit(
    delivered: Deliver,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    limit: int,
    returned: int,
    *,
    is_taken: bool,
) -> None:
    caplog.set_level("INFO", "redlock")
    queues = APP.amqp.Queues([Queue("q", queue_arguments={"x-delivery-limit": limit}), Queue("r")])
    monkeypatch.setitem(APP.amqp.__dict__, "queues", queues)
    said = "^the soft time limit expired before the task had its lock$"
    with pytest.raises(Returned) if is_taken else contextlib.nullcontext() as returning:
        delivered(**{"x-delivery-count": returned}).return_to_broker("x")
    assert caplog.messages == ["requeued task=id-1 resource=x count=0 countdown=0.00"] * is_taken
    assert returning is None or re.match(said, returning.value.reason)
