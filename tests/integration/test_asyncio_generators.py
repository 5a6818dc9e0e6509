"""`on_lost="cancel"` for a block that one task enters, and another task or a generator's user ends."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator

import pytest

from redlock import LockLost
from redlock.asyncio import Lease, Redlock, _cancel_scope
from redlock.testing.redis_server import Cluster
from tests.integration.asyncio_tools import client_of, until

NAME = "rows"
TTL = 3.0
pytestmark = pytest.mark.usefixtures("way")


async def rows(client: Redlock, leases: list[Lease]) -> AsyncGenerator[int, None]:
    """Rows that are read under a lock; the second row never comes."""
    async with client.lock(NAME, on_lost="cancel", max_hold=0.5) as lease:
        leases.append(lease)
        yield 1
        leases.append(lease)
        await asyncio.Event().wait()


async def advance(generator: AsyncGenerator[int, None]) -> None:
    await generator.__anext__()


@pytest.mark.parametrize("kind", ["generator", "exit stack"])
async def test_a_cancellation_from_outside_reaches_another_task(
    shared: Cluster, caplog: pytest.LogCaptureFixture, kind: str
) -> None:
    """The task that entered the block has ended, so a cancellation of the next task is from outside."""
    async with client_of(shared.urls, ttl=TTL) as client:
        leases: list[Lease] = []
        stack, generator = contextlib.AsyncExitStack(), rows(client, leases)

        async def enter() -> None:
            lock = client.lock(NAME, on_lost="cancel", max_hold=0.5)
            leases.append(await stack.enter_async_context(lock))

        async def leave() -> None:
            async with stack:
                await asyncio.Event().wait()

        await asyncio.create_task(advance(generator) if kind == "generator" else enter())
        second = asyncio.create_task(advance(generator) if kind == "generator" else leave())
        await until(lambda: "on-lost-failed resource=rows" in caplog.text, "the loss is logged")
        assert leases[0].is_lost
        assert not second.done()
        second.cancel()
        await asyncio.wait({second})
        assert second.cancelled()
        await generator.aclose()
    assert "the task that entered the block has ended" in caplog.text


async def test_a_block_that_ends_elsewhere_swallows_no_cancellation(shared: Cluster) -> None:
    """The task that entered the block lives in other code, and gets the cancellation of the lost lease."""
    async with client_of(shared.urls, ttl=TTL) as client:
        leases: list[Lease] = []
        generator = rows(client, leases)

        async def enter() -> None:
            await advance(generator)
            await asyncio.Event().wait()

        first = asyncio.create_task(enter())
        await asyncio.wait({first})
        assert first.cancelled()
        second = asyncio.create_task(advance(generator))
        await until(lambda: len(leases) == 2, "the second task is inside")
        second.cancel(_cancel_scope._MESSAGE)  # even a cancellation that looks like that of the scope
        await asyncio.wait({second})
        assert second.cancelled()


async def test_the_user_of_a_closed_generator_gets_lock_lost(shared: Cluster) -> None:
    async with client_of(shared.urls, ttl=TTL) as client:
        # A message can't tell whether the cancellation was the only one.
        with pytest.raises(LockLost if _cancel_scope.COUNTS else asyncio.CancelledError):
            async with contextlib.aclosing(rows(client, [])) as generator:
                async for _ in generator:
                    await asyncio.Event().wait()
        if _cancel_scope.COUNTS:
            task = asyncio.current_task()
            assert task is not None
            assert task.cancelling() == 0


async def test_a_cancelled_user_of_a_generator_is_cancelled(shared: Cluster) -> None:
    """A cancellation from outside wins over that of the lost lease here too."""
    async with client_of(shared.urls, ttl=TTL) as client:
        is_caught = asyncio.Event()

        async def use() -> None:
            async with contextlib.aclosing(rows(client, [])) as generator:
                async for _ in generator:
                    try:
                        await asyncio.Event().wait()
                    except asyncio.CancelledError:
                        is_caught.set()
                        await asyncio.Event().wait()

        task = asyncio.create_task(use())
        await is_caught.wait()
        task.cancel()
        await asyncio.wait({task})
        assert task.cancelled()
