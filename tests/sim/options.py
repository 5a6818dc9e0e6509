"""The options of a schedule, all drawn from the seed before the schedule begins.

Rules: swarm testing: each seed switches a random subset of the faults on. Even seeds keep the assumptions of P1, odd
seeds may break them.
"""

from __future__ import annotations

import random
from typing import NamedTuple

from redlock._core.votes import drift_ms

KEEPING = (
    "freeze client",
    "crash client",
    "cut",
    "break",
    "freeze node",
    "restart node",
    "save",
    "flush",
    "interrupt",
    "fork",
    "stop client",
    "mood",
    "lose scripts",
    "redeliver",
    "client wall",
    "damage fence",
    "lack threads",
    "lack sockets",
)
BREAKING = ("delete key", "jump", "rate", "init")


class Options(NamedTuple):
    """A schedule's options; times in ms."""

    seed: int
    keeps: bool
    nodes: int
    clients: int
    operations: int
    ttl_ms: int
    max_ttl_ms: int
    timeout_ms: int
    acquire_timeout_ms: int | None
    """None for no limit."""
    think_ms: int
    renew: bool
    looks: bool
    sets: bool
    delay_us: int
    tail: float
    store_loss: float
    nemesis: float
    faults: tuple[str, ...]
    fault_count: int
    wall_ok: bool
    even_clocks: bool
    uneven_fences: bool
    extends: bool
    """Whether clients extend by arbitrary amounts, within `max_ttl` and beyond."""
    connection_sets: int
    """How many threads of a client may use connections at the same time."""
    threads: int
    """How many threads of a client work at a time."""
    alias: bool
    """Whether an address of the first client leads to another node."""
    reports: bool
    """Whether clients report their waits to the nodes, and log everything."""
    pieces: float
    """How often data travels in two pieces, or is accepted in part only."""
    stalls: float
    """How often a process is stopped at a read of its clock."""
    stranger_ttl_ms: int
    """The `max_ttl` of a further client with its own settings, which keeps trying; 0 means no such client."""


def draw(seed: int) -> Options:
    chance = random.Random(seed ^ 0x5EED)
    keeps = seed % 2 == 0
    ttl_ms = chance.choice((150, 300, 600, 1_000, 2_000, 5_000))
    timeout_ms = chance.choice((10, 25, 50, 100))
    while ttl_ms < 2 * timeout_ms + drift_ms(ttl_ms) + 1:
        timeout_ms //= 2
    kinds = [kind for kind in KEEPING if chance.random() < 0.5]
    if not keeps:
        kinds += [kind for kind in BREAKING if chance.random() < 0.6]
    return Options(
        seed=seed,
        keeps=keeps,
        nodes=chance.choice((5, 5, 5, 5, 3, 3, 4, 1)),
        clients=chance.choice((2, 3, 3, 4)),
        operations=chance.randint(4, 9),
        ttl_ms=ttl_ms,
        max_ttl_ms=ttl_ms * chance.choice((1, 1, 2)),
        timeout_ms=timeout_ms,
        acquire_timeout_ms=chance.choice((0, ttl_ms // 2, ttl_ms * 2, None)),
        think_ms=int(ttl_ms * chance.choice((0.02, 0.2, 0.6, 1.5))),
        renew=chance.random() < 0.7,
        looks=chance.random() < 0.5,
        sets=chance.random() < 0.3,
        delay_us=chance.choice((100, 500, 2_000)),
        tail=chance.choice((0.0, 0.01, 0.05)),
        store_loss=chance.choice((0.0, 0.0, 0.05, 0.2)),
        nemesis=chance.choice((0.0, 0.2, 0.6) if keeps else (0.2, 0.6, 0.9)),
        faults=tuple(kinds),
        fault_count=chance.randint(2, 14) if kinds else 0,
        wall_ok="client wall" not in kinds,
        even_clocks=chance.random() < 0.5,
        uneven_fences=chance.random() < 0.3,
        extends=chance.random() < 0.4,
        connection_sets=chance.choice((16, 16, 16, 1)),
        threads=chance.choice((1, 1, 2)),
        alias=chance.random() < 0.1,
        reports=chance.random() < 0.06,
        pieces=chance.choice((0.0, 0.0, 0.05, 0.3)),
        stalls=chance.choice((0.0, 0.0, 0.0, 0.001)),
        stranger_ttl_ms=int(ttl_ms * chance.choice((0, 0, 0, 0, 0.5, 1.5, 4))),
    )
