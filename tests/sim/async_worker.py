"""A task that works on operations, for a process with an event loop; see `clients`.

Rules: an operation is cancelled at a chosen wait, or by a fault. Code of the application blocks the loop at times.
More must hold than the promises:
1. A cancellation is never swallowed, and ends an acquire or a release at once.
2. A block with `on_lost="cancel"` ends soon after its lease, and a lease that is over is known to be lost.
3. On healthy nodes a renewed lease is not lost.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from tests.sim import section
from tests.sim.cancellation import MOMENTS, cancelled
from tests.sim.records import Question
from tests.sim.timed import Timed
from tests.sim.world import MS, here

if TYPE_CHECKING:
    from tests.sim.async_clients import AsyncClient
    from tests.sim.records import Operation
    from tests.sim.section import Requests

_CANCELLED = 0.4
_MOST_WAITS = 6
_BLOCKS = 0.05
_PLAIN = 0.2
_GOES_ON = 0.3
_LOOKS_AROUND = 0.2
_EXTENSIONS = (0.5, 1, 1.5, 3)


class TaskSeat:
    """The waits of a task for events of the schedule; for a thread `Strand` has them."""

    def __init__(self, client: AsyncClient) -> None:
        self.machine, self.ticket = client, 1
        self._ended: asyncio.Future[Any] = client.loop.create_future()

    async def park(self, until: int | None = None) -> Any:  # noqa: ANN401 - the waker's own
        """Wait for `wake`, at most until this time; returns the value, None at the end of the time."""
        self._ended = self.machine.loop.create_future()
        if until is not None:
            self.machine.world.at(until, self.wake, self.ticket, None)
        try:
            return await self._ended
        finally:
            self.ticket += 1

    def wake(self, ticket: int, value: object) -> None:
        """End the wait of this number, now or when the process thaws."""
        self.machine.deliver(self._wake, ticket, value)

    def _wake(self, ticket: int, value: object) -> None:
        if ticket == self.ticket and not self._ended.done():
            self.machine.loop.call_soon_threadsafe(_set, self._ended, value)


def _set(future: asyncio.Future[Any], value: object) -> None:
    if not future.done():
        future.set_result(value)


class Plain:
    """A lock that is acquired and released without a block."""

    def __init__(self, lock: Any, errors: Any) -> None:  # noqa: ANN401 - of the simulated package
        self._lock, self._errors = lock, errors

    async def __aenter__(self) -> Any:  # noqa: ANN401 - as above
        if not await self._lock.acquire():
            raise self._errors.RedlockError("held by another client")
        return self._lock.lease

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            await self._lock.release()
        except self._errors.RedlockError:
            # As a block: an error of the body, or its cancellation, comes first.
            if kind is None:
                raise


class AsyncWorker:
    """A task that works on operations, each in a task of its own."""

    def __init__(self, client: AsyncClient, number: int) -> None:
        self.client, self._number = client, number
        self.schedule, self.options, self.world = client.schedule, client.options, client.world
        self.is_busy = False
        """Whether a cancellation may strike now."""
        self.tokens: list[str] = []
        """The tokens of the leases in which the task believes."""
        self.secrets: list[str] = []
        """The beginnings of all owner tokens of the operation."""
        self.held: Any = None
        """A lease; while it is valid, no attempt of this task may begin."""
        self._seat = TaskSeat(client)
        self._place = ""
        """The part of the operation that runs: acquire, body or release."""
        self._cancelled: tuple[str, float] | None = None
        """Where the operation was cancelled, and when by the time for which the process ran."""
        self._must_keep = False
        """Whether nothing may end the lease of the operation before its release."""
        self._task: asyncio.Task[bool] | None = None
        self.life = client.loop.create_task(self._live(), name=f"{client.name}-{number}")

    def lost(self) -> None:
        """A lease of the operation was lost: a moment to be cancelled at."""
        if self.schedule.cancels and self.world.chance.random() < _CANCELLED:
            self.client.loop.call_soon(self._cancel)

    def interrupt(self) -> None:
        """Cancel the operation; see `Client.interrupt`."""
        self.client.loop.call_soon_threadsafe(self._cancel)

    def _cancel(self) -> None:
        if self._task is not None and not self._task.done():
            self._note_cancel()
            self._task.cancel()

    def _note_cancel(self) -> None:
        if self._cancelled is None:
            self._cancelled = self._place, self.client.own_ms
            self.world.note("cancel", self.client.name, self._place)

    async def _live(self) -> None:
        while not self.client.is_stopping:
            self.schedule.seek(self._seat)
            operation = await self._seat.park()
            if operation is None:
                continue
            if await self._ended(operation):
                self.schedule.acknowledge(operation)
            else:
                await asyncio.sleep(self.world.chance.randint(1, self.options.ttl_ms) / 1000)
                self.schedule.requeue(operation)

    async def _ended(self, operation: Operation) -> bool:
        client, chance = self.client, self.world.chance
        self._cancelled, self._must_keep, self._place, self.secrets = None, False, "acquire", []
        work = self._run(operation)
        if self.schedule.cancels and chance.random() < _CANCELLED:
            work = cancelled(work, chance.randint(1, _MOST_WAITS), chance.choice(MOMENTS), self._note_cancel)
        task = self._task = client.loop.create_task(work, name=f"{client.name}-{self._number}-{operation.identity}")
        client.tasks[task] = self
        self.is_busy = True
        await asyncio.wait({task})
        self.is_busy, self._task = False, None
        del client.tasks[task]
        client.believe_no_more(self.tokens)
        self.schedule.operation_ends(operation, self.secrets)
        self._check_cancellation(task)
        if task.cancelled():
            return False
        error = task.exception()
        if error is None:
            return task.result()
        client.check_error(error)
        if self._must_keep and isinstance(error, client.errors.LockLost):
            self.world.violation(f"{client.name} lost a renewed lease on healthy nodes: {error}")
        self.world.note("gave up", client.name, operation.identity, type(error).__name__)
        return False

    def _check_cancellation(self, task: asyncio.Task[bool]) -> None:
        if self._cancelled is None:
            return
        place, when = self._cancelled
        if not task.cancelled():
            self.world.violation(f"a cancellation of {self.client.name} in its {place} was swallowed")
        if place != "body" and self.client.own_ms - when > 1:
            self.world.violation(f"{self.client.name} went on after a cancellation in its {place}")

    async def _run(self, operation: Operation) -> bool:
        client, chance, timeout_ms = self.client, self.world.chance, self.options.acquire_timeout_ms
        is_plain = chance.random() < _PLAIN
        on_lost = chance.choice((None, self._lost, client.lost_slowly, None if is_plain else "cancel"))
        has_limit = chance.random() < _LOOKS_AROUND
        lock = client.redlock.lock(
            operation.names,
            blocking_timeout=None if timeout_ms is None else timeout_ms / 1000,
            renew=self.options.renew,
            max_hold=client.ttl_ms * 3 / 1000 if has_limit else None,
            reentrant=True,
            on_lost=on_lost,
            wait_for_release=chance.random() >= _GOES_ON,
        )
        frozen_us = client.frozen_us
        self._must_keep = self.schedule.is_healthy and self.options.renew and not (is_plain or has_limit)
        async with Timed(client, Plain(lock, client.errors) if is_plain else lock, timeout_ms) as lease:
            self._place = "body"
            token = lease.owner
            try:
                return await self._section(lock, lease, operation)
            finally:
                self._place = "release"
                if on_lost == "cancel" and client.frozen_us == frozen_us:
                    self._check_end(token)
                client.believe_no_more(self.tokens)

    def _check_end(self, token: str) -> None:
        """A block that a loss cancels has not outlived its lease by more than the end of an extension."""
        late_us = self.world.now - self.client.believed[token].end
        if late_us > (3 * self.client.redlock._context.node_timeout_ms + 20) * MS:
            self.world.violation(f"{self.client.name} works {late_us / 1e6:.3f} s after the end of its lease")

    def _lost(self, lease: Any) -> None:  # noqa: ANN401 - of the simulated package
        self.world.note("on_lost", self.client.name, lease.resource)

    async def _section(self, lock: Any, lease: Any, operation: Operation) -> bool:  # noqa: ANN401 - as above
        client, chance = self.client, self.world.chance
        if chance.random() < _LOOKS_AROUND:
            await self._look_around(lock, lease, operation)
        if self.schedule.faulty and chance.random() < _BLOCKS:
            self._block(lease)
        done = await self._perform(section.update(client, lease, operation))
        if self.options.extends and chance.random() < _GOES_ON:
            try:
                await lease.extend(client.ttl_ms / 1000 * chance.choice(_EXTENSIONS))
            except client.errors.RedlockError:
                return done
            await asyncio.sleep(chance.random() * 4 * client.ttl_ms / 1000)
        return done

    def _block(self, lease: Any) -> None:  # noqa: ANN401 - as above
        """Block the loop: a lease that is over by then is known to be lost."""
        client = self.client
        end, length_us = client.believed[lease.owner].end, int(self.world.chance.random() * 2 * client.ttl_ms * MS)
        client.freezes, client.frozen_us = client.freezes + 1, client.frozen_us + length_us
        with client.loop.paused():
            here().sleep(length_us)
        if end < self.world.now and lease.remaining() > 0:
            self.world.violation(f"{client.name} believes in a lease that is over")

    async def _look_around(self, lock: Any, lease: Any, operation: Operation) -> None:  # noqa: ANN401 - as above
        """Other calls of a task that holds the lock."""
        client, name = self.client, operation.names[0]
        match self.world.chance.randrange(6):
            case 0:
                known = len(self.tokens)
                async with client.redlock.lock(operation.names, reentrant=True) as inner:
                    # A lease that was lost is not shared.
                    assert inner.fence == lock.fence or len(self.tokens) > known
                    client.believe_no_more(self.tokens, known)
            case 1:
                await lock.owned()
            case 2:
                await lock.locked()
            case 3:
                await client.redlock.holder(name)
            case 4:
                await self._wait_for_itself(lease, name)
            case _:
                await asyncio.gather(lock.reacquire(), lock.reacquire())

    async def _wait_for_itself(self, lease: Any, name: str) -> None:  # noqa: ANN401 - as above
        """A wait without a limit is refused before its first attempt, unless the lease is lost."""
        known, again = len(self.tokens), self.client.redlock.lock(name)
        self.held = lease
        try:
            await again.acquire()
        except self.client.errors.RedlockError:
            return
        finally:
            self.held = None
        self.client.believe_no_more(self.tokens, known)
        await again.release()

    async def _perform(self, requests: Requests[bool]) -> bool:
        reply = None
        try:
            while True:
                request, reply = requests.send(reply), None
                if isinstance(request, Question):
                    reply = await self._seat.park(self.schedule.send_question(self._seat, request))
                else:
                    await asyncio.sleep(request / 1e6)
        except StopIteration as stop:
            return bool(stop.value)
