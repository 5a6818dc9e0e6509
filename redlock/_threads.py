"""Threads of the lock, which take no signal from the application.

The kernel gives a signal of the process to any thread that does not block the signal, most often to the main thread.
If another thread took the signal, Python runs the handler only after the blocking call of the main thread. So a task
that sleeps would miss its soft time limit, or `revoke(terminate=True)`.

Invariants:
1. A thread of the lock is a daemon and blocks all signals, except those of faults in its own code.
2. A thread for code of the application blocks what the application blocks, because a started program inherits that.
3. No thread inherits context variables: the thread serves all callers, and would keep their objects alive.
4. Under gevent and eventlet a thread is a greenlet of the main thread. The main thread blocks nothing more.
"""

from __future__ import annotations

import contextvars
import functools
import os
import signal
import sys
import threading
from typing import TYPE_CHECKING

from redlock._process import signals
from redlock.errors import ConfigurationError, NoThread

if TYPE_CHECKING:
    from collections.abc import Callable

# On other systems the id of the main thread is not that of the process, so nothing tells a greenlet from a thread.
_BLOCKED = (
    signal.valid_signals() - {*signals("SIGABRT", "SIGBUS", "SIGFPE", "SIGILL", "SIGSEGV", "SIGSYS", "SIGTRAP")}
    if sys.platform == "linux"
    else set()
)
NO_THREAD = "this process can't start a thread"
_REMEDY = "raise its limit of threads, ulimit -u or the limit of pids of its container"
_application = threading.local()
"""In a thread of the lock, `blocked` are the signals that the starting thread blocks."""


def start(target: Callable[[], object], name: str) -> threading.Thread:
    """Start a thread of the lock.

    Raises:
        NoThread: The process cannot start a thread now.
        ConfigurationError: The subinterpreter allows no daemon thread.
    """
    return _started(functools.partial(_without_signals, target), name)


def start_for_application(target: Callable[[], object], name: str) -> threading.Thread:
    """Start a thread that calls code of the application. Raises the errors of `start`."""
    blocked = getattr(_application, "blocked", None)
    return _started(target if blocked is None else functools.partial(_with_signals, blocked, target), name)


def _started(target: Callable[[], object], name: str) -> threading.Thread:
    try:
        target = functools.partial(contextvars.Context().run, target)
        thread = threading.Thread(target=target, name=name, daemon=True)
    except RuntimeError:
        raise ConfigurationError(
            "the lock needs daemon threads, which this subinterpreter does not allow; "
            "use the lock in the main interpreter or in another process"
        ) from None
    try:
        thread.start()
    except RuntimeError as error:
        # Another text is that of an exception of the application, whose signal handler has interrupted this.
        if str(error).startswith("can't "):
            raise NoThread(f"{NO_THREAD}; {_REMEDY}") from None
        raise
    return thread


def _without_signals(target: Callable[[], object]) -> None:
    # In the main thread runs a greenlet.
    if _BLOCKED and threading.get_native_id() != os.getpid():
        _application.blocked = signal.pthread_sigmask(signal.SIG_BLOCK, _BLOCKED)
    target()


def _with_signals(blocked: set[signal.Signals], target: Callable[[], object]) -> None:
    signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
    target()
