"""A small cluster on which a test calls the shipped client step by step, and reads the virtual clock."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

from redlock.client import Redlock
from tests.sim import options as drawn
from tests.sim.network import Network
from tests.sim.nodes import Node
from tests.sim.world import MS, Machine, World

if TYPE_CHECKING:
    from tests.sim.source import Source

T = TypeVar("T")

NODE_TIMEOUT_MS = 100
ROUND_TRIP_MS = 3
"""The longest way of a message to a node and back."""
_WITHIN_MS = 100_000


class Process(Machine):
    def __init__(self, cluster: Cluster, name: str) -> None:
        super().__init__(cluster.world, name)
        self.network = cluster.network
        self._client = cluster.source.client.Redlock

    def client(self) -> Redlock:
        """A new client. A strand of the process calls this."""
        client: Redlock = self._client(self.network.urls, node_timeout=NODE_TIMEOUT_MS / 1000)
        return client


class Cluster:
    def __init__(self, source: Source, seed: int = 0) -> None:
        self.source = source
        self.world = World(seed)
        self.nodes = [Node(self.world, source.lua, place) for place in range(5)]
        for node in self.nodes:
            node.declare()
        options = drawn.draw(0)._replace(delay_us=ROUND_TRIP_MS * MS // 3, tail=0.0, pieces=0.0)
        self.network = Network(options, self.world, self.nodes)
        self._names = 0

    def process(self) -> Process:
        self._names += 1
        return Process(self, f"p{self._names}")

    def run(self, process: Process, function: Callable[[], T]) -> T:
        """The result of a function that a new strand of the process calls; raises the exception of the function."""
        ended: list[Any] = []

        def call() -> None:
            try:
                ended.append((True, function()))
            except Exception as error:  # noqa: BLE001 - for the caller
                ended.append((False, error))
            self.world.stop()

        process.spawn(call)
        self.world.run(self.world.now + _WITHIN_MS * MS)
        assert ended, f"no end within {_WITHIN_MS} ms"
        fine, value = ended[0]
        if not fine:
            raise value
        result: T = value
        return result

    def timed(self, process: Process, function: Callable[[], T]) -> tuple[T | Exception, float]:
        """The result or the exception of a function, and the time of the call in milliseconds."""
        began = self.world.now
        try:
            result: T | Exception = self.run(process, function)
        except Exception as error:  # noqa: BLE001 - for the caller
            result = error
        return result, (self.world.now - began) / MS

    def wait(self, length_ms: int) -> None:
        until = self.world.now + length_ms * MS
        self.world.run(until)
        self.world.now = until
