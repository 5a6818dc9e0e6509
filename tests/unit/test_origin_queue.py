"""Tests of `redlock.celery.origin_queue`: the queue of a message, and the way back to exactly this queue."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from celery import Celery, Task
from kombu.common import Broadcast
from kombu.entity import Exchange, Queue, binding

from redlock.celery import locked
from redlock.celery.origin_queue import ORIGIN, Origin, _remember_the_origin, origin_of, way_back
from tests.unit.locked_tasks import called_class

DELAY = "0." * 27 + "1."
SHOP, SYNC = Exchange("shop", type="topic"), Exchange("sync", type="direct")
QUEUES = [
    Queue("news", Exchange("everywhere", type="fanout")),
    Queue("paris", SYNC, routing_key="sync"),
    Queue("london", SYNC, routing_key="sync"),
    Queue("orders", SHOP, routing_key="orders.#"),
    Queue("returns", SHOP, routing_key="*.returns"),
    Queue("many", [binding(SHOP, routing_key="a"), binding(Exchange("b", type="direct"), routing_key="c.*")]),
]


def app_with(*queues: Queue) -> Celery:
    app = Celery(set_as_current=False, broker="memory://")
    app.conf.task_queues = queues
    return app


@pytest.mark.parametrize(
    ("exchange", "key", "queue"),
    [
        ("", "any", "any"),
        (None, "any", "any"),
        ("sync", "sync", "paris"),
        ("shop", "orders.eu.fr", "orders"),
        ("shop", "orders", "orders"),
        ("shop", f"{DELAY}orders.eu", "orders"),
        ("shop", "books.returns", "returns"),
        ("shop", "orders.returns", "orders"),
        ("shop", "a", "many"),
        ("b", "c.*", "many"),
        ("b", "c.d", "paris"),
        ("shop", "x", "orders"),
        ("gone", "x", "paris"),
        ("everywhere", "x", "news"),
    ],
)
def test_a_binding_names_the_queue_of_a_message(exchange: str | None, key: str, queue: str) -> None:
    """The last resort is another queue of the worker, and never one that stores nothing."""
    found = origin_of({"exchange": exchange, "routing_key": key}, QUEUES)
    assert found == Origin(queue, is_broadcast=queue == "news")


def test_a_message_from_nowhere_has_no_queue() -> None:
    assert origin_of({}, QUEUES) is None
    assert origin_of({"exchange": "sync", "routing_key": "sync"}, []) is None


def test_a_consumer_tag_names_the_queue_of_a_message() -> None:
    info = {"exchange": "sync", "routing_key": "sync", "consumer_tag": "None2"}
    tags = {"paris": "None1", "london": "None2", "news": "None3"}
    assert origin_of(info, QUEUES, tags) == Origin("london")
    assert origin_of(info | {"consumer_tag": "None3"}, QUEUES, tags) == Origin("news", is_broadcast=True)
    assert origin_of(info | {"consumer_tag": "None9"}, QUEUES, tags) == Origin("paris")


def test_a_message_goes_back_by_the_name_of_its_queue() -> None:
    app = app_with(*QUEUES)
    place = way_back(app, Origin("orders"), {"exchange": "shop", "routing_key": "orders.eu"}, natively=False)
    assert (place["queue"].name, place["exchange"], place["routing_key"]) == ("orders", "", "orders")
    assert place["queue"].exchange.type == "direct", "Celery would delay the message by the exchange"
    assert place["declare"] == [app.amqp.queues["orders"]]


@pytest.mark.parametrize("queue", [Queue("else"), Broadcast("everywhere", queue="bcast.1")])
def test_a_queue_that_only_the_worker_knows_is_not_declared(queue: Queue) -> None:
    app = app_with(Broadcast("everywhere", queue="bcast.1"))
    place = way_back(app, Origin(queue.name), {}, natively=False)
    assert (place["queue"].name, place["declare"]) == (queue.name, [])
    assert "else" not in app.amqp.queues


@pytest.mark.parametrize(
    ("info", "key"),
    [
        ({"exchange": "shop", "routing_key": "orders.eu"}, "orders.eu"),
        ({"exchange": "celery_delayed_0", "routing_key": f"{DELAY}orders.eu"}, "orders.eu"),
        ({"exchange": "", "routing_key": "orders"}, "orders.#"),
        ({"exchange": "shop", "routing_key": "bound by hand"}, "orders.#"),
    ],
)
def test_rabbitmq_delays_a_message_by_a_key_of_its_queue(info: dict[str, str], key: str) -> None:
    app = app_with(*QUEUES[1:4], Queue("direct", SYNC, routing_key="orders.eu"))
    place = way_back(app, Origin("orders"), info, natively=True)
    assert (place["exchange"], place["routing_key"]) == ("shop", key)
    assert (place["queue"].exchange.type, place["queue"].routing_key) == ("topic", key)


@pytest.mark.parametrize("queue", ["paris", "orders", "news", "unknown"])
def test_a_delay_that_ends_at_two_queues_is_the_workers(queue: str) -> None:
    """`orders.returns` fits two queues. A direct exchange has no delay, and a fanout exchange has no single queue."""
    info = {"exchange": "shop", "routing_key": "orders.returns"}
    place = way_back(app_with(*QUEUES), Origin(queue), info, natively=True)
    assert (place["queue"].name, place["exchange"], place["routing_key"]) == (queue, "", queue)


@pytest.mark.parametrize(
    ("other", "is_reached"),
    [
        (Queue("other", SHOP, routing_key="orders.eu"), True),
        (Queue("other", SHOP, routing_key="orders.eu.#"), True),
        (Queue("other", SHOP, routing_key="#"), True),
        (Queue("other", SHOP, routing_key="eu"), True),
        (Queue("other", Exchange("else", type="topic"), routing_key="*"), True),
        (Queue("other", Exchange("else", type="fanout"), routing_key="eu"), True),
        (Queue("other", [binding(SYNC, routing_key="x"), binding(SHOP, routing_key="eu")]), True),
        (Queue("other", SHOP, routing_key="orders"), False),
        (Queue("other", SHOP, routing_key="*.orders.eu"), True),
        (Queue("other", SHOP, routing_key="*.*.eu"), True),
        (Queue("other", SHOP, routing_key="1.*.#.eu"), True),
        (Queue("other", SHOP, routing_key="2.orders.eu"), False),
        (Queue("other", SHOP, routing_key="us.orders.eu"), False),
        (Queue("other", SHOP, routing_key="us.#"), False),
        (Queue("other", SHOP, routing_key="*.orders"), False),
        (Queue("other", SHOP, routing_key="orders-eu"), False),
        (Queue("other", SYNC, routing_key="eu"), False),
        (Queue("other", [binding(SYNC, routing_key="eu")]), False),
    ],
    ids=lambda value: f"{value.routing_key} {value.exchange}" if isinstance(value, Queue) else None,
)
def test_a_delay_reaches_each_queue_of_an_end_of_its_key(other: Queue, is_reached: bool) -> None:
    """Celery puts `#.` before the queue's key, and 28 digits before the message's key."""
    app = app_with(Queue("orders", SHOP, routing_key="orders.#"), other)
    place = way_back(app, Origin("orders"), {"exchange": "shop", "routing_key": "orders.eu"}, natively=True)
    assert place["exchange"] == ("" if is_reached else "shop")


@pytest.mark.parametrize(
    ("bound", "key"), [("a.*", "a.b.c"), ("a.*", "a"), ("*.a", "a.b"), ("*x", "a"), ("a.+", "aa"), ("*x", "*x")]
)
def test_a_delay_ends_at_the_queue_of_its_message(bound: str, key: str) -> None:
    """A binding by hand led to the queue. RabbitMQ drops a message that no binding takes when its delay ends.

    In the last row a sender uses characters that mean something in patterns.
    """
    app = app_with(Queue("orders", SHOP, routing_key=bound))
    place = way_back(app, Origin("orders"), {"exchange": "shop", "routing_key": key}, natively=True)
    assert (place["exchange"], place["routing_key"]) == ("shop", bound)


def body() -> None:
    """The body of a task."""


def test_the_queue_of_a_locked_task_is_marked_on_arrival() -> None:
    app = app_with(*QUEUES)
    message = SimpleNamespace(delivery_info={"exchange": "sync", "routing_key": "sync", "consumer_tag": "None2"})
    consumer = SimpleNamespace(task_consumer=SimpleNamespace(queues=QUEUES, _active_tags={"london": "None2"}))
    marked = Origin("london")
    cases: list[tuple[Any, type[Task], Origin | None]] = [
        (body, Task, None), (locked("x")(body), Task, marked), (body, called_class(), marked)
    ]  # fmt: skip
    for number, (function, base, origin) in enumerate(cases):
        task: Any = app.task(function, name=f"marked-{number}", base=base, shared=False)
        request = SimpleNamespace(request_dict={ORIGIN: "of a retry"}, task=task, message=message)
        _remember_the_origin(consumer, request)
        assert request.request_dict.get(ORIGIN) == origin
