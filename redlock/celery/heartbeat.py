"""What a worker leaves in files every few seconds: a heartbeat for a health check, and its figures for Prometheus.

    redlock_heartbeat_file    touched as long as the worker takes tasks: older than half a minute, and it is not well
    redlock_metrics_file      figures of the lock, written anew each time

Rules of this file:
1. It beats on the consumer's own timer, in the main process: so it stops when the consumer hangs or has lost its
   broker, and needs no thread. A health check by `inspect ping` costs seconds of processor time instead.
2. A file is replaced as a whole, never half written. One that can't be written is told in the log, and no task fails.
"""

from __future__ import annotations

from typing import Any

from celery import bootsteps
from celery.signals import celeryd_after_setup, celeryd_init, worker_init

from redlock import _files, _log
from redlock.celery.conf import of_conf
from redlock.celery.metrics import Metrics, counting
from redlock.errors import ConfigurationError
from redlock.settings import EXPOSED

SECONDS = 5.0
"""From one beat to the next."""

_metrics: list[Metrics] = []


class HeartbeatStep(bootsteps.StartStopStep):  # type: ignore[misc]  # Celery is untyped
    """Beats from the moment at which a worker takes tasks until it no longer does."""

    requires = ("celery.worker.consumer.tasks:Tasks",)

    def __init__(self, consumer: Any, **options: Any) -> None:  # noqa: ANN401 - Celery is untyped
        self._settings = of_conf(consumer.app.conf)
        self._next: Any = None
        self._failed: set[str] = set()
        super().__init__(consumer, **options)

    def include_if(self, _consumer: Any) -> bool:  # noqa: ANN401 - Celery is untyped
        """Whether there is anything to write."""
        return bool(self._settings.heartbeat_file or self._settings.metrics_file)

    def start(self, consumer: Any) -> None:  # noqa: ANN401 - Celery is untyped
        """The consumer takes tasks."""
        self.beat()
        # Not `call_repeatedly`: what that returns ends nothing in a gevent worker once it has been called.
        self._next = consumer.timer.call_after(SECONDS, self.start, (consumer,))

    def stop(self, _consumer: Any) -> None:  # noqa: ANN401 - Celery is untyped
        """It has lost its broker, or the worker ends."""
        if self._next is not None:
            self._next.cancel()
            self._next = None

    shutdown = stop

    def beat(self) -> None:
        """Write what is to be written."""
        if self._settings.heartbeat_file:
            self._write(self._settings.heartbeat_file, "")
        if self._settings.metrics_file:
            self._write(self._settings.metrics_file, "".join(metrics.text() for metrics in _metrics))

    def _write(self, name: str, text: str) -> None:
        try:
            _files.replace(name, text)
        except OSError as error:
            if name not in self._failed:
                _log.warning("file-not-written", file=name, why=error.strerror)
            self._failed.add(name)
        else:
            self._failed.discard(name)


@celeryd_init.connect
def _add_the_step(instance: Any, **_: Any) -> None:  # noqa: ANN401 - Celery's signals pass what they like
    try:
        of_conf(instance.app.conf)
    except ConfigurationError as error:
        raise SystemExit(f"the lock's settings: {error}") from None
    instance.app.steps["consumer"].add(HeartbeatStep)


@worker_init.connect
def _count(sender: Any, **_: Any) -> None:  # noqa: ANN401 - as above
    ours = of_conf(sender.app.conf)
    if ours.metrics_file and not _metrics:
        with ours.client() as client:
            _metrics.append(counting([node.label for node in client.context.pool.nodes]))


@celeryd_after_setup.connect
def _show_settings(instance: Any, **_: Any) -> None:  # noqa: ANN401 - as above
    # Not before: the worker's log is set up by now.
    ours = of_conf(instance.app.conf)
    _log.info("settings", **ours.shown(), origins=ours.origins)
    if ours.exposed:
        _log.warning("password-in-conf", setting=ours.origins["nodes"], why=EXPOSED)
