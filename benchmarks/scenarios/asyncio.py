"""Tasks of an event loop, on distinct keys and on the same key, beside a thread with the lock for threads."""

from __future__ import annotations

from typing import TYPE_CHECKING

from benchmarks.bench import lock_nodes
from benchmarks.environment import ASYNCIO, OURS
from benchmarks.report import Figures, Table, median, micros, ratio, spread
from benchmarks.scenarios import uncontended

if TYPE_CHECKING:
    from collections.abc import Sequence

    from benchmarks.bench import Bench
    from benchmarks.report import Cell

THREAD = "one thread"
LOADS = {
    "1 task": (1, True),
    "100 tasks, distinct keys": (100, True),
    "1,000 tasks, distinct keys": (1_000, True),
    "1,000 tasks, one key": (1_000, False),
}
"""The rows of the table: the number of tasks, and whether each has a key of its own."""


def run(bench: Bench) -> list[Table]:
    """All loads in turns."""
    with lock_nodes() as nodes:
        found = measure(bench, nodes.urls, bench.rounds(6), bench.seconds(2.0))
    return [table(found)]


def measure(bench: Bench, urls: Sequence[str], rounds: int, seconds: float) -> dict[str, Figures]:
    """Rounds of all loads."""
    found = {name: Figures() for name in (THREAD, *LOADS)}
    with bench.connected(OURS, urls) as threads, bench.connected(ASYNCIO, urls) as loop:
        for _ in bench.each(rounds):
            uncontended.once(threads, found[THREAD], seconds)
            for name, (tasks, distinct) in LOADS.items():
                said = loop.ask("tasks", seconds + 60, name="task", tasks=tasks, distinct=distinct, seconds=seconds)
                found[name].add(said)
    return found


def table(found: dict[str, Figures]) -> Table:
    """The rounds as a table."""
    rows: list[list[Cell]] = []
    for name, one in found.items():
        share = ratio(one.rates, found[THREAD].rates)
        rows.append([name, median(one.rates), spread(one.rates), share, micros(one.cpu)])
    columns = ("", "pairs/s", "min .. max", "x one thread", "client CPU us/pair")
    raw = {name: one.raw() for name, one in found.items()}
    return Table(
        "asyncio", "acquire + release pairs per second, one event loop", columns, rows, bars="pairs/s", raw=raw
    )
