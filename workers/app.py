"""The Celery app of the worked example: `celery -A workers.app worker`.

Rules: task modules are named as strings, so that imports point down (tasks use workers, never the other way);
JSON only; a task is acknowledged when it is done, and delivered again when its worker was lost.
"""

from __future__ import annotations

import contextlib
import socket
import threading
from typing import Any

from celery import Celery, Task
from celery.exceptions import Reject
from celery.signals import celeryd_after_setup, setup_logging, worker_process_init
from kombu.exceptions import OperationalError

from redlock import RedlockError
from redlock.celery import client_for
from workers import logs, start
from workers.settings import from_environment

settings, lock_settings = from_environment()

# Where a worker comes back from being cut off under another address, nobody tells it that its connections are dead:
# by the system's defaults it would wait for the broker for a quarter of an hour. Seconds, a count, milliseconds.
_NOTICE = {"TCP_KEEPIDLE": 10, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 3, "TCP_USER_TIMEOUT": 25_000}
_KEEPALIVE = {getattr(socket, name): value for name, value in _NOTICE.items() if hasattr(socket, name)}


class CounterTask(Task):  # type: ignore[misc]  # Celery is untyped
    """A task that is not lost when the sixth Redis goes, and whose caller gets one kind of error when it is down."""

    abstract = True

    def apply_async(self, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401 - Celery is untyped
        """Enqueue.

        Raises:
            kombu.exceptions.OperationalError: The broker, or the result backend, can't be reached.
        """
        try:
            return super().apply_async(*args, **kwargs)
        except RuntimeError as error:
            # Celery's result backend gives up with a RuntimeError that says that the application must be restarted.
            raise OperationalError(f"the result backend can't be reached: {error}") from None

    def retry(self, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401 - Celery is untyped
        """Do it again later.

        Raises:
            celery.exceptions.Reject: The broker does not take it: the message that is in hand is delivered again.
        """
        try:
            return super().retry(*args, **kwargs)
        except Reject as rejected:
            # Celery would drop it for good, just when store and broker are gone together.
            raise Reject(rejected.reason, requeue=True) from None


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
    # On, it loses tasks where broker and results are on one server: Celery 5.7 kills the child, can't tell the backend,
    # takes the task for revoked, and acknowledges it on the next connection. A second copy does no harm here.
    worker_cancel_long_running_tasks_on_connection_loss=False,
    worker_send_task_events=True,
    task_send_sent_event=True,
    task_time_limit=settings.time_limit,
    task_soft_time_limit=settings.time_limit * 0.8,
    broker_connection_retry_on_startup=True,
    broker_transport_options={
        "visibility_timeout": settings.visibility_timeout,
        "unacked_restore_interval": 5,
        "unacked_restore_throttle": 1,
        "socket_timeout": 30,
        "socket_connect_timeout": 5,
        "socket_keepalive": True,
        "socket_keepalive_options": _KEEPALIVE,
        "health_check_interval": 25,
    },
    # Off, a task whose state can't be written because results are away for a moment fails, and is acknowledged:
    # before Celery stores a state it reads the last one, and does not repeat that (celery/backends/base.py).
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
def _let_the_doctor_look(**_: Any) -> None:  # noqa: ANN401 - as above
    start.when_safe(settings, lock_settings)


@worker_process_init.connect
def _begin_in_the_child(**_: Any) -> None:  # noqa: ANN401 - as above
    _log_to_file()
    # In the background: a child that is not up within four seconds is killed.
    threading.Thread(target=_meet_the_nodes, name="redlock-greeting", daemon=True).start()


def _meet_the_nodes() -> None:
    """Be known to the lock nodes from the start: brand-new ones vote when they have been known for `max_ttl`."""
    lease = client_for(app).lease("worker start", owner_label="worker start")
    with contextlib.suppress(RedlockError):
        lease.acquire(0)
        lease.release()
