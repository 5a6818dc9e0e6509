"""The end of a client for asyncio while its tasks hold leases, wait, or hear of a loss."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from redlock import LockLost, RedlockError
from tests.integration.asyncio_tools import client_of, run, until

if TYPE_CHECKING:
    from redlock.asyncio import Lease
    from redlock.testing.redis_server import Cluster

NAME = "close"
TTL = 3.0
_ITERATIONS = 100
"""More iterations of the loop than the end of a wait needs."""


def timers() -> int:
    """The number of timers of the running loop that will call something."""
    return sum(not timer.cancelled() for timer in asyncio.get_running_loop()._scheduled)  # type: ignore[attr-defined]  # private


@pytest.mark.parametrize("renew", [True, False])
def test_a_body_hears_of_a_loss_after_aclose(shared: Cluster, renew: bool) -> None:  # noqa: FBT001 - an option
    async def main() -> None:
        client = client_of(shared.urls, ttl=TTL)
        heard: list[Lease] = []
        with pytest.raises(LockLost):
            async with client.lock(NAME, renew=renew, on_lost=heard.append) as lease:
                await client.aclose()
                await until(lambda: heard, "the callback is called")
                assert heard == [lease]
        with pytest.raises(LockLost):
            async with client.lock(NAME, renew=renew, on_lost="cancel"):
                await client.aclose()
                await asyncio.wait_for(asyncio.Event().wait(), 100)

    run(main())


def test_an_inner_block_hears_of_a_loss_after_aclose(shared: Cluster) -> None:
    async def main() -> None:
        client = client_of(shared.urls, ttl=TTL)
        with pytest.raises(LockLost):
            async with client.lock(NAME), client.lock(NAME, reentrant=True, on_lost="cancel"):
                await client.aclose()
                await asyncio.wait_for(asyncio.Event().wait(), 100)

    run(main())


def test_a_closed_client_leaves_no_timer_that_nobody_needs(shared: Cluster) -> None:
    async def main() -> None:
        client = client_of(shared.urls, ttl=TTL)
        held, renewed = client.lock("close:held"), client.lock("close:renewed")
        released = client.lock("close:released", on_lost=print)
        await held.acquire()
        await released.acquire()
        await released.release()
        async with renewed:
            await client.aclose()
            assert timers() == 0

    run(main())


def test_waiting_tasks_end_with_the_client(shared: Cluster) -> None:
    """One waits at a node, and the others wait for their turn."""

    async def main() -> None:
        client = client_of(shared.urls, ttl=9.0)
        async with client_of(shared.urls, ttl=9.0) as other, other.lock(NAME):
            tasks = [asyncio.create_task(client.lock(NAME).acquire()) for _ in range(5)]
            parts = client._context.parts()
            await until(lambda: parts.waiters._reading, "a task waits at its node")
            await until(lambda: parts.waiters.local_queue.length((NAME,)) == 5, "all wait")
            await client.aclose()
            for _ in range(_ITERATIONS):
                await asyncio.sleep(0)
            assert all(task.done() for task in tasks)
            for task in tasks:
                with pytest.raises(RedlockError, match="was closed in this event loop"):
                    task.result()

    run(main())
