"""The harness of all scenarios: options, available peers, servers on TCP ports, peer processes.

Invariants:
1. Each round measures all peers in turn, so that other load of the machine hits all peers alike.
"""

from __future__ import annotations

import contextlib
import sys
from typing import TYPE_CHECKING, NamedTuple

from benchmarks.environment import PEERS, Kind, Missing, prepare
from benchmarks.process import Process
from redlock.testing.redis_server import Server, cluster, free_port

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from benchmarks.process import Program
    from redlock.testing.redis_server import Cluster

TTL = 5.0


class Options(NamedTuple):
    """The options of the command line.

    Attributes:
        quick: Whether the rounds are few and short.
        rounds: Number of rounds; None means the number of the scenario.
        out: Directory of the results.
    """

    quick: bool
    rounds: int | None
    out: Path


class Bench:
    """The harness."""

    def __init__(self, options: Options, kinds: Sequence[Kind] = PEERS) -> None:
        self.options = options
        self.missing: dict[str, str] = {}
        """The peers that cannot be set up, each with the reason."""
        self._programs: dict[Kind, Program] = {}
        for kind in kinds:
            try:
                self._programs[kind] = prepare(kind)
            except Missing as why:
                self.missing[kind.name] = str(why)

    def kinds(self, *without: Kind, single: bool = True) -> list[Kind]:
        """The available peers in order; with `single` also the peers on one node."""
        return [kind for kind in self._programs if kind not in without and (single or kind.quorum)]

    def rounds(self, usual: int) -> int:
        """The number of rounds."""
        return self.options.rounds or (max(2, usual // 3) if self.options.quick else usual)

    def seconds(self, usual: float) -> float:
        """The seconds of one measurement."""
        return usual / 4 if self.options.quick else usual

    def process(self, kind: Kind) -> Process:
        """Start a process of a peer."""
        return Process(self._programs.get(kind) or prepare(kind), self.options.out / "peers.log")

    @contextlib.contextmanager
    def connected(
        self, kind: Kind, urls: Sequence[str], ttl: float = TTL, *, near: Sequence[str] = ()
    ) -> Iterator[Process]:
        """A connected process of a peer; `near` are addresses of the same nodes without a delay."""
        with self.process(kind) as process:
            check = nodes_of(kind, near or urls)
            process.ask("connect", urls=nodes_of(kind, urls), check=check, ttl=ttl)
            yield process

    def each(self, rounds: int, of: str = "") -> Iterator[int]:
        """Count the rounds from 0 on, and print the progress."""
        for number in range(rounds):
            self.say(f"{of}round {number + 1} of {rounds}")
            yield number

    def say(self, text: str) -> None:
        """Print the progress."""
        print(f"  {text}", file=sys.stderr, flush=True)


def nodes_of(kind: Kind, urls: Sequence[str]) -> list[str]:
    """The nodes that a peer uses."""
    return list(urls if kind.quorum else urls[:1])


@contextlib.contextmanager
def lock_nodes(count: int = 5) -> Iterator[Cluster]:
    """Lock nodes on TCP ports, which every peer can reach."""
    with cluster(ports=[free_port() for _ in range(count)]) as nodes:
        yield nodes


@contextlib.contextmanager
def sixth_server() -> Iterator[Server]:
    """The server that owns the data, and is the broker."""
    server = Server(free_port())
    try:
        yield server.start()
    finally:
        server.stop()
