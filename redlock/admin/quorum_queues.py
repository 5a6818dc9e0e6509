"""Finds direct exchanges beside quorum queues: RabbitMQ can't delay their messages, so a requeued task stops a worker.

Invariants: no I/O, and no import of Celery or kombu.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from redlock.admin import visibility_timeout
from redlock.admin.diagnostics import Finding, warning

if TYPE_CHECKING:
    from collections.abc import Sequence

    from redlock.admin.visibility_timeout import Locked


def findings(app: Any, tasks: Sequence[Locked]) -> list[Finding]:
    """Return a warning about direct exchanges beside quorum queues.

    Args:
        app: The Celery app. Of the app of a worker, only the queues of this worker count.
        tasks: Its tasks under `@locked`.
    """
    if not tasks or not visibility_timeout.is_amqp(app.conf):
        return []
    queues = app.amqp.queues
    # With a quorum queue, the prefetch count of each queue of a worker is fixed, also of the classic queues. Without a
    # quorum queue, a worker that holds a message raises the count.
    if not any((queue.queue_arguments or {}).get("x-queue-type") == "quorum" for queue in queues.values()):
        return []
    direct = ", ".join(sorted(queue.name for queue in queues.consume_from.values() if _is_direct(queue)))
    if not direct:
        return []
    what = (
        f"the exchange of {direct} is direct, so RabbitMQ delays no requeued task: a worker holds the task for up to "
        "30 s, and may take no other task meanwhile"
    )
    fix = (
        "set task_default_exchange_type to 'topic' and task_default_exchange to a new name; give each queue of "
        "task_queues a topic exchange"
    )
    return [warning("direct-exchange", "broker", what, fix)]


def _is_direct(queue: Any) -> bool:
    kinds = {binding.exchange.type for binding in (queue, *(queue.bindings or ())) if binding.exchange is not None}
    return kinds <= {"direct"}
