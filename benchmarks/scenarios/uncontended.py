"""Acquire and release without competition, in pairs per second; a quorum has applied every release at the end.

The same loop over links with a delay is the scenario `distance`.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

from benchmarks.bench import lock_nodes
from benchmarks.environment import ASYNC_RELEASE, FLOOR, FLOOR_ASYNC_RELEASE, LIMIT, OURS
from benchmarks.process import PeerFailed
from benchmarks.report import Figures, Table, median, micros, quantile, ratio, spread

if TYPE_CHECKING:
    from collections.abc import Sequence

    from benchmarks.bench import Bench
    from benchmarks.environment import Kind
    from benchmarks.process import Process
    from benchmarks.report import Cell

_NAMES = 64


def run(bench: Bench) -> list[Table]:
    """Measure every peer on five nodes of this machine."""
    with lock_nodes() as nodes:
        found = measure(bench, nodes.urls, bench.rounds(10), bench.seconds(2.0))
    return [table("uncontended", "acquire + release pairs per second, five nodes, one process", found)]


def measure(
    bench: Bench, urls: Sequence[str], rounds: int, seconds: float, *, near: Sequence[str] = ()
) -> dict[str, Figures]:
    """Measure the loop with each peer.

    Args:
        bench: The harness.
        urls: The addresses of the nodes.
        rounds: Number of rounds.
        seconds: Duration of each loop.
        near: Addresses of the same nodes without a delay, which show the applied releases.
    """
    found: dict[str, Figures] = {}
    with contextlib.ExitStack() as stack:
        running: dict[Kind, Process] = {}
        for kind in bench.kinds():
            running[kind] = stack.enter_context(bench.connected(kind, urls, near=near))
            found[kind.name] = Figures()
        for _ in bench.each(rounds):
            for kind, process in list(running.items()):
                try:
                    once(process, found[kind.name], seconds)
                except PeerFailed as why:
                    bench.missing[kind.name] = str(why)
                    del running[kind]
    return found


def once(process: Process, into: Figures, seconds: float) -> None:
    """Measure one round of a process, and add its figures.

    Raises:
        PeerFailed: The process failed, or more than 1 % of its pairs failed.
    """
    said: dict[str, Any] = process.ask(
        "cycle", seconds + 30, name="account", names=_NAMES, seconds=seconds, count=None, settle=True
    )  # fmt: skip
    # 1 % may fail, because pottery sometimes finds that its own lock is gone.
    if said["failures"] > said["pairs"] // 100:
        raise PeerFailed(said["error"])
    into.add(said)


def table(scenario: str, title: str, found: dict[str, Figures]) -> Table:
    """The figures as a table."""
    ours, asynchronous = (found.get(kind.name, Figures()).rates for kind in (OURS, ASYNC_RELEASE))
    cpus = {name: micros(one.cpu) for name, one in found.items()}
    rows: list[list[Cell]] = []
    for name, one in found.items():
        cpu = cpus[name]
        floor = FLOOR_ASYNC_RELEASE if name in {ASYNC_RELEASE.name, FLOOR_ASYNC_RELEASE.name} else FLOOR
        rows.append([
            name, median(one.rates), spread(one.rates), ratio(ours, one.rates), ratio(asynchronous, one.rates),
            quantile(one.acquire_ms, 0.5), quantile(one.acquire_ms, 0.99), cpu,
            _share(cpu, cpus.get(floor.name)), _share(cpu, cpus.get(LIMIT.name)),
        ])  # fmt: skip
    columns = (
        "",
        "pairs/s",
        "min .. max",
        "ours is x",
        "not waited, x",
        "acquire p50 ms",
        "p99 ms",
        "client CPU us/pair",
        "x floor",
        "x C",
    )
    raw = {name: one.raw() for name, one in found.items()}
    return Table(scenario, title, columns, rows, bars="pairs/s", raw=raw)


def _share(value: float | None, of: float | None) -> float | None:
    return value / of if value and of else None
