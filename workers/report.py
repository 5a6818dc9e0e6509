"""Runs increments, measures their effect on the counter, and shows the report.

Invariants:
1. Every number is measured. None is inferred from the absence of failures.
2. Every operation writes one value. Operations with the same value have overwritten each other: these are *lost*.
   Values up to the counter that no operation reports were written too: these are *applied twice*. So
   `counter = enqueued - lost + doubled`.
3. A correct run needs three agreeing witnesses: the counter, the operation ids in the store, and the fencing tokens.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import math
import time
from typing import TYPE_CHECKING, Any

from celery.states import READY_STATES, SUCCESS
from rich import box
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from redlock._transport import codec
from redlock.fencing import FencedStore
from workers import log_figures
from workers.program import ClusterError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from redis import Redis

    from workers.cluster import Running

_CHUNK, _LOOKED_UP = 50, 1000
"""The number of increments to send, and of results to read, between two updates of the screen."""
_POLL_SECONDS = 0.1
_PATIENCE_SECONDS = 150.0
"""A task of a killed process returns when its lock has expired, but a task of a lost worker only after two minutes."""
_NOT_KNOWN = "not known: the log is not complete"


@dataclasses.dataclass(frozen=True)
class Report:
    """The measurements of a run, and the verdict.

    Attributes:
        enqueued: The number of sent increments.
        counter: The value of the counter after the run.
        operations: The number of operation ids in the store for this counter.
        values: The value that each successful increment reports as written.
        fences: The fencing token of each successful increment.
        waits_ms: The milliseconds that each successful increment waited for the lock.
        failed: The errors of the failed increments.
        seconds: The time from the first increment sent to the last increment done.
        logged: The figures from the log; None if the log has lost lines of the run.
        frozen: The worker frozen inside its section; empty if that failed, None for a run without a freeze.
    """

    enqueued: int
    counter: int
    operations: int
    values: Sequence[int]
    fences: Sequence[int]
    waits_ms: Sequence[int]
    failed: Sequence[str]
    seconds: float
    logged: log_figures.Figures | None
    frozen: str | None = None

    @property
    def lost(self) -> int:
        """The number of increments without an effect on the counter."""
        return self.enqueued - len(set(self.values))

    @property
    def doubled(self) -> int:
        """The number of surplus effects of increments on the counter."""
        return self.counter - len(set(self.values))

    @property
    def faults(self) -> list[str]:
        """The faults of the run as text; empty for a correct run."""
        refused = self.logged.refused if self.logged else None
        repeated = len(self.fences) - len(set(self.fences))
        checks = {
            f"counter is {self.counter}": self.counter != self.enqueued,
            f"lost={self.lost}": self.lost != 0,
            f"doubled={self.doubled}": self.doubled != 0,
            f"the store knows {self.operations} operations": self.operations != self.enqueued,
            f"{repeated} fencing tokens were given twice": repeated != 0,
            f"{len(self.failed)} tasks failed, the first with {self.failed[:1]}": bool(self.failed),
            "no worker was frozen inside its section": self.frozen == "",
            f"{self.frozen} was frozen, and no STALE was refused": bool(self.frozen) and refused == 0,
        }
        return [words for words, is_wrong in checks.items() if is_wrong]

    @property
    def verdict(self) -> str:
        """The last line: OK or FAILED, with the deciding numbers."""
        figures = f"counter={self.counter} expected={self.enqueued} lost={self.lost} doubled={self.doubled}"
        return f"FAILED {figures} ({'; '.join(self.faults)})" if self.faults else f"OK {figures}"

    def rows(self) -> list[tuple[str, str]]:
        """The names and values of the report's table."""
        logged = self.logged
        return [
            ("enqueued", f"{self.enqueued}"),
            ("counter", f"{self.counter}"),
            ("lost", f"{self.lost}"),
            ("applied twice", f"{self.doubled}"),
            ("operation ids in the store", f"{self.operations}"),
            ("different fencing tokens", f"{len(set(self.fences))}"),
            ("tasks per second", f"{self.enqueued / self.seconds:.0f}"),
            ("wait for the lock, median", f"{percentile(self.waits_ms, 50)} ms"),
            ("wait for the lock, p99", f"{percentile(self.waits_ms, 99)} ms"),
            ("acquired in one round", f"{logged.rounds.get(1, 0)}" if logged else _NOT_KNOWN),
            ("acquired in two rounds", f"{logged.rounds.get(2, 0)}" if logged else _NOT_KNOWN),
            ("refused by the store as STALE", f"{logged.refused}" if logged else _NOT_KNOWN),
        ]


class Run:
    """Sends increments, waits until all of them are done, and reports.

    Args:
        cluster: The cluster that runs the increments.
        redis: A client of the Redis with the counters, with `decode_responses=True`.
        backend: Celery's result backend.
    """

    def __init__(self, cluster: Running, redis: Redis, backend: Any) -> None:  # noqa: ANN401 - Celery has no types
        self._cluster = cluster
        self._redis = redis
        self._store = FencedStore(redis)
        self._backend = backend
        self._results: dict[str, Mapping[str, Any]] = {}
        self._seconds = 0.0

    def send(self, count: int, enqueue: Callable[[], str], show: Callable[[int], None]) -> None:
        """Enqueue increments and wait until all of them are done.

        Args:
            count: The number of increments.
            enqueue: Enqueues an increment and returns its task id.
            show: Called repeatedly with the number of increments that are done.

        Raises:
            ClusterError: A worker has ended by itself, or no task has ended for 150 seconds.
        """
        waiting: dict[str, None] = {}
        self._results = {}
        began = moved = time.monotonic()
        while len(self._results) < count:
            self._cluster.check()
            for _ in range(min(_CHUNK, count - len(self._results) - len(waiting))):
                waiting[enqueue()] = None
            done = self._done(list(itertools.islice(waiting, _LOOKED_UP)))
            for task_id in done:
                del waiting[task_id]
            self._results |= done
            moved = time.monotonic() if done else moved
            if time.monotonic() - moved > _PATIENCE_SECONDS:
                raise ClusterError(f"no task has ended for {_PATIENCE_SECONDS:g} s; {len(waiting)} are not done")
            show(len(self._results))
            if len(self._results) + len(waiting) == count and waiting:
                time.sleep(_POLL_SECONDS)
        self._seconds = moved - began

    def _done(self, task_ids: Sequence[str]) -> dict[str, Mapping[str, Any]]:
        found = self._backend.mget([self._backend.get_key_for_task(task_id) for task_id in task_ids])
        metas = {
            task_id: self._backend.decode_result(payload)
            for task_id, payload in zip(task_ids, found, strict=True)
            if payload is not None
        }
        return {task_id: meta for task_id, meta in metas.items() if meta["status"] in READY_STATES}

    def counter(self, name: str) -> int:
        """The value of a counter."""
        return int(self._store.read_unfenced(name) or 0)

    def report(self, name: str, log_file: str, mark: str, frozen: str | None = None) -> Report:
        """The report on the last call of `send`.

        Args:
            name: The counter of the increments.
            log_file: The log of the workers.
            mark: A text in a line of this log from before the run.
            frozen: The frozen worker, as in `Report`.
        """
        applied = set(self._redis.scan_iter(codec.operation_key(f"store:{name}", "*"), count=1000))
        returned = [meta["result"] for meta in self._results.values() if meta["status"] == SUCCESS]
        fences = [each["fence"] for each in returned]
        return Report(
            enqueued=len(self._results),
            counter=self.counter(name),
            operations=len(applied),
            values=[each["value"] for each in returned],
            fences=fences,
            waits_ms=[each["waited_ms"] for each in returned],
            failed=[repr(meta["result"]) for meta in self._results.values() if meta["status"] != SUCCESS],
            seconds=self._seconds,
            logged=log_figures.read(log_file, mark, self._results, min(fences, default=0)),
            frozen=frozen,
        )


def percentile(values: Iterable[int], percent: int) -> int:
    """The smallest value that at least this percentage of the values do not exceed; 0 without values."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(len(ordered) * percent / 100) - 1)] if ordered else 0


class Screen:
    """The output: a moving bar on a terminal, or a line for each quarter of the run elsewhere."""

    def __init__(self) -> None:
        self._console = Console(highlight=False)

    def say(self, text: str) -> None:
        """Print a line without markup."""
        self._console.print(text, markup=False, soft_wrap=True)

    def rows(self, rows: Sequence[tuple[str, str]]) -> None:
        """Print names and values in two columns."""
        width = max(len(name) for name, _ in rows)
        if not self._console.is_interactive:
            for name, value in rows:
                self.say(f"   {name:<{width}}  {value}")
            return
        table = Table(show_header=False, box=box.ROUNDED)
        for name, value in rows:
            table.add_row(Text(name), Text(value, overflow="fold"))
        self._console.print(table)

    @contextlib.contextmanager
    def bar(self, total: int) -> Iterator[Callable[[int, str], None]]:
        """Yield a function that shows the number of done items and a remark."""
        if not self._console.is_interactive:
            yield self._lines(total)
            return
        columns = (
            TextColumn(" "),
            BarColumn(20),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.description}", markup=False),
        )
        with Progress(*columns, console=self._console) as progress:
            task = progress.add_task("", total=total)
            yield lambda done, remark: progress.update(task, completed=done, description=remark)

    def _lines(self, total: int) -> Callable[[int, str], None]:
        shown = 0

        def show(done: int, remark: str) -> None:
            nonlocal shown
            if done * 4 // total > shown:
                shown = done * 4 // total
                self.say(f"   {done} of {total} done{remark and ', '}{remark}")

        return show
