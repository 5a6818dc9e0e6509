"""A dead holder: the time from the end of its lease to the acquire of a waiting client."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from benchmarks.bench import lock_nodes
from benchmarks.environment import ASYNC_RELEASE, FLOORS, LIMIT
from benchmarks.process import PeerFailed
from benchmarks.report import Table, median, spread

if TYPE_CHECKING:
    from collections.abc import Sequence

    from benchmarks.bench import Bench
    from benchmarks.environment import Kind
    from benchmarks.report import Cell

_TTL = 1.0
_HEAD_START = 0.2
_TIMEOUT = 30.0


def run(bench: Bench) -> list[Table]:
    """Kill the holder while one client waits; each round has every peer."""
    kinds = bench.kinds(LIMIT, ASYNC_RELEASE, *FLOORS)
    found: dict[Kind, list[float]] = {kind: [] for kind in kinds}
    with lock_nodes() as nodes:
        for _ in bench.each(bench.rounds(12)):
            for kind in kinds:
                try:
                    found[kind].append(_once(bench, kind, nodes.urls))
                except PeerFailed as why:
                    bench.missing[f"{kind.name}, dead holder, a round"] = str(why)
    rows: list[list[Cell]] = [
        [kind.name, median(delays), spread(delays), max(delays, default=None)] for kind, delays in found.items()
    ]
    columns = ("", "median ms", "min .. max", "max ms")
    title = f"from the end of a killed holder's TTL ({_TTL:g} s) to the next grant"
    raw = {kind.name: delays for kind, delays in found.items()}
    notes = ["below 0: the holder's clock starts when it asks, the nodes' a moment later or, rounded, earlier"]
    return [Table("dead", title, columns, rows, bars="max ms", notes=notes if _early(found) else [], raw=raw)]


def _early(found: dict[Kind, list[float]]) -> bool:
    return any(delay < 0 for delays in found.values() for delay in delays)


def _once(bench: Bench, kind: Kind, urls: Sequence[str]) -> float:
    name = f"dead:{time.monotonic_ns()}"
    with bench.connected(kind, urls, _TTL) as holder, bench.connected(kind, urls, _TTL) as waiter:
        since = holder.ask("take", _TIMEOUT, name=name)["since"]
        waiter.tell("take", name=name)
        time.sleep(_HEAD_START)
        holder.kill()
        at = waiter.hear(_TIMEOUT)["at"]
        return float(at - since - _TTL) * 1000
