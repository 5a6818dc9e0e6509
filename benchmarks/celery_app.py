"""The Celery app that the scenario `celery` measures: one task that does nothing, under several locks.

Rules: everything but addresses is Celery's and the lock's default; all variants live in one worker, so that they can be
measured in turn by the same processes.
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
    """Nothing."""


@app.task
@locked("distinct:{number}")
def distinct(number: int) -> None:
    """Nothing, under a lock that nobody else wants."""


@app.task
@locked("one")
def one(_number: int) -> None:
    """Nothing, under a lock that everybody wants."""


@functools.cache
def _redlock_py() -> Any:  # noqa: ANN401 - it has no types
    """redlock-py out of its own environment, where its package has the same name as ours."""
    place = Path(os.environ["BENCH_REDLOCK_PY"]) / "redlock" / "__init__.py"
    spec = importlib.util.spec_from_file_location("redlock_py", place)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    servers = [Redis.from_url(url, **server_options()) for url in _NODES]
    return module.Redlock(servers, retry_count=1, retry_delay=_RETRY_SECONDS)


def naive(key: str) -> Callable[[Callable[[int], None]], Callable[[int], None]]:
    """The decorator that one finds in recipes: take the lock, run the body, give it back."""

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
    """Nothing, under redlock-py and a lock that nobody else wants."""


@app.task
@naive("naive")
def naive_one(_number: int) -> None:
    """Nothing, under redlock-py and a lock that everybody wants."""
