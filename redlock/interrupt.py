"""`on_lost="raise"`: `LockLost` inside the body of a task, the way Celery raises its soft time limit.

Rules: a signal to the main thread is the only thing that interrupts a blocking call, so this works where tasks run
in the main thread: the prefork and solo pools. Elsewhere a worker whose tasks want it refuses to start. The handler
is there only while the body runs.
"""

from __future__ import annotations

import contextlib
import signal
import threading
from typing import TYPE_CHECKING, Any

from celery.concurrency import get_implementation
from celery.signals import worker_init

from redlock.errors import ConfigurationError, LockLost

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from redlock.lease import Lease

SIGNAL = signal.SIGUSR2
"""SIGUSR1 is Celery's for the soft time limit."""

_wanted: list[str] = []
_POOLS = ("prefork", "solo")


def wanted_by(function: Callable[..., Any]) -> None:
    """Remember that a task wants to be interrupted, for the check at the worker's start."""
    _wanted.append(f"{function.__module__}.{function.__qualname__}")


def interrupt(_: Lease) -> None:
    """Tell the main thread that its lease is lost; called from the renewing thread."""
    ident = threading.main_thread().ident
    if ident is not None:
        signal.pthread_kill(ident, SIGNAL)


@contextlib.contextmanager
def possible(lease: Lease) -> Iterator[None]:
    """Let `interrupt` raise `LockLost` in this block.

    Raises:
        ConfigurationError: This is not the main thread.
        LockLost: The lease is lost.
    """
    if threading.current_thread() is not threading.main_thread():
        raise ConfigurationError(
            f"on_lost='raise' needs the {' or '.join(_POOLS)} pool: here tasks run in no main thread"
        )

    def handler(_signum: int, _frame: object) -> None:
        if lease.lost:
            raise LockLost(lease.resource, "it could not be renewed")

    before = signal.signal(SIGNAL, handler)
    try:
        lease.ensure_valid()
        yield
    finally:
        signal.signal(SIGNAL, before)


@worker_init.connect
def _check_pool(sender: Any, **_: Any) -> None:  # noqa: ANN401 - Celery's signals pass what they like
    pool = get_implementation(sender.pool_cls).__module__.rpartition(".")[2]
    if _wanted and pool not in _POOLS:
        names = ", ".join(_wanted)
        raise SystemExit(
            f"on_lost='raise' of {names} needs the {' or '.join(_POOLS)} pool; this worker's is {pool}. "
            "Use on_lost='check' and current_lease().ensure_valid()"
        )
