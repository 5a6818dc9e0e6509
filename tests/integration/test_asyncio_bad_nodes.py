"""The asyncio driver against nodes that are frozen, slow, cut off, restarted, or send impossible replies."""

from __future__ import annotations

import asyncio
import time

import pytest

from redlock import QuorumUnavailable
from redlock.asyncio import Redlock
from redlock.testing.redis_server import Cluster
from tests.integration.asyncio_tools import client_of, next_turn, until
from tests.integration.tools import LASTING, frozen, is_free, is_told_of, limit_no_pending, raw, raws
from tests.proxy import Passing, always, byte_by_byte, endless_garbage, half_a_reply, half_a_reply_then_reset, proxies

NAME = "bad"


async def pairs(client: Redlock, count: int = 5, name: str = NAME) -> None:
    """Acquire and release, over and over."""
    for _ in range(count):
        async with client.lock(name, blocking_timeout=30):
            pass


@pytest.mark.parametrize(
    "passing",
    [byte_by_byte, half_a_reply_then_reset, half_a_reply, endless_garbage, always(b"+OK\r\n+OK\r\n")],
    ids=["drips", "resets", "half", "garbage", "unasked"],
)
async def test_two_bad_nodes_stop_nobody(nodes: Cluster, passing: Passing) -> None:
    with proxies(nodes.servers) as ways:
        async with client_of([proxy.url for proxy in ways], node_timeout=1.0) as client:
            await pairs(client)
            for proxy in ways[:2]:
                proxy.passing = passing
            await pairs(client, 20)
            await asyncio.gather(*(pairs(client, 1, f"{NAME}:{number}") for number in range(50)))
            for proxy in ways[:2]:
                proxy.restore()
            await pairs(client)


async def test_a_node_that_accepts_no_more_bytes_gets_them_in_order(nodes: Cluster) -> None:
    """The outbox of a frozen node grows and is written in pieces later; at the end its locks are free too."""
    # No node is given up before it goes on, and no lock ends by its TTL.
    async with client_of(nodes.urls, node_timeout=100.0, **LASTING) as client:
        await pairs(client)
        state, server = client._context.parts().connections.state, nodes.servers[0]
        exchange = state.all[0].handle
        server.freeze()
        blocked = False

        async def one(number: int) -> None:
            nonlocal blocked
            async with client.lock(f"{number:04}" * 250):
                await next_turn()
                blocked = blocked or state.all[0].is_blocked

        await asyncio.gather(*(one(number) for number in range(300)))
        assert blocked, "the system accepted every byte, so nothing was tested"
        server.thaw()
        with raw(server) as redis:
            await until(lambda: not redis.keys("[0-9]*"), "the node has read every release")
        assert state.all[0].handle is exchange, "another connection has been made"
        await pairs(client)


async def test_short_locks_notice_frozen_nodes(
    nodes: Cluster, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    limit_no_pending(monkeypatch)
    caplog.set_level("INFO", "redlock")
    async with client_of(nodes.urls, node_timeout=0.2) as client:
        await pairs(client)

        async def pairs_until_told() -> None:
            while not is_told_of(caplog, [nodes[1], nodes[3]]):
                await pairs(client)

        with frozen(nodes[1], nodes[3]):
            await asyncio.wait_for(pairs_until_told(), 100)


async def test_without_a_quorum_a_call_ends_in_time(nodes: Cluster) -> None:
    async with client_of(nodes.urls, node_timeout=0.1, ttl=3.0) as client:
        await pairs(client)
        with frozen(*nodes.servers[:3]):
            began = time.monotonic()
            with pytest.raises(QuorumUnavailable, match="no answer within 100 ms"):
                await client.lock(NAME, blocking_timeout=0.5).acquire()
            assert time.monotonic() - began > 0.4
        await pairs(client)


async def test_lost_scripts_are_loaded_again(nodes: Cluster) -> None:
    async with client_of(nodes.urls) as client:
        await pairs(client)
        for redis in raws(nodes.servers):
            redis.script_flush()
        await asyncio.gather(*(pairs(client, 2, f"{NAME}:{number}") for number in range(20)))


async def test_lost_connections_are_dialled_again(nodes: Cluster) -> None:
    async with client_of(nodes.urls) as client:
        lock = client.lock(NAME)
        await lock.acquire()
        waiting = asyncio.create_task(client.lock(NAME).acquire(blocking_timeout=20))
        await until(lambda: client._context.parts().waiters.local_queue.length((NAME,)), "a task waits")
        connections = client._context.parts().connections.state.all
        handles = [one.handle for one in connections]
        for redis in raws(nodes.servers):
            redis.client_kill_filter(_type="normal", skipme=True)
        await until(
            lambda: all(one.handle is not handle for one, handle in zip(connections, handles, strict=True)),
            "the loop has seen the end of all connections",
        )
        await lock.extend(1)
        await lock.release()
        assert await waiting
    with raw(nodes.servers[0]) as redis:
        redis.delete(NAME)


async def test_the_loop_goes_on_while_nodes_are_dialled(nodes: Cluster) -> None:
    """Two nodes accept the connection and never answer."""
    with proxies(nodes.servers) as ways:
        for proxy in ways[:2]:
            proxy.hold("from")
        async with client_of([proxy.url for proxy in ways], node_timeout=100.0, **LASTING) as client:
            connections = client._context.parts().connections
            pairing = asyncio.create_task(pairs(client, 1))

            def is_dialling() -> bool:
                return bool(connections.awaits_dial) and sum(one.is_dialling for one in connections.state.all) == 2

            await until(is_dialling, "this task runs while the first round waits for two dials", every=0)
            for proxy in ways[:2]:
                proxy.restore()
            await pairing


async def test_a_restarted_node_abstains_and_stops_nobody(nodes: Cluster) -> None:
    async with client_of(nodes.urls) as client:
        async with client.lock(NAME) as lease:
            nodes.servers[0].kill()
            nodes.servers[0].start()
            assert not await client.lock(NAME, blocking=False).acquire()
            await lease.extend(3)
        await pairs(client)
    assert is_free(nodes.servers, NAME)


async def test_a_renewal_repairs_a_node_that_lost_the_key(nodes: Cluster) -> None:
    async with client_of(nodes.urls, ttl=5.0) as client, client.lock(NAME) as lease:
        with raw(nodes.servers[1]) as redis:
            redis.delete(NAME)
            await until(lambda: redis.get(NAME) == lease.owner, "the key is back")
    assert is_free(nodes.servers, NAME)
