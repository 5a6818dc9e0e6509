"""The uncontended loop over links with a delay: the number of successive exchanges in a pair."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from typing import TYPE_CHECKING

from benchmarks.bench import lock_nodes
from benchmarks.environment import ROOT
from benchmarks.report import quantile
from benchmarks.scenarios.uncontended import measure, table
from redlock.testing.redis_server import die_with_parent

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from benchmarks.bench import Bench
    from benchmarks.report import Table

_DELAYS_MS = (1, 5, 20)


def run(bench: Bench) -> list[Table]:
    """Measure each delay in turn."""
    tables = []
    with lock_nodes() as nodes:
        for delay_ms in _DELAYS_MS:
            bench.say(f"{delay_ms} ms on every link")
            with far_away(nodes.urls, delay_ms / 1000) as urls:
                found = measure(bench, urls, bench.rounds(4), bench.seconds(3.0), near=nodes.urls)
            title = f"pairs per second, each exchange with a node takes {delay_ms} ms more"
            one = table("distance", title, found)
            one.columns = (*one.columns, "exchanges per acquire")
            for row in one.rows:
                middle = quantile(found[str(row[0])].acquire_ms, 0.5)
                row.append(None if middle is None else middle / delay_ms)
            tables.append(one)
    return tables


@contextlib.contextmanager
def far_away(urls: Sequence[str], delay: float) -> Iterator[list[str]]:
    """Other addresses of the same nodes, with this delay in seconds."""
    ports = [url.rpartition(":")[2] for url in urls]
    with subprocess.Popen(
        [sys.executable, "-m", "benchmarks.delay", str(delay), *ports],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        preexec_fn=die_with_parent,  # noqa: PLW1509 - one prctl, nothing that a fork could break
    ) as carrier:
        assert carrier.stdout is not None
        try:
            yield [f"redis://127.0.0.1:{port}" for port in json.loads(carrier.stdout.readline())]
        finally:
            carrier.kill()
