"""The work of a test in other threads."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from socketserver import BaseServer


def started(work: Callable[[], object]) -> threading.Thread:
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


@contextmanager
def serving(server: BaseServer) -> Iterator[None]:
    """Serve in a thread until the end of the block."""
    with server:
        thread = started(partial(server.serve_forever, 0.01))
        try:
            yield
        finally:
            server.shutdown()
            thread.join()
