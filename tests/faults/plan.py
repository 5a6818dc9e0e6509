"""The plan of faults and their times, drawn from a seed before the run begins.

Invariants:
1. The same seed, length and kinds give the same plan, independent of the run.
2. Every fault has an end, and the last part of a run has no faults, so that all work can finish.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import NamedTuple


class Fault(NamedTuple):
    """A planned fault.

    Attributes:
        at: Seconds from the beginning.
        kind: The kind, a key of `fault_injector.KINDS`.
        place: The number of the node, proxy or worker, modulo their count.
        length: Seconds until the fault ends.
    """

    at: float
    kind: str
    place: int
    length: float


def draw(seed: int, seconds: float, every: float, kinds: Sequence[str], ttl: float) -> list[Fault]:
    """A fault every so many seconds on average; all kinds in turn, in an order that chance shuffles.

    Args:
        seed: The seed of the random numbers.
        seconds: The length of the run.
        every: The mean seconds between two faults.
        kinds: The possible kinds of fault.
        ttl: The TTL of the leases; some faults are shorter and others longer.
    """
    chance = random.Random(seed)
    plan: list[Fault] = []
    bag: list[str] = []
    at = chance.uniform(0.2, 1.0) * every
    while at < seconds:
        if not bag:
            bag = chance.sample(list(kinds), len(kinds))
        length = chance.choice((0.3, 1.2, 2.5)) * ttl * chance.uniform(0.8, 1.2)
        plan.append(Fault(round(at, 3), bag.pop(), chance.randrange(1_000), round(length, 3)))
        at += chance.uniform(0.5, 1.5) * every
    return plan
