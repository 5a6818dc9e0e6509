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
    from celery import Celery


def has_quorum_queues(app: Celery, driver_type: str) -> bool:
    """Whether the app has a quorum queue: then Celery lets RabbitMQ delay messages with an ETA."""
    return detect_quorum_queues is not None and bool(detect_quorum_queues(app, driver_type)[0])
