"""The growth of the cost with the number of nodes, waiters and renewed leases. This lock only."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.bench import TTL, lock_nodes, sixth_server
from benchmarks.environment import OURS
from benchmarks.process import PeerFailed
from benchmarks.report import Figures, Table, median, micros, spread
from benchmarks.scenarios import hot

if TYPE_CHECKING:
    from collections.abc import Iterator

    from benchmarks.bench import Bench
    from benchmarks.report import Cell
    from redlock.testing.redis_server import Cluster

_NODES = (1, 3, 5, 7, 9)
_WAITERS = (1, 8, 32, 64, 128, 256)
_LEASES = (1, 10, 100, 1_000, 10_000)


def run(bench: Bench) -> Iterator[Table]:
    """Three tables."""
    yield _nodes(bench)
    yield _waiters(bench)
    yield _leases(bench)


def _nodes(bench: Bench) -> Table:
    figures = {count: Figures() for count in _NODES}
    served: dict[int, list[float]] = {count: [] for count in _NODES}
    for _ in range(bench.rounds(4)):
        for count in _NODES:
            bench.say(f"{count} nodes")
            with lock_nodes(count) as nodes, bench.connected(OURS, nodes.urls) as process:
                before = servers_cpu(nodes)
                said = process.ask("cycle", name="grow", names=64, seconds=bench.seconds(2.0), count=None, settle=True)
                figures[count].add(said)
                served[count].append((servers_cpu(nodes) - before) / said["pairs"])
    rows: list[list[Cell]] = [
        [f"ours, {count} nodes", median(one.rates), spread(one.rates), micros(one.cpu), micros(served[count])]
        for count, one in figures.items()
    ]
    columns = ("", "pairs/s", "min .. max", "client CPU us/pair", "all servers' CPU us/pair")
    raw = {"rates": {count: one.rates for count, one in figures.items()}}
    return Table("growth", "acquire + release, by nodes", columns, rows, bars="pairs/s", raw=raw)


def servers_cpu(nodes: Cluster) -> float:
    """CPU seconds that the servers have used, to a hundredth."""
    ticks = os.sysconf("SC_CLK_TCK")
    return sum(
        sum(map(int, Path(f"/proc/{server.pid}/stat").read_text().rpartition(")")[2].split()[11:13])) / ticks
        for server in nodes.servers
    )


def _waiters(bench: Bench) -> Table:
    rows: list[list[Cell]] = []
    with lock_nodes() as nodes, sixth_server() as sixth:
        for waiters in _WAITERS:
            bench.say(f"{waiters} waiters")
            try:
                found = [
                    hot.once(bench, OURS, hot.Load(nodes.urls, sixth.url, waiters, bench.seconds(4.0)))
                    for _ in range(bench.rounds(2))
                ]
            except PeerFailed as why:
                rows.append([f"ours, {waiters} waiters", None, str(why), None, None])
                continue
            rates, cpu = [one.rate for one in found], micros([one.cpu for one in found])
            longest = max(max(one.wait_ms, default=0.0) for one in found)
            rows.append([f"ours, {waiters} waiters", median(rates), spread(rates), longest, cpu])
    columns = ("", "hand-overs/s", "min .. max", "longest wait ms", "client CPU us/hand-over")
    return Table("growth", "one hot lock, by waiters", columns, rows, bars="hand-overs/s")


def _leases(bench: Bench) -> Table:
    rows: list[list[Cell]] = []
    with lock_nodes() as nodes:
        for count in _LEASES:
            bench.say(f"{count} leases")
            # The time of two renewals, which happen every third of the TTL.
            try:
                said = _held(bench, nodes, count, 2 * TTL / 3)
            except PeerFailed as why:
                rows.append([f"ours, {count:,} leases", *[None] * 5, str(why)])
                continue
            measured = [said[name] for name in ("cpu", "servers", "memory_mb", "connections", "lost")]
            rows.append([f"ours, {count:,} leases", *measured, "-"])
    columns = ("", "client CPU", "all servers' CPU", "client memory MB", "client sockets", "lost", "trouble")
    title = f"leases of {TTL:g} s held under renewal by one process; CPU of one processor"
    return Table("growth", title, columns, rows, bars="client CPU")


def _held(bench: Bench, nodes: Cluster, leases: int, seconds: float) -> dict[str, Any]:
    with bench.connected(OURS, nodes.urls) as process:
        before, started = servers_cpu(nodes), time.monotonic()
        said = process.ask("hold", 120, name=f"held:{leases}", leases=leases, seconds=seconds)
        return said | {"servers": (servers_cpu(nodes) - before) / (time.monotonic() - started)}
