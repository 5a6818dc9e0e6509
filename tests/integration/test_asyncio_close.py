"""The end of a client for asyncio while its tasks hold leases, wait, or hear of a loss."""

from __future__ import annotations

import asyncio
import contextlib

import pytest

from redlock import LockLost, RedlockError
from redlock._transport.asyncio import LoopConnections
from redlock._transport.loop_exchange import LoopExchange
from redlock.asyncio import Lease, Redlock
from redlock.testing.redis_server import Cluster
from tests.integration.asyncio_tools import client_of, next_turn, run, until
from tests.integration.tools import eventually

NAME = "close"
TTL = 3.0
_ITERATIONS = 100
"""More iterations of the loop than the end of a wait needs."""


def timers() -> int:
    """The number of timers of the running loop that will call something."""
    return sum(not timer.cancelled() for timer in asyncio.get_running_loop()._scheduled)  # type: ignore[attr-defined]  # private


@pytest.mark.parametrize("renew", [True, False])
async def test_a_body_hears_of_a_loss_after_aclose(shared: Cluster, renew: bool) -> None:
    client = client_of(shared.urls, ttl=TTL)
    heard: list[Lease] = []
    with pytest.raises(LockLost, match="its time was over"):
        async with client.lock(NAME, renew=renew, on_lost=heard.append) as lease:
            await client.aclose()
            await until(lambda: heard, "the callback is called")
            assert heard == [lease]
    with pytest.raises(LockLost):
        async with client.lock(NAME, renew=renew, on_lost="cancel"):
            await client.aclose()
            await asyncio.wait_for(asyncio.Event().wait(), 100)


async def test_an_inner_block_hears_of_a_loss_after_aclose(shared: Cluster) -> None:
    client = client_of(shared.urls, ttl=TTL)
    with pytest.raises(LockLost):
        async with client.lock(NAME), client.lock(NAME, reentrant=True, on_lost="cancel"):
            await client.aclose()
            await asyncio.wait_for(asyncio.Event().wait(), 100)


async def test_a_closed_client_leaves_no_timer_that_nobody_needs(shared: Cluster) -> None:
    client = client_of(shared.urls, ttl=TTL)
    held, renewed = client.lock("close:held"), client.lock("close:renewed")
    released = client.lock("close:released", on_lost=print)
    await held.acquire()
    await released.acquire()
    await released.release()
    async with renewed:
        await client.aclose()
        assert timers() == 0


async def test_waiting_tasks_end_with_the_client(shared: Cluster) -> None:
    """One waits at a node, and the others wait for their turn."""
    client = client_of(shared.urls, ttl=9.0)
    async with client_of(shared.urls, ttl=9.0) as other, other.lock(NAME):
        tasks = [asyncio.create_task(client.lock(NAME).acquire()) for _ in range(5)]
        parts = client._context.parts()
        await until(lambda: LoopExchange in map(type, parts.waiters._waiting), "a task waits at its node")
        await until(lambda: parts.waiters.local_queue.length((NAME,)) == 5, "all wait")
        await client.aclose()
        for _ in range(_ITERATIONS):
            await next_turn()
        assert all(task.done() for task in tasks)
        for task in tasks:
            with pytest.raises(RedlockError, match="was closed in this event loop"):
                task.result()


@pytest.mark.parametrize("how", ["direct", "in a task"])
async def test_on_lost_may_close_the_client(shared: Cluster, how: str) -> None:
    client, ended = client_of(shared.urls, ttl=TTL), asyncio.Event()

    async def on_lost(_: Lease) -> None:
        if how == "direct":
            await client.aclose()
        else:
            await asyncio.create_task(client.aclose())
        ended.set()

    with pytest.raises(LockLost):
        async with client.lock(NAME, max_hold=0.5, on_lost=on_lost):
            await asyncio.wait_for(ended.wait(), 20)


async def test_aclose_still_waits_for_other_callbacks(shared: Cluster) -> None:
    client, ended = client_of(shared.urls, ttl=TTL), list[str]()
    both = asyncio.Event()

    async def slow(lease: Lease) -> None:
        await both.wait()
        connections = lease._parts.connections
        await until(lambda: connections.is_closed or client._context._parts == {}, "the client closes")
        ended.append("slow")

    async def closing(_: Lease) -> None:
        both.set()
        await client.aclose()
        ended.append("closing")

    with pytest.raises(LockLost):
        other = client.lock("close:too", max_hold=0.5, on_lost=closing)
        async with client.lock(NAME, max_hold=0.5, on_lost=slow), other:
            await until(lambda: len(ended) == 2, "both end", within=20)
    assert ended == ["slow", "closing"]


@pytest.mark.parametrize("first", ["on_lost", "the body", "a task", "a cancelled task"])
async def test_every_aclose_waits_for_the_callbacks(shared: Cluster, first: str) -> None:
    client, ended = client_of(shared.urls, ttl=TTL), list[str]()
    begun, is_second = asyncio.Event(), asyncio.Event()

    async def on_lost(_: Lease) -> None:
        if first == "on_lost":
            await client.aclose()
        begun.set()
        await is_second.wait()
        for _turn in range(_ITERATIONS):
            await next_turn()
        ended.append("on_lost")

    with pytest.raises(LockLost):
        async with client.lock(NAME, max_hold=0.5, on_lost=on_lost):
            if first == "the body":
                await client.aclose()
            await asyncio.wait_for(begun.wait(), 100)
    closing = asyncio.create_task(client.aclose() if "task" in first else next_turn())
    await next_turn()
    if first == "a cancelled task":
        closing.cancel()
    is_second.set()
    await client.aclose()
    assert ended == ["on_lost"]
    await asyncio.wait({closing})


async def test_a_callback_that_uses_the_client_leaves_no_connection(shared: Cluster) -> None:
    client, used, begun = client_of(shared.urls, ttl=TTL), list[LoopConnections](), asyncio.Event()

    async def on_lost(lease: Lease) -> None:
        begun.set()
        connections = lease._parts.connections
        await until(lambda: connections.is_closed, "the client closes")
        await client.holder(NAME)
        used.append(client._context.parts().connections)

    async with client:
        with pytest.raises(LockLost):
            async with client.lock(NAME, max_hold=0.5, on_lost=on_lost):
                await asyncio.wait_for(begun.wait(), 100)
    assert [connections.is_closed for connections in used] == [True]


def test_the_end_of_a_stopped_loop_cancels_a_callback(shared: Cluster) -> None:
    """As at the end of the fixture `redlock_async_client`."""
    client, loop = client_of(shared.urls, ttl=TTL), asyncio.new_event_loop()
    states: list[str] = []

    async def endless(_: Lease) -> None:
        states.append("begun")
        try:
            await asyncio.Event().wait()
        finally:
            states.append("ended")

    async def main() -> None:
        with contextlib.suppress(LockLost):
            async with client.lock(NAME, max_hold=0.5, on_lost=endless):
                await until(lambda: states, "the callback is called")

    try:
        loop.run_until_complete(main())
        client._context.close_stopped_loops(0.01)
        assert states == ["begun", "ended"]
    finally:
        loop.close()


def test_no_wait_of_a_closed_loop_is_reported(shared: Cluster) -> None:
    client, loop = client_of(shared.urls, ttl=9.0), asyncio.new_event_loop()
    tasks: list[asyncio.Task[bool]] = []

    async def wait(holder: Redlock) -> None:
        await holder.lock("close:ghost").acquire()
        tasks.append(asyncio.create_task(client.lock("close:ghost").acquire()))
        await until(client._context.parts().waits.pending, "the task waits")

    async def pair() -> None:
        async with client.lock(NAME):
            pass
        await client.aclose()

    async def hold() -> None:
        async with client_of(shared.urls, ttl=9.0) as holder:
            await wait(holder)

    loop.run_until_complete(hold())
    publisher = client._context._parts[loop].waits.publisher
    loop.close()
    run(pair())
    eventually(lambda: publisher._thread is None, "the thread has ended", within=20)
    tasks.clear()


@pytest.mark.parametrize("is_second", [False, True])
async def test_an_inner_block_after_aclose_hears_of_the_end(shared: Cluster, *, is_second: bool) -> None:
    heard: list[Lease] = []
    client = client_of(shared.urls, ttl=TTL)
    assert await client.lock(NAME, reentrant=True).acquire()
    inner = client.lock(NAME, reentrant=True, on_lost=heard.append)
    if is_second:
        async with inner:
            pass
    await client.aclose()
    assert await inner.acquire()
    await until(lambda: heard, "the end of the lease is heard of")
