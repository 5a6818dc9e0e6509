"""Limits the time of a check, where the client library has no limit on the whole.

Invariants: the caller goes on at the limit. The thread of the check is a daemon, and ends with its connection.
"""

from __future__ import annotations

import concurrent.futures
from typing import TYPE_CHECKING, TypeVar

from redlock import _threads

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")

ANSWERS = 5
"""The limit of a check, in timeouts for an answer. A server that is near answers all requests in one timeout."""


class Overdue(Exception):
    """The check has not ended in time."""


def within(seconds: float, check: Callable[[], T]) -> T:
    """Return the result of a check, which runs in a thread of its own.

    Raises:
        Overdue: The check has not ended in time.
    """
    future: concurrent.futures.Future[T] = concurrent.futures.Future()

    def run() -> None:
        try:
            future.set_result(check())
        except BaseException as error:  # noqa: BLE001 - raised again in the thread of the caller
            future.set_exception(error)

    _threads.start(run, "redlock-check")
    concurrent.futures.wait([future], seconds)
    if not future.done():
        raise Overdue
    return future.result()
