"""The soak: thousands of increments during a series of faults. `python -m tests.faults.soak --minutes 3`.

Invariants:
1. The plan of faults is drawn before the run. The report has the seed, which gives the same plan again.
2. Work is sent all the time, a bounded queue ahead of the workers. At the end all faults end, and all work must be
   done.
3. The exit status is 0 only without lost, doubled and accepted stale operations.
"""

from __future__ import annotations

import argparse
import contextlib
import heapq
import itertools
import json
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from kombu.exceptions import OperationalError
from redis.exceptions import RedisError

from tests.faults import accepted, plan
from tests.faults.clocks import COMPILER, clocked
from tests.faults.cluster_fixture import APPS, TTL, ClusterFixture
from tests.faults.crew import Outcome
from tests.faults.fault_injector import KINDS, NEEDS_CLOCKS, FaultInjector
from tests.integration.tools import comes_true, sixth_redis
from tests.integration.worker_fixture import Worker
from tests.proxy import Proxy, proxies

NAMES = [f"soak-{number}" for number in range(6)]
WORKERS, CHILDREN = 2, 4
_AHEAD = 60
_TRIES = 2
_BREAKS_P1 = {"lock keys deleted", *NEEDS_CLOCKS}
_FORGETS = {"broker killed", "worker killed"}
"""Kombu takes a message off the queue and records the message later. A kill of either process in between loses it."""
KINDS_HERE = tuple(kind for kind in KINDS if COMPILER is not None or kind not in NEEDS_CLOCKS)
"""The kinds of fault that this machine supports."""


class Run:
    """Sends work and strikes, from one thread."""

    def __init__(self, fixture: ClusterFixture, injector: FaultInjector, faults: Sequence[plan.Fault]) -> None:
        self._fixture, self._injector = fixture, injector
        self._numbers = itertools.count()
        self._due: list[tuple[float, int, Callable[[], None]]] = []
        self.struck: Counter[str] = Counter()
        self.sent_again = 0
        """Operations that the broker lost; see `_FORGETS`. The sender sends them again."""
        for fault in faults:
            self._at(fault.at, lambda fault=fault: self._strike(fault))  # type: ignore[misc]
        self._names = itertools.cycle(NAMES)
        self._began = time.monotonic()

    def _at(self, when: float, act: Callable[[], None]) -> None:
        heapq.heappush(self._due, (when, next(self._numbers), act))

    def _strike(self, fault: plan.Fault) -> None:
        self._injector.staff(WORKERS)
        self.struck[fault.kind] += 1
        self._at(self._now() + fault.length, self._injector.strike(fault))

    def _now(self) -> float:
        return time.monotonic() - self._began

    def go(self, seconds: float) -> None:
        """Until the time is over and every fault is mended."""
        self._injector.staff(WORKERS)
        for worker in self._injector.workers:
            worker.wait_until_ready()
        # Work waits for the workers before the first fault, even if this process is stopped during the run.
        self._send(_AHEAD)
        self._began = time.monotonic()
        while self._now() < seconds or self._due:
            next_due = self._due[0][0] if self._due else seconds
            comes_true(lambda: self._room(seconds), within=next_due - self._now(), every=0.02)
            while self._due and self._due[0][0] <= self._now():
                heapq.heappop(self._due)[2]()
            self._send(min(10, self._room(seconds)))

    def _room(self, seconds: float) -> int:
        """How many operations the queue can take now; 0 without a broker, and when the time is over."""
        with contextlib.suppress(RedisError, OSError):
            return max(0, _AHEAD - self._fixture.waiting()) if self._now() < seconds else 0
        return 0

    def _send(self, count: int) -> None:
        """Enqueue operations, as long as there is a broker."""
        with contextlib.suppress(OperationalError, RedisError, OSError):
            for _ in range(count):
                self._fixture.play("counting.add", next(self._names), 0.02)

    def finish(self) -> None:
        """End all faults and wait for all work. Operations that the broker lost are sent again with the same id."""
        self._injector.heal()
        self._injector.staff(WORKERS)
        self._fixture.settle(within=180)
        for _ in range(_TRIES if _FORGETS & set(self.struck) else 0):
            forgotten = self._fixture.forgotten()
            for operation in forgotten:
                self._fixture.send(f"{APPS}.counting.add", *operation.names, 0.02, task_id=operation.identity)
            self.sent_again += len(forgotten)
            self._fixture.settle(within=180)


def settings_for(ways: Sequence[Proxy], visibility: float = 5) -> dict[str, Any]:
    """The environment of a worker that uses these links, the last of which leads to the store."""
    return {
        "REDLOCK_NODES": ",".join(link.url for link in ways[:-1]),
        "COUNTER_STORE_URL": f"{ways[-1].url}/0",
        "FAULTS_VISIBILITY": str(visibility),
    }


@contextlib.contextmanager
def staffed(directory: Path, concurrency: int, seed: int = 0) -> Iterator[FaultInjector]:
    """Servers behind proxies, workers that use the proxies, and the injector of faults."""
    with (
        clocked(directory) as (nodes, clocks),
        sixth_redis() as broker,
        sixth_redis(*accepted.OPTIONS) as store,
        proxies([*nodes.servers, store], seed=seed) as ways,
        ClusterFixture(nodes, broker, store, directory) as fixture,
    ):

        def hire() -> Worker:
            return fixture.hire(concurrency=concurrency, **settings_for(ways))

        yield FaultInjector(fixture, ways[:-1], ways[-1], hire, NAMES, clocks=clocks)


def soak(seed: int, seconds: float, every: float, directory: Path, kinds: Sequence[str] = KINDS_HERE) -> Outcome:
    faults = plan.draw(seed, seconds, every, kinds, TTL)
    (directory / "plan.json").write_text(json.dumps(faults, indent=0))
    with staffed(directory, CHILDREN, seed) as injector:
        run = Run(injector.fixture, injector, faults)
        run.go(seconds)
        run.finish()
        found = injector.fixture.figures()._asdict() | {"forgotten_by_the_broker": run.sent_again}
        figures = Counter({name.replace("_", " "): value for name, value in found.items()})
        figures.update({"faults": run.struck.total()} | {f"fault: {kind}": times for kind, times in run.struck.items()})
        keeps = not _BREAKS_P1 & set(run.struck)
        return Outcome(figures, injector.fixture.violations(keeps=keeps))


def main(arguments: Sequence[str] | None = None) -> int:
    """Read the command line, soak, report; the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=3.0, help="how long faults strike")
    parser.add_argument("--seed", type=int, default=1, help="draws the plan")
    parser.add_argument("--every", type=float, default=3.0, help="seconds from one fault to the next, on average")
    parser.add_argument("--kind", action="append", choices=KINDS_HERE, help="only this kind; may be given again")
    parser.add_argument("--directory", type=Path, help="an empty directory that keeps plan, history and logs")
    given = parser.parse_args(arguments)
    if given.minutes <= 0 or given.every <= 0:
        parser.error("--minutes and --every must be above 0")
    with tempfile.TemporaryDirectory(prefix="soak-", ignore_cleanup_errors=True) as scratch:
        directory, kinds = given.directory or Path(scratch), tuple(given.kind or KINDS_HERE)
        began = time.monotonic()
        outcome = soak(given.seed, given.minutes * 60, given.every, directory, kinds)
    return outcome.report(f"seed {given.seed}: {time.monotonic() - began:.0f} s")


if __name__ == "__main__":
    sys.exit(main())
