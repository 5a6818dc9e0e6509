"""The queue that a message came from, and the options that send the message back to exactly this queue.

Invariants:
1. A message goes back by the name of its queue. By its exchange the message could reach several queues, or no queue
   if the worker does not know the type of the exchange.
2. RabbitMQ's consumer tag tells the queue. Other brokers tell only the exchange and the routing key: then the message
   goes to the first queue of this worker with a fitting binding. So the message stays single, in a queue with a
   consumer.
3. On brokers other than RabbitMQ a broadcast has no queue: a fanout exchange stores nothing there.
"""

from __future__ import annotations

import itertools
import operator
import re
from typing import TYPE_CHECKING, Any, NamedTuple

from celery.signals import task_received
from kombu.common import Broadcast
from kombu.entity import Exchange, Queue
from kombu.transport.virtual.exchange import TopicExchange

from redlock.admin.visibility_timeout import is_locked

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from celery import Celery

ORIGIN = "redlock_origin"
"""A mark added on arrival: the queue of a message for a task under `@locked`."""
_DIGITS, _DIGIT = 28, "0 or 1"
_DELAY = re.compile(rf"^(?:[01]\.){{{_DIGITS}}}")
"""The prefix that Celery's native delayed delivery adds to a routing key."""


class NoWayBack(Exception):
    """The message came from no queue, so there is no way back."""


class Origin(NamedTuple):
    """The queue of a message.

    Attributes:
        queue: The name of the queue.
        is_broadcast: Whether the queue belongs to a fanout exchange. Then other workers have messages with the same id.
    """

    queue: str
    is_broadcast: bool = False


def origin_of(
    info: Mapping[str, Any], consumed: Iterable[Queue], tags: Mapping[str, str] | None = None
) -> Origin | None:
    """The queue of a message; None for a message without a queue.

    Args:
        info: The exchange and the routing key of the delivery, with RabbitMQ also the consumer tag.
        consumed: The queues that this worker consumes.
        tags: The consumer tags by the names of the queues.
    """
    exchange, key, tag = info.get("exchange"), _plain_key(info), info.get("consumer_tag")
    queues = list(consumed)
    name = next((name for name, other in (tags or {}).items() if other == tag), None if exchange else key)
    if name is None:
        # A binding that the app doesn't know can have led to a queue of this worker.
        beside = [queue for queue in queues if _type_of(queue) != "fanout"]
        beside.sort(key=lambda queue: queue.exchange is None or queue.exchange.name != exchange)
        bound = [queue for queue in queues if _is_bound(queue, str(exchange), key)]
        name = next((queue.name for queue in bound + beside), "")
    is_broadcast = any(_type_of(queue) == "fanout" for queue in queues if queue.name == name)
    return Origin(name, is_broadcast) if name else None


def way_back(app: Celery, origin: Origin, info: Mapping[str, Any], *, natively: bool) -> dict[str, Any]:
    """The arguments for `apply_async` that send a message to its queue.

    Args:
        app: The app of the task.
        origin: The queue of the message.
        info: The exchange and the routing key of the delivery.
        natively: Whether RabbitMQ delays the messages of this app.
    """
    name = origin.queue
    known = app.amqp.queues.get(name)
    if natively and known is not None and _type_of(known) == "topic":
        key = _plain_key(info)
        # RabbitMQ drops a message that no queue takes when its delay ends, and kombu's patterns are not RabbitMQ's.
        key = key if info.get("exchange") and _takes_delayed(known, key) else known.routing_key
        # Each return would double the message if the delay ended at another queue too. Then the worker must hold it.
        if not any(_ends_delay(queue, key) for queue in app.amqp.queues.values() if queue.name != name):
            exchange = known.exchange.name
            queue = Queue("", Exchange(exchange, type="topic"), routing_key=key)
            return {"queue": queue, "exchange": exchange, "routing_key": key}
    declared = [] if known is None or isinstance(known, Broadcast) else [known]
    return {"queue": Queue(name, Exchange(""), name), "exchange": "", "routing_key": name, "declare": declared}


def _plain_key(info: Mapping[str, Any]) -> str:
    """The routing key of a delivery, without the prefix of a delay."""
    return _DELAY.sub("", info.get("routing_key") or "")


def _type_of(queue: Queue) -> str:
    return str(queue.exchange.type) if queue.exchange else "direct"


def _bindings(queue: Queue) -> list[Any]:
    """The bindings of a queue; a queue with an exchange is a binding itself."""
    return [binding for binding in (queue, *(queue.bindings or ())) if binding.exchange is not None]


def _is_bound(queue: Queue, exchange: str, key: str) -> bool:
    """Whether kombu gives a message to a queue, by kombu's own patterns."""
    pattern = TopicExchange(None).key_to_pattern
    return any(
        binding.exchange.name == exchange
        and (
            binding.exchange.type == "fanout"
            or binding.routing_key == key
            or (binding.exchange.type == "topic" and re.match(pattern(binding.routing_key or ""), key))
        )
        for binding in _bindings(queue)
    )


def _ends_delay(queue: Queue, key: str) -> bool:
    """Whether RabbitMQ's delay of a message ends at a queue."""
    return any(_takes_delayed(binding, key) for binding in _bindings(queue) if binding.exchange.type != "direct")


def _takes_delayed(binding: Any, key: str) -> bool:
    """Whether a binding takes a delayed message. Celery binds it for that with `#.` before its key.

    During the delay, the message's key has one word more for each binary digit of the pause, 0 or 1.
    """
    return _fits(["#", *(binding.routing_key or "").split(".")], [*[_DIGIT] * _DIGITS, *key.split(".")])


def _fits(pattern: list[str], words: list[str]) -> bool:
    """Whether a binding of RabbitMQ takes a message with these words in its key, where a digit can be 0 or 1."""
    # For each number of words, whether the pattern so far takes exactly the first so many words.
    fits = [True] + [False] * len(words)
    for part in pattern:
        if part == "#":
            fits = list(itertools.accumulate(fits, operator.or_))
        else:
            takes = [part in {"*", word} or (word == _DIGIT and part in {"0", "1"}) for word in words]
            fits = [False, *(before and taken for before, taken in zip(fits, takes, strict=False))]
    return fits[-1]


@task_received.connect
def _remember_the_origin(sender: Any, request: Any, **_: Any) -> None:
    # Only the worker's main process knows the consumer. A retry carries the mark of an earlier message.
    request.request_dict.pop(ORIGIN, None)
    if is_locked(request.task):
        consumer = sender.task_consumer
        request.request_dict[ORIGIN] = origin_of(
            request.message.delivery_info or {},
            consumer.queues,
            consumer._active_tags,  # noqa: SLF001 - kombu has no public way
        )
