"""What will go wrong, and when: drawn from a seed before the run begins, and written down.

Rules of this file:
1. The same seed, length and kinds give the same plan; what the run does cannot change it.
2. Every fault has an end, and the last part of a run is left in peace, so that everything can come to its end.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence


class Fault(NamedTuple):
    """Something that goes wrong.

    Attributes:
        at: Seconds from the beginning.
        kind: What, one of `hand.KINDS`.
        place: Where: which node, link or worker, counted round.
        length: Seconds until it is mended.
    """

    at: float
    kind: str
    place: int
    length: float


def draw(seed: int, seconds: float, every: float, kinds: Sequence[str], ttl: float) -> list[Fault]:
    """One fault every so many seconds on average; all kinds in turn, in an order that chance shuffles.

    Args:
        seed: Chance.
        seconds: How long the run is.
        every: Seconds from one fault to the next, on average.
        kinds: What may happen.
        ttl: The lease's; faults are shorter and longer than that.
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
