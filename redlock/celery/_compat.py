"""All code that depends on the version of Celery; `redlock._compat` has the same for redis-py and hiredis.

Each branch names the version that must be the oldest supported version before the branch can be deleted.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

try:
    from celery.utils.quorum_queues import detect_quorum_queues
except ImportError:
    # Celery below 5.5, whose workers can't consume from quorum queues.
    detect_quorum_queues = None

if TYPE_CHECKING:
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
