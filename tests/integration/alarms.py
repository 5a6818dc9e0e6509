"""Signal handlers that raise in the main thread: as an alarm of the application, or as a time limit of Celery."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tests.integration.threads import started
from tests.integration.tools import eventually
from tests.integration.tracer import Interrupted


@contextmanager
def alarm(error: BaseException, is_due: Callable[[], object]) -> Iterator[None]:
    """Raise this in the main thread as soon as a call waits for a server."""

    def strike(*_: object) -> None:
        raise error

    def send() -> None:
        eventually(is_due, "a call that waits for a server")
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGUSR1)

    before = signal.signal(signal.SIGUSR1, strike)
    sender = started(send)
    try:
        yield
    finally:
        sender.join()
        signal.signal(signal.SIGUSR1, before)


@contextmanager
def a_strike_in(seconds: float, error: type[BaseException] = Interrupted) -> Iterator[None]:
    """Raise after this time at any place in this thread, as Celery's time limits do."""

    def strike(*_: object) -> None:
        raise error

    before = signal.signal(signal.SIGALRM, strike)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def came_of(error: BaseException, strike: type[BaseException]) -> bool:
    """Whether the error is this exception of a signal handler, or the error that Python made of this exception.

    `threading.Condition` replaces an exception that strikes while the condition takes its lock again: the condition
    releases a lock that is not held. Each start of a thread waits in this way.
    """
    is_replaced = isinstance(error, RuntimeError) and str(error) == "release unlocked lock"
    return isinstance(error.__context__ if is_replaced else error, strike)
