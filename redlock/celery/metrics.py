"""Metrics of the lock in Prometheus' text format, summed over the processes of a worker.

Invariants:
1. The children of a prefork worker count in shared memory, so the counts outlive a child.
2. The main process writes the sums to a file for node_exporter's textfile collector, without a port or a package.
   Each series has the worker's name as a label.
3. The counts come from the log's events (`_log.watch`). Without a metrics file no event is watched or counted.
4. Each process adds in its own row, the main process in the first one, and the text has only sums. Counters only grow
   while the worker lives. Children beyond the last slot count nothing.
5. A signal handler may end a count with an exception: no later count waits for it.
"""

from __future__ import annotations

import bisect
import mmap
import os
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

from redlock import _log
from redlock._escaping import escape
from redlock._mutex import Mutex
from redlock._process import after_fork_in_child, is_alive
from redlock.celery.task_registry import SLOTS, TURN_SECONDS, is_beyond_slots, own_slot

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_BOUNDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
_MOST_OPEN = 10_000
_BYTES = 8

_PROCESS, _WAITERS = 0, 1
"""The first cells of a row: the id of its writing process, and the number of its waits."""


class MetricSeries(NamedTuple):
    """The name of a metric, with a label such as the node or the number of rounds."""

    name: str
    label: str = ""
    value: str = ""


_HELP = {
    "redlock_acquired_total": "Acquired leases, by the number of rounds.",
    "redlock_contended_total": "Acquisitions that had to wait in their process.",
    "redlock_refused_total": "Acquisitions that ended without the lock, except those that an exception interrupted.",
    "redlock_requeued_total": "Tasks that went back to the queue without their lock.",
    "redlock_skipped_total": "Tasks that were skipped because another holder had their lock.",
    "redlock_duplicates_total": "Redelivered copies of running or finished tasks, requeued or dropped.",
    "redlock_lost_total": "Leases lost while their holder was at work, also if only their release found the loss.",
    "redlock_extensions_failed_total": "Renewals that failed; the old deadline stood.",
    "redlock_votes_missing_total": "Votes of a node that did not arrive.",
    "redlock_clock_jumps_total": "Jumps of a node's wall clock, each counted by every process that detects the jump.",
}
_WAITERS_HELP = "Acquisitions that wait at this moment."
_TIMES = {
    "redlock_wait_seconds": "Time from the request for a lock, or the first delivery of its task, to the acquisition.",
    "redlock_hold_seconds": "Time from the acquisition of a lock to its release or its loss.",
}
_SIMPLE = {
    "waiting": MetricSeries("redlock_contended_total"),
    "refused": MetricSeries("redlock_refused_total"),
    "requeued": MetricSeries("redlock_requeued_total"),
    "skipped": MetricSeries("redlock_skipped_total"),
    "duplicate": MetricSeries("redlock_duplicates_total"),
    "lost": MetricSeries("redlock_lost_total"),
    "not-extended": MetricSeries("redlock_extensions_failed_total"),
}
_ENDS = ("lost", "released", "expired", "unknown")
"""The ends of a lease. The first one counts, so the rest of a body that has lost its lease is no part of its time."""
EVENTS = {"acquired", "retry", "wait-ended", "extended", "vote-missing", "clock-jump", *_SIMPLE, *_ENDS}
"""The events of the log that are counted."""


class Metrics:
    """The counts of a worker's processes. Made before the fork, so that the children share the memory.

    Args:
        nodes: The labels of the lock nodes.
    """

    def __init__(self, nodes: Sequence[str]) -> None:
        counters = [MetricSeries("redlock_acquired_total", "rounds", rounds) for rounds in ("1", "2")]
        counters += _SIMPLE.values()
        each = ("redlock_votes_missing_total", "redlock_clock_jumps_total")
        counters += [MetricSeries(name, "node", node) for name in each for node in nodes]
        first = _WAITERS + 1
        self._counters = {figure: place for place, figure in enumerate(counters, first)}
        # A histogram has a cell for each bucket, a cell for longer times, and a cell for the sum.
        size = len(_BOUNDS) + 2
        self._times = {name: first + len(counters) + number * size for number, name in enumerate(_TIMES)}
        self._width = first + len(counters) + len(_TIMES) * size
        self._cells = memoryview(mmap.mmap(-1, (1 + SLOTS) * self._width * _BYTES)).cast("d")
        self.reset_after_fork()
        after_fork_in_child(self.reset_after_fork)

    def reset_after_fork(self) -> None:
        """Discard the parent's leases and mutex in a forked child."""
        self._mutex = Mutex()
        self._open: dict[tuple[object, object], float] = {}

    def record(self, event: str, fields: Mapping[str, object]) -> None:
        """Count an event of the log."""
        if is_beyond_slots():
            return
        turn = self._mutex.turn(TURN_SECONDS)
        if turn is not None:
            with turn:
                self._count(event, fields)

    def _count(self, event: str, fields: Mapping[str, object]) -> None:
        missing = fields.get("missing")
        for node in missing if isinstance(missing, Mapping) else ():
            self._add(MetricSeries("redlock_votes_missing_total", "node", str(node)))
        if event in _SIMPLE:
            self._add(_SIMPLE[event])
        if event == "waiting":
            self._wait(1)
        elif event == "wait-ended":
            self._wait(-1)
        elif event == "clock-jump":
            self._add(MetricSeries("redlock_clock_jumps_total", "node", str(fields["node"])))
        elif event == "acquired":
            self._acquired(fields)
        if event in _ENDS:
            began = self._open.pop((fields["resource"], fields["fence"]), None)
            if began is not None:
                self._observe("redlock_hold_seconds", time.monotonic() - began)
                if event == "expired":
                    # A loss that nothing noticed before the release.
                    self._add(_SIMPLE["lost"])

    def _acquired(self, fields: Mapping[str, object]) -> None:
        self._add(MetricSeries("redlock_acquired_total", "rounds", str(fields["rounds"])))
        waited_ms = fields["waited_ms"]
        assert isinstance(waited_ms, int)
        self._observe("redlock_wait_seconds", waited_ms / 1000)
        if len(self._open) >= _MOST_OPEN:
            # Leases without a release. A few missing hold times are better than a growing table.
            self._open.clear()
        self._open[fields["resource"], fields["fence"]] = time.monotonic()

    def _wait(self, change: int) -> None:
        # A row outlives its process. The waits of a killed child ended with the child.
        if self._cells[self._row + _PROCESS] != os.getpid():
            self._cells[self._row + _PROCESS] = os.getpid()
            self._cells[self._row + _WAITERS] = 0
        self._cells[self._row + _WAITERS] = max(0, self._cells[self._row + _WAITERS] + change)

    def _waiters(self) -> int:
        """The number of waiting acquisitions, over all live processes."""
        rows = range(0, len(self._cells), self._width)
        waits = ((int(self._cells[row + _PROCESS]), self._cells[row + _WAITERS]) for row in rows)
        return int(sum(count for pid, count in waits if count and is_alive(pid)))

    def _add(self, figure: MetricSeries) -> None:
        place = self._counters.get(figure)
        if place is not None:
            self._cells[self._row + place] += 1

    def _observe(self, name: str, seconds: float) -> None:
        first = self._row + self._times[name]
        self._cells[first + bisect.bisect_left(_BOUNDS, seconds)] += 1
        self._cells[first + len(_BOUNDS) + 1] += seconds

    @property
    def _row(self) -> int:
        slot = own_slot()
        return 0 if slot is None else (1 + slot) * self._width

    def text(self, worker: str) -> str:
        """All metrics in Prometheus' text format.

        Args:
            worker: The worker's name, a label of each series: Prometheus refuses a series that two files have.
        """
        return "".join(f"{line}\n" for line in self._lines(f'worker="{_escaped(worker)}"'))

    def _lines(self, worker: str) -> Iterator[str]:
        yield f"# HELP redlock_waiters {_WAITERS_HELP}"
        yield "# TYPE redlock_waiters gauge"
        yield f"redlock_waiters{{{worker}}} {self._waiters()}"
        sums = [sum(self._cells[place :: self._width]) for place in range(self._width)]
        last = ""
        for figure, place in sorted(self._counters.items()):
            if figure.name != last:
                last = figure.name
                yield f"# HELP {last} {_HELP[last]}"
                yield f"# TYPE {last} counter"
            more = f',{figure.label}="{_escaped(figure.value)}"' if figure.label else ""
            yield f"{figure.name}{{{worker}{more}}} {sums[place]:.0f}"
        for name, first in self._times.items():
            yield f"# HELP {name} {_TIMES[name]}"
            yield f"# TYPE {name} histogram"
            count = 0.0
            for number, bound in enumerate((*_BOUNDS, float("inf"))):
                count += sums[first + number]
                limit = "+Inf" if number == len(_BOUNDS) else f"{bound:g}"
                yield f'{name}_bucket{{{worker},le="{limit}"}} {count:.0f}'
            yield f"{name}_sum{{{worker}}} {sums[first + len(_BOUNDS) + 1]:.6f}"
            yield f"{name}_count{{{worker}}} {count:.0f}"


def start_counting(nodes: Sequence[str]) -> Metrics:
    """Count the events of this process and its later children."""
    metrics = Metrics(nodes)
    _log.watch(metrics.record, *EVENTS)
    return metrics


def _escaped(value: str) -> str:
    return escape(value).replace("\\", "\\\\").replace('"', '\\"')
