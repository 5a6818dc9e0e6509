"""Clients for asyncio: processes whose event loop runs the shipped asyncio client, with tasks that act as `clients` do.

Rules: a process that ends leaves no task, timer, socket, place or queue, and its loop reports no error.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from redlock._core.votes import Grant
from tests.sim.async_worker import AsyncWorker
from tests.sim.clients import Client
from tests.sim.virtual_loop import VirtualLoop

if TYPE_CHECKING:
    from tests.sim.async_schedule import AsyncSchedule


class AsyncClient(Client):
    """A process with an event loop."""

    schedule: AsyncSchedule
    loop: VirtualLoop
    redlock: Any
    """The shipped client, of the simulated package."""

    def _main(self) -> None:
        self.tasks: dict[asyncio.Task[Any] | None, AsyncWorker] = {}
        """The worker of each task."""
        self.loop = VirtualLoop(self)
        self.loop.run(self._live())

    @property
    def kind(self) -> Any:  # noqa: ANN401 - of the simulated package
        """The class of the shipped client."""
        return self.schedule.source.package.module("asyncio.client").Redlock

    async def _live(self) -> None:
        super()._main()
        await asyncio.wait({worker.life for worker in self.workers.values()})
        if self.schedule.is_ending:
            await self._lose()
        context = self.redlock._context
        parts = context.parts()
        self._check_empty(parts.window.attempts, parts.waiters.local_queue._queues, parts.window._inside)
        await self.redlock.aclose()
        self._check_empty(*self.loop.leftovers, parts.connections.executions)
        # A dial may be under way, in its thread.
        await asyncio.sleep(6 * context.node_timeout_ms / 1000)
        if not self.options.reports:
            self._check_empty([wire.node.place for wire in self.network.wires_of(self)])
        self.schedule.replace(self)

    async def _lose(self) -> None:
        """Lose a lease: the report of the loss takes longer than the block."""
        with suppress(self.errors.RedlockError):
            async with self.redlock.lock(f"end of {self.name}", renew=False, on_lost=self.lost_slowly):
                await asyncio.sleep(self.ttl_ms / 1000)

    async def lost_slowly(self, lease: Any) -> None:  # noqa: ANN401 - of the simulated package
        """Take notice of a loss, which takes a while."""
        await asyncio.sleep(self.ttl_ms / 1000)
        self.world.note("on_lost", self.name, lease.resource)

    def _check_empty(self, *left: object) -> None:
        for one in left:
            if one:
                self.world.violation(f"{self.name} has ended and leaves {one}")

    def begin_workers(self) -> None:
        for number in range(self.options.threads):
            worker = AsyncWorker(self, number)
            self.workers[worker] = worker

    def worker(self) -> AsyncWorker | None:
        """The worker whose code runs now; None in other code."""
        return self.tasks.get(asyncio.current_task())

    def attempt_begins(self, secret: str) -> None:
        """An attempt has made an owner token."""
        worker = self.worker()
        if worker is not None:
            worker.secrets.append(secret)
        super().attempt_begins(secret)

    def granted(self, grant: Grant) -> None:
        """The task that runs believes that its lease is valid."""
        if self.worker() is not None:
            super().granted(grant)

    def lost(self, grant: Grant, why: str) -> None:
        """The client knows that a lease is lost."""
        super().lost(grant, why)
        for worker in self.workers.values():
            if grant.token in worker.tokens:
                worker.lost()

    def stall(self) -> None:
        """Stop now, at this instruction."""
        with self.loop.paused():
            super().stall()
