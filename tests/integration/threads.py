"""The work of a test in other threads."""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial


def started(work: Callable[[], object]) -> threading.Thread:
    """A thread that does this."""
    thread = threading.Thread(target=work)
    thread.start()
    return thread


def in_threads(*works: Callable[[], object]) -> None:
    """Do all of this at the same time, each in a thread of its own, to the end. An error in a thread is raised here."""
    errors: list[BaseException] = []

    def run(work: Callable[[], object]) -> None:
        try:
            work()
        except BaseException as error:  # noqa: BLE001 - raised below
            errors.append(error)

    for thread in [started(partial(run, work)) for work in works]:
        thread.join(200)
    for error in errors:
        raise error
