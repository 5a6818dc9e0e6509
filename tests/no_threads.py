"""A process that can start no thread, as at the limit of its container."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest


@contextmanager
def no_thread(name: str = "") -> Iterator[None]:
    """Inside the block no thread starts, or none with this name."""
    start = threading.Thread.start

    def refuse(thread: threading.Thread) -> None:
        if name in {"", thread.name}:
            raise RuntimeError("can't start new thread")
        start(thread)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        yield
