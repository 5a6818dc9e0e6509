"""`on_lost="raise"`: `LockLost` inside the body of a task, the way Celery raises its soft time limit.

A signal to the main thread is the only thing that interrupts a blocking call. So this works where tasks run in the
main thread: the prefork and solo pools. Elsewhere a worker whose tasks want it refuses to start.

Invariants:
1. The handler is there only while a body runs, and the handler from before is there again afterwards.
2. A signal is sent only while the handler is there, and has arrived before the handler is removed: the default action
   of the signal would end the process.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
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
_inside: list[Lease] = []
"""The leases of the bodies that run now, the outermost first."""
_sending: list[Lease] = []
"""Of these another thread is about to send the signal. No lock: an exception could leave it locked."""


def wanted_by(function: Callable[..., Any]) -> None:
    """Remember that a task wants to be interrupted, for the check at the worker's start."""
    _wanted.append(f"{function.__module__}.{function.__qualname__}")


def interrupt(lease: Lease) -> None:
    """Tell the main thread that this lease is lost, if the body is still inside; called from another thread."""
    ident = threading.main_thread().ident
    _sending.append(lease)
    try:
        if lease in _inside and ident is not None:
            signal.pthread_kill(ident, SIGNAL)
    finally:
        _sending.remove(lease)


def _raise_if_lost(_signum: int, _frame: object) -> None:
    for lease in _inside:
        if lease.is_lost:
            raise LockLost(lease.resource, "it could not be renewed")


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
    before = signal.signal(SIGNAL, _raise_if_lost)
    try:
        _inside.append(lease)
        lease.ensure_valid()
        yield
    finally:
        try:
            if lease in _inside:
                _inside.remove(lease)
            _let_signals_arrive()
        finally:
            signal.signal(SIGNAL, before)


def _let_signals_arrive() -> None:
    while _sending:
        time.sleep(0)
    # A signal that was sent is delivered at the end of a system call at the latest.
    signal.pthread_sigmask(signal.SIG_BLOCK, ())


os.register_at_fork(after_in_child=_sending.clear)


@worker_init.connect
def _check_pool(sender: Any, **_: Any) -> None:  # noqa: ANN401 - Celery's signals pass what they like
    pool = get_implementation(sender.pool_cls).__module__.rpartition(".")[2]
    if _wanted and pool not in _POOLS:
        names = ", ".join(_wanted)
        raise SystemExit(
            f"on_lost='raise' of {names} needs the {' or '.join(_POOLS)} pool; this worker's is {pool}. "
            "Use on_lost='check' and current_lease().ensure_valid()"
        )
