"""Rounds on a few simulated nodes, without a client: for schedules that are written down step by step.

The protocol and the scripts are the shipped code; the test decides which node answers which client, and when. A node
that is not heard may have carried the command out all the same: those are two different sets here.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any, TypeVar

from redlock._core.commands import Acquire, Command, Round
from redlock._core.protocol import Steps
from redlock._core.votes import Grant, Refusal, RoundResult, Vote, silent
from redlock._transport.codec import Codec, operation_key, wake_key
from redlock._transport.decoder import decode
from tests.sim.nodes import EPOCH_MS, Lua, Node
from tests.sim.world import MS, World
from tests.unit.helpers import script_call

T = TypeVar("T")

A, B, C, D, E = range(5)
ALL = frozenset(range(5))
MAX_TTL_MS = 10_000


class ManualRounds:
    """Nodes that are old enough to vote, and a clock that all share."""

    def __init__(self, nodes: int = 5, max_ttl_ms: int = MAX_TTL_MS) -> None:
        self.world = World(0)
        self.lua = Lua()
        self.nodes = [Node(self.world, self.lua, place) for place in range(nodes)]
        self.store = Node(self.world, self.lua, nodes)
        self.codec = Codec(nodes, "", max_ttl_ms)
        self.asked: list[Round] = []
        """All rounds that the protocol asked for."""
        self._attempts = 0
        for node in self.nodes:
            node.declare()

    def now_ms(self) -> int:
        """The clients' steady clock."""
        return self.world.now // MS

    def wait(self, length_ms: int) -> None:
        self.world.now += length_ms * MS

    def attempt(
        self, owner_label: str, ttl_ms: int = 5_000, names: tuple[str, ...] = ("a",), wall_ms: int = 0
    ) -> Acquire:
        """A fresh attempt; `wall_ms` is how far this client's wall clock is off."""
        self._attempts += 1
        proposed = (EPOCH_MS + wall_ms) * 1_000 + self.world.now
        return Acquire(names, f"{self._attempts:032x}:{owner_label}", ttl_ms, proposed)

    def tell(self, command: Command, places: Iterable[int], codec: Codec | None = None) -> dict[int, Vote]:
        """Let these nodes execute a command, in this order, and return their votes."""
        call = script_call(codec or self.codec, command)
        return {place: decode(self.nodes[place].call(call, self.nodes[place].run_id)) for place in places}

    def run(
        self,
        steps: Steps[T],
        reach: Collection[int] = ALL,
        hear: Collection[int] | None = None,
        codec: Codec | None = None,
        among: tuple[int, ...] | None = None,
    ) -> T:
        """Carry a generator's rounds out.

        Args:
            steps: The protocol's generator.
            reach: The nodes that commands reach.
            hear: The nodes with a reply that arrives; None means all.
            codec: How the client speaks, if not as all others do.
            among: The nodes that the client knows, if not all.
        """
        known = among or tuple(range(len(self.nodes)))
        try:
            round_ = next(steps)
            while True:
                self.asked.append(round_)
                sent_ms = self.now_ms()
                to = [known[place] for place in (range(len(known)) if round_.to is None else round_.to)]
                said = self.tell(round_.command, [place for place in to if place in reach], codec)
                votes = tuple(
                    said[place] if place in said and (hear is None or place in hear) else silent("not heard")
                    for place in known
                )
                round_ = steps.send(RoundResult(votes, sent_ms, self.now_ms()))
        except StopIteration as stop:
            result: T = stop.value
            return result

    def keys(self, name: str = "a") -> dict[int, str]:
        """The holder of this name, on the nodes that have one."""
        found = {node.place: node.get(name) for node in self.nodes}
        return {place: holder for place, holder in found.items() if holder is not None}

    def wake_ups(self, name: str = "a") -> set[int]:
        """The nodes on which a wake-up lies."""
        return {node.place for node in self.nodes if node.count(wake_key(name))}

    def open(self, grant: Grant) -> Any:  # noqa: ANN401 - whatever the script gives
        """The store's first door."""
        return self.store.store("open", ("s",), (str(grant.fence), grant.token))

    def write(self, grant: Grant, section: int, value: int, identity: str) -> Any:  # noqa: ANN401 - as above
        """The store's second door."""
        arguments = (str(grant.fence), grant.token, str(section), str(value), "60000")
        return self.store.store("write", ("s", operation_key("s", identity)), arguments)


def held(result: Grant | Refusal) -> Grant:
    """The result of a won round."""
    assert isinstance(result, Grant), result
    return result


def lost(result: Grant | Refusal) -> Refusal:
    """The result of a lost round."""
    assert isinstance(result, Refusal), result
    return result
