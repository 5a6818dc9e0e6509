"""The fenced store for asyncio: the same keys and rules as the store for threads."""

from __future__ import annotations

import asyncio

import pytest
from redis.asyncio import Redis

from redlock import ConfigurationError, NotHeld, Stale
from redlock.fencing import AsyncFencedStore, FencedStore
from redlock.testing.redis_server import Cluster, Server
from tests.integration.asyncio_tools import client_of, next_turn
from tests.integration.test_store import one_more
from tests.integration.tools import run_out

NAME = "hits"


async def slowly_one_more(value: str | None) -> str:
    """An increment that lets other tasks run."""
    await next_turn()
    return one_more(value)


async def test_updates_are_applied_once_and_read_by_the_other_store(nodes: Cluster, broker: Server) -> None:
    async with client_of(nodes.urls) as client, AsyncFencedStore(broker.url) as store:
        async with client.lock(NAME) as lease:
            first = await store.update(NAME, lease, "op-1", one_more)
            assert (first.value, first.fence, first.applied) == ("1", lease.fence, True)
            assert (await store.update(NAME, lease, "op-1", one_more)).applied is False
            assert (await store.update(NAME, lease, "op-2", slowly_one_more)).value == "2"
            with pytest.raises(ConfigurationError, match="operation id"):
                await store.update(NAME, lease, "", one_more)
        with pytest.raises(NotHeld):
            await store.open(NAME, lease)
        assert await store.read_unfenced(NAME) == "2"
        await store.write_unfenced(NAME, "40")
        assert await store.read_unfenced("none") is None
    assert FencedStore(broker.url).read_unfenced(NAME) == "40"


async def test_tasks_of_one_lease_lose_no_update(nodes: Cluster, broker: Server) -> None:
    async with client_of(nodes.urls) as client, Redis.from_url(broker.url, decode_responses=True) as redis:
        store = AsyncFencedStore(redis)
        async with client.lock(NAME) as lease:
            updates = (store.update(NAME, lease, f"op-{number}", slowly_one_more) for number in range(10))
            await asyncio.gather(*updates)
        await store.aclose()
        assert await store.read_unfenced(NAME) == "10"


async def test_the_write_of_an_old_holder_is_refused(nodes: Cluster, broker: Server) -> None:
    async with client_of(nodes.urls) as client, client_of(nodes.urls) as other, AsyncFencedStore(broker.url) as store:
        lock = client.lock(NAME)
        await lock.acquire()
        transaction = await store.open(NAME, lock.lease)
        run_out(nodes.servers, NAME)
        async with other.lock(NAME) as newer:
            await store.update(NAME, newer, "new", lambda _: "new")
            with pytest.raises(Stale) as caught:
                await store.write(transaction, "old", "old")
            assert caught.value.seen == newer.fence
            with pytest.raises(Stale):
                await store.open(NAME, lock.lease)
        assert await store.read_unfenced(NAME) == "new"
