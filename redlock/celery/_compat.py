"""All code that depends on the version of Celery; `redlock._compat` has the same for redis-py.

Each branch names the version that must be the oldest supported version before the branch can be deleted.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

try:
    from celery.utils.quorum_queues import detect_quorum_queues
except ImportError:
    # Celery below 5.5, whose workers can't consume from quorum queues.
    detect_quorum_queues = None

if TYPE_CHECKING:
    from collections.abc import Callable

    from celery import Celery, Task


def has_quorum_queues(app: Celery, driver_type: str) -> bool:
    """Whether the app has a quorum queue: then Celery lets RabbitMQ delay messages with an ETA."""
    return detect_quorum_queues is not None and bool(detect_quorum_queues(app, driver_type)[0])


def acknowledges_failures(task: Task) -> bool:
    """Whether the message of a task leaves its queue after a failure and after a timeout."""
    # Celery below 5.7 has only the option for both. From 5.7 on that option is the default of the other two.
    both = task.acks_on_failure_or_timeout
    each = (getattr(task, name, None) for name in ("acks_on_failure", "acks_on_timeout"))
    return all((both if option is None else option) is not False for option in each)


def confirmed_publish(channel: Any, seconds: float) -> Callable[..., Any]:
    """The method of a channel that sends a message and waits for the broker's confirmation.

    kombu below 5.5 takes the timeout for a property of the message and waits without end, so the timeout is given to
    amqp itself. From kombu 5.5 on `apply_async` can pass it.
    """
    send = getattr(channel, "basic_publish_confirm", channel.basic_publish)

    def publish(*arguments: object, **options: object) -> object:
        return send(*arguments, **options | {"confirm_timeout": seconds})

    return publish
