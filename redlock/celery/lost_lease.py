"""`on_lost="raise"`: raises `LockLost` inside the body of a task by a signal, as Celery does for a soft time limit.

Invariants:
1. Only a signal to the main thread interrupts a blocking call. So tasks must run in the main thread, as in the prefork
   and solo pools. With another pool, a worker that has such tasks refuses to start.
2. After the body the previous handler in Python is restored. Otherwise the handler stays, and does nothing outside of a
   body. Python takes a handler of C code, such as that of `faulthandler`, for the default action, which ends a process.
3. A signal is sent only while a body runs, and arrives before the previous handler is restored.
"""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from typing import TYPE_CHECKING, Any

from celery.signals import worker_init

from redlock._process import after_fork_in_child, signals
from redlock.celery import pools
from redlock.errors import ConfigurationError, LockLost

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from redlock.lease import Lease

SIGNAL = next(iter(signals("SIGUSR2")), None)
"""Celery uses SIGUSR1 for the soft time limit. Windows has neither."""

_POOLS = ("prefork", "solo")
_tasks: list[str] = []
_running: list[Lease] = []
"""The leases of the bodies that run now, the outermost first."""
_sending: list[Lease] = []
"""The leases for which another thread is about to send the signal. No mutex: an exception could leave it locked."""


def register_task(function: Callable[..., Any]) -> None:
    """Record a task with `on_lost="raise"`, for the check at the worker's start."""
    _tasks.append(f"{function.__module__}.{function.__qualname__}")


def interrupt(lease: Lease) -> None:
    """Signal the main thread that this lease is lost, if its body still runs. Called from another thread."""
    ident = threading.main_thread().ident
    _sending.append(lease)
    try:
        if lease in _running and ident is not None and SIGNAL is not None:
            signal.pthread_kill(ident, SIGNAL)
    finally:
        _sending.remove(lease)


def _raise_if_lost(_signum: int, _frame: object) -> None:
    for lease in _running:
        if lease.is_lost:
            raise LockLost(lease.resource, "it could not be renewed")


@contextlib.contextmanager
def interruptible(lease: Lease) -> Iterator[None]:
    """Let `interrupt` raise `LockLost` in this block.

    Raises:
        ConfigurationError: The caller is not the main thread, or the platform lacks the signal.
        LockLost: The lease is lost.
    """
    if SIGNAL is None:
        raise ConfigurationError("on_lost='raise' needs the signal SIGUSR2, which this platform does not have")
    if threading.current_thread() is not threading.main_thread():
        raise ConfigurationError(
            f"on_lost='raise' needs the {' or '.join(_POOLS)} pool: here tasks run in no main thread"
        )
    before = signal.signal(SIGNAL, _raise_if_lost)
    try:
        _running.append(lease)
        lease.ensure_valid()
        yield
    finally:
        try:
            if lease in _running:
                _running.remove(lease)
            _await_signals()
        finally:
            if before not in {signal.SIG_DFL, None}:
                signal.signal(SIGNAL, before)


def _await_signals() -> None:
    while _sending:
        time.sleep(0)
    # The kernel delivers a sent signal at the end of a system call at the latest.
    signal.pthread_sigmask(signal.SIG_BLOCK, ())


after_fork_in_child(_sending.clear)


@worker_init.connect
def _check_pool(sender: Any, **_: Any) -> None:
    pool = pools.name_of(sender)
    if _tasks and pool not in _POOLS:
        names = ", ".join(_tasks)
        raise SystemExit(
            f"on_lost='raise' of {names} needs the {' or '.join(_POOLS)} pool; this worker's is {pool}. "
            "Use on_lost='check' and current_lease().ensure_valid()"
        )
