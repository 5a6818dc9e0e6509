"""Celery: tasks per second of a task without work, unlocked and under several locks, in one worker.

Invariants:
1. The worker consumes a queue only after the whole batch is in it, so the sender is not measured.
2. A task is done when its result is stored. The database of the results is emptied between batches.
3. The clock starts at the first result, because the worker first ends a blocking read of up to a second.
"""

from __future__ import annotations

import contextlib
import os
import sys
import time
from typing import TYPE_CHECKING, NamedTuple

from celery import Celery
from redis import Redis

from benchmarks.bench import lock_nodes, sixth_server
from benchmarks.environment import REDLOCK_PY, ROOT, site_packages
from benchmarks.process import PeerFailed, background
from benchmarks.report import Table, median, ratio, spread

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from benchmarks.bench import Bench
    from benchmarks.report import Cell

_CHILDREN = 8
_TIMEOUT = 60.0
_VARIANTS = {
    "no lock": "unlocked",
    "ours, distinct keys": "distinct",
    "ours, one key": "one",
    "redlock-py, distinct keys": "naive_distinct",
    "redlock-py, one key": "naive_one",
}


class WorkerFixture(NamedTuple):
    """The sender of the tasks, and the server of their results."""

    sender: Celery
    results: Redis


def run(bench: Bench) -> list[Table]:
    """All variants in turn, in the same worker."""
    tasks = 400 if bench.options.quick else 1_500
    variants = [name for name in _VARIANTS if not name.startswith("redlock-py") or REDLOCK_PY in bench.kinds()]
    found: dict[str, list[float]] = {name: [] for name in variants}
    with lock_nodes() as nodes, sixth_server() as sixth, _worker(bench, nodes.urls, sixth.url):
        sender = Celery("sender", broker=f"{sixth.url}/0", backend="disabled://", set_as_current=False)
        with sender, Redis.from_url(f"{sixth.url}/1") as results:
            fixture = WorkerFixture(sender, results)
            for name in variants:
                _batch(fixture, _VARIANTS[name], 4 * _CHILDREN)
            for _ in bench.each(bench.rounds(8)):
                for name in variants:
                    found[name].append(_batch(fixture, _VARIANTS[name], tasks))
    return [_table(found)]


@contextlib.contextmanager
def _worker(bench: Bench, urls: Sequence[str], sixth: str) -> Iterator[None]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("REDLOCK_", "CELERY_"))}
    environment = kept | {
        "REDLOCK_NODES": ",".join(urls), "BENCH_BROKER": f"{sixth}/0", "BENCH_RESULTS": f"{sixth}/1",
    }  # fmt: skip
    if REDLOCK_PY in bench.kinds():
        environment["BENCH_REDLOCK_PY"] = str(site_packages(REDLOCK_PY))
    command = [sys.executable, "-m", "celery", "-A", "benchmarks.celery_app", "worker", "-c", str(_CHILDREN)]
    with background(command, ROOT, environment, bench.options.out / "celery.log"):
        yield


def _batch(fixture: WorkerFixture, task: str, count: int) -> float:
    """The rate of a batch of tasks, in tasks per second from the first result on."""
    queue = f"{task}-{time.monotonic_ns()}"
    fixture.results.flushdb()
    with fixture.sender.producer_or_acquire() as producer:
        for number in range(count):
            fixture.sender.send_task(f"benchmarks.celery_app.{task}", (number,), queue=queue, producer=producer)
    started = since = _consume(fixture, queue)
    before = 0
    while (done := fixture.results.dbsize()) < count:
        now = time.monotonic()
        if done and not before:
            since, before = now, done
        if now > started + _TIMEOUT:
            raise PeerFailed(f"{task}: {done} of {count} tasks done after {_TIMEOUT:g} s; see celery.log")
        time.sleep(0.002)
    seconds = time.monotonic() - since
    fixture.sender.control.cancel_consumer(queue, reply=True, timeout=5, limit=1)
    return (count - before) / seconds


def _consume(fixture: WorkerFixture, queue: str) -> float:
    """Make the worker consume this queue, and return the time; a starting worker gets the request again."""
    until = time.monotonic() + _TIMEOUT
    while time.monotonic() < until:
        said = time.monotonic()
        if fixture.sender.control.add_consumer(queue, reply=True, timeout=5, limit=1):
            return said
    raise PeerFailed("the Celery worker did not start; see celery.log")


def _table(found: dict[str, list[float]]) -> Table:
    plain = found["no lock"]
    rows: list[list[Cell]] = [
        [name, median(rates), spread(rates), ratio(rates, plain)] for name, rates in found.items()
    ]
    columns = ("", "tasks/s", "min .. max", "of unlocked")
    title = f"a task without work, one worker, prefork, {_CHILDREN} children"
    return Table("celery", title, columns, rows, bars="tasks/s", raw=dict(found))
