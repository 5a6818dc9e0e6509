"""The Celery app of the example: `celery -A workers.app worker`.

Invariants:
1. Strings name the task modules, so that imports point down: tasks import workers, never the reverse.
2. Messages are JSON only.
3. A finished task is acknowledged; a task of a lost worker is delivered again.
"""

from __future__ import annotations

import socket
import threading
from typing import Any

from celery import Celery, Task
from celery.exceptions import Reject
from celery.signals import celeryd_after_setup, setup_logging, worker_process_init
from kombu.exceptions import OperationalError

from redlock.celery import client_for
from workers import logs, start
from workers.settings import from_environment

settings, lock_settings = from_environment()

# A worker that returns from a network partition under another address gets no news that its connections are dead. By
# the system's defaults such a worker would wait for the broker for 15 minutes. Seconds, seconds, a count, milliseconds.
_NOTICE = {"TCP_KEEPIDLE": 10, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 3, "TCP_USER_TIMEOUT": 25_000}
_KEEPALIVE = {getattr(socket, name): value for name, value in _NOTICE.items() if hasattr(socket, name)}


class CounterTask(Task):  # type: ignore[misc]  # Celery is untyped
    """A task that survives a failure of the sixth Redis. Callers get a single kind of error during the failure."""

    abstract = True

    def apply_async(self, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401 - Celery is untyped
        """Send the task to the broker.

        Raises:
            kombu.exceptions.OperationalError: The broker, or the result backend, can't be reached.
        """
        try:
            return super().apply_async(*args, **kwargs)
        except RuntimeError as error:
            # Celery's result backend gives up with a RuntimeError that asks for a restart of the application.
            raise OperationalError(f"the result backend can't be reached: {error}") from None

    def retry(self, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401 - Celery is untyped
        """Run the task again later.

        Raises:
            celery.exceptions.Reject: The broker does not take the message; the received message is delivered again.
        """
        try:
            return super().retry(*args, **kwargs)
        except Reject as rejected:
            # Celery would drop the task for good while store and broker are both down.
            raise Reject(rejected.reason, requeue=True) from None


_REDIS_TRANSPORT = {
    "visibility_timeout": settings.visibility_timeout,
    "unacked_restore_interval": 5,
    "unacked_restore_throttle": 1,
    # A worker that is killed while it looks for the messages of dead workers holds up the others: by default 5 minutes.
    "unacked_mutex_expire": 10,
    "socket_timeout": 30,
    "socket_connect_timeout": 5,
    "socket_keepalive": True,
    "socket_keepalive_options": _KEEPALIVE,
    "health_check_interval": 25,
}
# Without a confirmation, a RabbitMQ that is killed can lose a message that its sender takes for sent.
_AMQP_TRANSPORT = {"confirm_publish": True}

app = Celery("counter", include=["tasks.counter"], task_cls=CounterTask)
app.conf.update(
    broker_url=settings.broker_url,
    result_backend=settings.result_url,
    accept_content=["json"],
    task_serializer="json",
    result_serializer="json",
    task_acks_late=True,
    task_reject_on_worker_lost=True,
    task_track_started=True,
    worker_prefetch_multiplier=1,
    # True would lose tasks if broker and results are on the same server. Celery 5.7 kills the child, takes the task for
    # revoked because the backend is away, and acknowledges the task on the next connection. A copy is harmless.
    worker_cancel_long_running_tasks_on_connection_loss=False,
    worker_send_task_events=True,
    task_send_sent_event=True,
    task_time_limit=settings.time_limit,
    task_soft_time_limit=settings.time_limit * 0.8,
    broker_connection_retry_on_startup=True,
    broker_transport_options=_AMQP_TRANSPORT if settings.broker_url.startswith("amqp") else _REDIS_TRANSPORT,
    # False would fail and acknowledge a task during a short outage of the results. Before Celery stores a state, it
    # reads the last state without a retry (celery/backends/base.py).
    result_backend_always_retry=True,
    # As above: Celery's default is two minutes.
    redis_socket_timeout=10.0,
    redis_socket_connect_timeout=5.0,
)


@setup_logging.connect
def _log_to_file(**_: Any) -> None:  # noqa: ANN401 - Celery's signals pass what they like
    try:
        logs.configure(settings.log_file, int(settings.log_bytes))
    except OSError as error:
        raise SystemExit(f"log file {settings.log_file!r}: {error}") from None


@celeryd_after_setup.connect
def _check_cluster(**_: Any) -> None:  # noqa: ANN401 - as above
    start.wait_until_safe(settings, lock_settings)


@worker_process_init.connect
def _start_child(**_: Any) -> None:  # noqa: ANN401 - as above
    _log_to_file()
    # In the background: Celery kills a child that takes more than four seconds to start.
    contact = threading.Thread(
        target=lambda: start.contact_nodes(client_for(app)), name="redlock-first-contact", daemon=True
    )
    contact.start()
