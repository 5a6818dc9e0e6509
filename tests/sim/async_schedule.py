"""Schedules of clients for asyncio. After the faults comes a phase on healthy nodes, and then every process ends.

Rules: only on healthy nodes must an operation that has ended leave no key, and must no renewed lease be lost.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from redlock._core.votes import quarantine_ms
from tests.sim import options as drawn
from tests.sim import verdict
from tests.sim.async_clients import AsyncClient
from tests.sim.records import Operation
from tests.sim.schedule import Schedule
from tests.sim.world import MS

if TYPE_CHECKING:
    from tests.sim.clients import Client
    from tests.sim.options import Options

_HEALTHY_OPERATIONS = 8


class AsyncSchedule(Schedule):
    """Runs a seed with clients for asyncio and keeps the result."""

    client_class = AsyncClient
    is_healthy = False
    """Whether all nodes vote, and no fault happens any more."""
    is_ending = False
    """Whether no process begins any more."""

    @staticmethod
    def draw(seed: int) -> Options:
        """The options of a seed: a loop has more tasks than a process has threads."""
        options = drawn.draw(seed)
        return options._replace(threads=2 * options.threads)

    @property
    def cancels(self) -> bool:
        """Whether tasks are cancelled at their waits."""
        return self.is_healthy or (self.faulty and "interrupt" in self.options.faults)

    def _run(self) -> None:
        self.source.package.limit_tasks(self.options.connection_sets)
        super()._run()

    def _await_end(self) -> None:
        super()._await_end()
        if self.world.violations:
            return
        for client in self.clients:
            # A node that sent garbage may have shifted the replies of a connection, which costs keys their undo.
            for wire in self.network.wires_of(client):
                wire.cut_off()
        # A node answers in time; a full connection would be given up, and an undo command with it.
        self.network.pieces = 0.0
        longest_ms = max(self.options.max_ttl_ms, self.options.stranger_ttl_ms)
        self._wait(quarantine_ms(longest_ms) + longest_ms + 2_000)
        self.is_healthy = True
        for number in range(_HEALTHY_OPERATIONS):
            self.operations.append(Operation(f"healthy-{number}", self._names(("a", "b"))))
        self.open = _HEALTHY_OPERATIONS
        for operation in self.operations[-_HEALTHY_OPERATIONS:]:
            self.requeue(operation)
        super()._await_end()
        self.is_ending, self.open = True, len(self.clients)
        for place in range(len(self.clients)):
            self.stop_client(place)
        self.world.run(self.world.now + verdict.longest_wait_us(self))
        for client in self.clients:
            if client.alive:
                self.world.violation(f"{client.name} did not end")

    def _wait(self, length_ms: int) -> None:
        self.open += 1
        self.world.run(self.world.now + length_ms * MS)
        self.open -= 1

    def _replace(self, client: Client) -> None:
        if not self.is_ending:
            super()._replace(client)
        elif client.alive:
            client.crash()
            self.open -= 1
            if not self.open:
                self.world.stop()

    def operation_ends(self, operation: Operation, secrets: list[str]) -> None:
        """An operation has ended; on healthy nodes the keys of all its attempts go soon."""
        if self.is_healthy and secrets:
            settles_us = self.options.timeout_ms * MS + 40 * self.options.delay_us
            self.world.after(settles_us, self._check_keys, operation, tuple(secrets))

    def _check_keys(self, operation: Operation, secrets: tuple[str, ...]) -> None:
        for node in self.nodes:
            for name in operation.names:
                if str(node.get(name)).startswith(secrets):
                    self.world.violation(f"{operation.identity} has ended and left {name!r} on node {node.place}")
