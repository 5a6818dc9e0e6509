"""Batches of schedules over several processes, and the shrinking of failed schedules.

The totals of a batch show whether the batch was vacuous; a failure prints its replay command.
"""

from __future__ import annotations

import functools
import gc
import multiprocessing
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from tests.sim.async_schedule import AsyncSchedule
from tests.sim.schedule import Schedule
from tests.sim.source import Source

DRIVERS: dict[str, type[Schedule]] = {"threads": Schedule, "asyncio": AsyncSchedule}
"""The kinds of schedules, by the driver of their clients."""
_CHUNK = 250


class Totals(NamedTuple):
    schedules: int = 0
    events: int = 0
    grants: int = 0
    two_rounds: int = 0
    breaking: int = 0
    """How many schedules were free to break the assumptions of P1."""
    two_holders: int = 0
    """In how many of those two clients believed at once."""
    refused: int = 0
    """In how many of those the store refused a stale operation."""
    violations: tuple[tuple[int, str], ...] = ()
    struck: Counter[str] = Counter()  # noqa: RUF012 - nothing adds to it
    """How often each kind of fault happened, and how often a task was cancelled in its acquire, body or release."""

    def plus(self, other: Totals) -> Totals:
        """Both together."""
        pairs: Iterator[tuple[Any, Any]] = zip(self, other, strict=True)
        return Totals(*(mine + theirs for mine, theirs in pairs))

    @property
    def vacuous(self) -> list[str]:
        """The reasons why this batch was vacuous; empty if none."""
        found = []
        if self.events < 800 * self.schedules:
            found.append(f"{self.events / self.schedules:.0f} events per schedule, fewer than 800")
        for what, count in (("two believing holders", self.two_holders), ("a refused stale operation", self.refused)):
            if count < 0.05 * self.breaking:
                found.append(f"{what} in {count} of {self.breaking} schedules that may break the assumptions")
        return found


def one(seed: int, source: Source, driver: str = "threads") -> Totals:
    schedule = DRIVERS[driver](seed, source).run()
    keeps = schedule.options.keeps
    return Totals(
        schedules=1,
        events=schedule.world.events,
        grants=len(schedule.leases),
        two_rounds=schedule.two_rounds,
        breaking=int(not keeps),
        two_holders=int(not keeps and bool(schedule.overlapping)),
        refused=int(not keeps and schedule.stales > 0),
        violations=tuple((seed, what) for what in schedule.world.violations),
        struck=Counter(_struck(schedule)),
    )


def _struck(schedule: Schedule) -> Iterator[str]:
    for _, what, *more in schedule.world.history:
        if what == "fault":
            yield more[2]
        elif what == "cancel":
            yield from more


@functools.lru_cache(1)
def _source() -> Source:
    source = Source()
    # Collections between schedules skip what lives as long as the process.
    gc.collect()
    gc.freeze()
    return source


def chunk(bounds: tuple[int, int], driver: str = "threads") -> Totals:
    """Run some seeds in this process."""
    source = _source()
    total = Totals()
    gc.disable()
    try:
        for seed in range(*bounds):
            total = total.plus(one(seed, source, driver))
            # At once: later collections would visit the world of this schedule several times.
            gc.collect(1)
    finally:
        gc.enable()
    return total


def until(is_complete: Callable[[Totals], bool], first: int, most: int, driver: str = "threads") -> Totals:
    """Run seeds in this process, ten at a time, until the totals are complete.

    The same seeds give other histories with another version of Python or of asyncio.
    """
    total = Totals()
    for start in range(first, first + most, 10):
        total = total.plus(chunk((start, start + 10), driver))
        if is_complete(total):
            break
    return total


def batch(first: int, count: int, jobs: int, driver: str = "threads") -> Iterator[tuple[Totals, float]]:
    """Run a batch; gives the totals so far, and the seconds that it has taken, every now and then."""
    bounds = [(start, min(start + _CHUNK, first + count)) for start in range(first, first + count, _CHUNK)]
    began, total = time.perf_counter(), Totals()
    if jobs == 1:
        for some in bounds:
            total = total.plus(chunk(some, driver))
            yield total, time.perf_counter() - began
        return
    with multiprocessing.get_context("spawn").Pool(jobs) as pool:
        for result in pool.imap_unordered(functools.partial(chunk, driver=driver), bounds):
            total = total.plus(result)
            yield total, time.perf_counter() - began


def shrink(seed: int, source: Source, driver: str = "threads") -> tuple[Schedule, int]:
    """The same seed with as few faults as still break a promise, and how many there were."""
    schedule = DRIVERS[driver](seed, source).run()
    numbers = [entry[2] for entry in schedule.world.history if entry[1] == "fault"]
    numbers = [number - 1_000 if number >= 1_000 else number for number in numbers]
    spared: set[int] = set()
    for number in dict.fromkeys(numbers):
        smaller = DRIVERS[driver](seed, source, spared=spared | {number}).run()
        if smaller.world.violations:
            spared.add(number)
            schedule = smaller
    return schedule, len(numbers)
