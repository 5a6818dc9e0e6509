"""The Celery app of the scenario `celery`: a task without work, under several locks.

Invariants:
1. All settings except the addresses are the defaults of Celery and of the lock.
2. All variants run in one worker, so the same processes measure them in turn.
"""

from __future__ import annotations

import functools
import importlib.util
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from celery import Celery
from redis import Redis

from benchmarks.worker import server_options
from redlock.celery import locked

if TYPE_CHECKING:
    from collections.abc import Callable

app = Celery("bench", broker=os.environ["BENCH_BROKER"], backend=os.environ["BENCH_RESULTS"])
_NODES = os.environ.get("REDLOCK_NODES", "").split(",")
_TTL_MS, _RETRY_SECONDS = 5_000, 0.01


@app.task
def unlocked(_number: int) -> None:
    """No work."""


@app.task
@locked("distinct:{number}")
def distinct(number: int) -> None:
    """No work, under a lock without other callers."""


@app.task
@locked("one")
def one(_number: int) -> None:
    """No work, under a lock that every task wants."""


@functools.cache
def _redlock_py() -> Any:  # noqa: ANN401 - redlock-py has no types
    """Import redlock-py from its own environment, because its package has the name of this one."""
    place = Path(os.environ["BENCH_REDLOCK_PY"]) / "redlock" / "__init__.py"
    spec = importlib.util.spec_from_file_location("redlock_py", place)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    servers = [Redis.from_url(url, **server_options()) for url in _NODES]
    return module.Redlock(servers, retry_count=1, retry_delay=_RETRY_SECONDS)


def naive(key: str) -> Callable[[Callable[[int], None]], Callable[[int], None]]:
    """A decorator as in many recipes: acquire the lock, run the body, release the lock."""

    def decorate(function: Callable[[int], None]) -> Callable[[int], None]:
        @functools.wraps(function)
        def run(number: int) -> None:
            redlock = _redlock_py()
            while not (held := redlock.lock(key.format(number=number), _TTL_MS)):
                time.sleep(_RETRY_SECONDS)
            try:
                function(number)
            finally:
                redlock.unlock(held)

        return run

    return decorate


@app.task
@naive("naive:{number}")
def naive_distinct(_number: int) -> None:
    """No work, under redlock-py and a lock without other callers."""


@app.task
@naive("naive")
def naive_one(_number: int) -> None:
    """No work, under redlock-py and a lock that every task wants."""
