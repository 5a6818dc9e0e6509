"""Writes a worker's heartbeat file for health checks and its metrics file for Prometheus, every five seconds.

    redlock_heartbeat_file    touched while the worker takes tasks; a file older than 30 s means an unhealthy worker
    redlock_metrics_file      the metrics of the lock, written anew each time

Invariants:
1. The consumer's own timer in the main process drives the writes. So they stop when the consumer hangs or loses its
   broker, and need no thread. A health check by `inspect ping` costs seconds of processor time.
2. A file is replaced as a whole, never half written. A failed write is logged and fails no task.
3. A worker that stops removes its metrics file. The file of a killed worker stays.
"""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

from celery import bootsteps
from celery.signals import celeryd_after_setup, celeryd_init, worker_init
from celery.worker import state

from redlock import _files, _log
from redlock.celery.conf import of_conf
from redlock.celery.metrics import Metrics, start_counting
from redlock.errors import ConfigurationError
from redlock.settings import EXPOSED

SECONDS = 5.0
"""The time between two heartbeats."""

_metrics: list[Metrics] = []


class HeartbeatStep(bootsteps.StartStopStep):  # type: ignore[misc]  # Celery is untyped
    """Writes heartbeats while the worker takes tasks."""

    requires = ("celery.worker.consumer.tasks:Tasks",)

    def __init__(self, consumer: Any, **options: Any) -> None:
        self._settings = of_conf(consumer.app.conf)
        self._worker = str(consumer.hostname)
        self._next: Any = None
        self._failed: set[str] = set()
        super().__init__(consumer, **options)

    def include_if(self, _consumer: Any) -> bool:
        """Whether a setting names a file."""
        return bool(self._settings.heartbeat_file or self._settings.metrics_file)

    def start(self, consumer: Any) -> None:
        """Begin, because the consumer takes tasks now."""
        self.beat()
        # Not `call_repeatedly`: in a gevent worker its timer can't be cancelled after the first call.
        self._next = consumer.timer.call_after(SECONDS, self.start, (consumer,))

    def stop(self, _consumer: Any) -> None:
        """Stop, because the consumer has lost its broker, or because the worker ends after its current tasks."""
        if self._next is not None:
            self._next.cancel()
            self._next = None
        # The exit status, which may be 0.
        if any(ends is not None and ends is not False for ends in (state.should_stop, state.should_terminate)):
            self._remove_metrics()

    def shutdown(self, consumer: Any) -> None:
        """Stop, because the worker ends."""
        self.stop(consumer)
        self._remove_metrics()

    def _remove_metrics(self) -> None:
        # Otherwise node_exporter would show the last number of waiters for ever.
        metrics = Path(self._settings.metrics_file)
        with contextlib.suppress(OSError):
            if metrics.is_file():
                metrics.unlink()

    def beat(self) -> None:
        """Write the files that the settings name."""
        if self._settings.heartbeat_file:
            self._write(self._settings.heartbeat_file, "")
        if self._settings.metrics_file:
            self._write(self._settings.metrics_file, "".join(metrics.text(self._worker) for metrics in _metrics))

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
def _add_the_step(instance: Any, **_: Any) -> None:
    try:
        of_conf(instance.app.conf)
    except ConfigurationError as error:
        raise SystemExit(f"the lock's settings: {error}") from None
    instance.app.steps["consumer"].add(HeartbeatStep)


@worker_init.connect
def _count(sender: Any, **_: Any) -> None:
    settings = of_conf(sender.app.conf)
    if settings.metrics_file and not _metrics:
        with settings.client() as client:
            _metrics.append(start_counting([node.label for node in client._context.nodes]))  # noqa: SLF001 - of this package


@celeryd_after_setup.connect
def _show_settings(instance: Any, **_: Any) -> None:
    # Earlier signals come before the setup of the worker's log.
    settings = of_conf(instance.app.conf)
    _log.info("settings", **settings.shown(), origins=settings.origins)
    if settings.exposed:
        _log.warning("password-in-conf", setting=settings.origins["nodes"], why=EXPOSED)
