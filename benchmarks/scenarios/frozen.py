"""The time of an acquire while two of five nodes are frozen: they accept bytes and never reply."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from benchmarks.bench import lock_nodes
from benchmarks.environment import ASYNC_RELEASE, FLOORS
from benchmarks.process import PeerFailed
from benchmarks.report import Table, quantile

if TYPE_CHECKING:
    from benchmarks.bench import Bench
    from benchmarks.environment import Kind
    from benchmarks.process import Process
    from benchmarks.report import Cell
    from redlock.testing.redis_server import Cluster

_FROZEN = (1, 3)
_ACQUIRES = 400
_TIMEOUT = 5.0


def run(bench: Bench) -> list[Table]:
    """Each peer first on healthy nodes, then on three of five, in every round."""
    found: dict[Kind, dict[str, Any]] = {
        kind: {"healthy": [], "frozen": [], "why": ""} for kind in bench.kinds(ASYNC_RELEASE, *FLOORS, single=False)
    }
    with lock_nodes() as nodes:
        for _ in bench.each(bench.rounds(5)):
            for kind, one in found.items():
                # A fresh process for each round, because a client remembers the slow nodes.
                with bench.connected(kind, nodes.urls) as process:
                    one["healthy"] += _acquire(process, one)
                    one["frozen"] += _on_frozen(nodes, process, one)
    return [_table(found)]


def _on_frozen(nodes: Cluster, process: Process, one: dict[str, Any]) -> list[float]:
    for place in _FROZEN:
        nodes[place].freeze()
    try:
        return _acquire(process, one)
    except PeerFailed as why:
        one["why"] = str(why)
        return []
    finally:
        process.kill()
        for place in _FROZEN:
            nodes[place].thaw()


def _acquire(process: Process, one: dict[str, Any]) -> list[float]:
    said = process.ask(
        "cycle", _TIMEOUT + 10, name=f"frozen:{time.monotonic_ns()}", names=_ACQUIRES, seconds=_TIMEOUT,
        count=_ACQUIRES, settle=False,
    )  # fmt: skip
    if said["failures"]:
        one["why"] = f"{said['failures']} failed: {said['error']}"
    times: list[float] = said["acquire_ms"]
    return times


def _table(found: dict[Kind, dict[str, Any]]) -> Table:
    rows: list[list[Cell]] = []
    for kind, one in found.items():
        healthy, frozen = one["healthy"], one["frozen"]
        before, after = quantile(healthy, 0.99), quantile(frozen, 0.99)
        rows.append([
            kind.name, quantile(healthy, 0.5), before, quantile(frozen, 0.5), after,
            max(frozen, default=None), after / before if after and before else None,
            one["why"][:60] or "-",
        ])  # fmt: skip
    columns = ("", "healthy p50 ms", "healthy p99", "frozen p50 ms", "frozen p99", "frozen max", "p99 x", "trouble")
    raw = {kind.name: one for kind, one in found.items()}
    title = f"an acquire on five nodes, and with nodes {_FROZEN[0] + 1} and {_FROZEN[1] + 1} frozen"
    return Table("frozen", title, columns, rows, bars="frozen p99", raw=raw)
