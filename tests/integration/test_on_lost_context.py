"""`on_lost` runs beside the blocks of this package in which its lease was acquired, not inside."""

from __future__ import annotations

import asyncio
import threading
import weakref
from typing import Any, NamedTuple

import pytest
from redis import Redis

from redlock import LockLost
from redlock.fencing import AsyncFencedStore, FencedStore
from redlock.testing.redis_server import Cluster, Server
from tests.integration import asyncio_tools, tools

NAME, WITHIN, SOON = "beside", 60.0, {"ttl": 3.0}


class Outer(NamedTuple):
    """The lease of the outer block."""

    fence: int = 7
    owner: str = "me"

    def remaining(self) -> float:
        return WITHIN


def changed(_: str | None) -> str:
    return "changed by on_lost"


def test_a_thread_of_on_lost_is_in_no_update(nodes: Cluster, broker: Server) -> None:
    ended = threading.Event()
    with Redis.from_url(broker.url) as redis, tools.client_of(nodes.urls, **SOON) as client:
        store = FencedStore(redis)

        def on_lost(_: object) -> None:
            ended.set()
            # The update that acquired the lock ends before this one: the same name, and the same lease.
            written.append(store.update("outer", Outer(), "beside", changed).value)

        def change(value: str | None) -> str:
            with pytest.raises(LockLost), client.lock(NAME, max_hold=0.3, on_lost=on_lost):
                assert ended.wait(WITHIN)
            return str(value)

        written: list[str] = []
        store.update("outer", Outer(), "outer", change)
        tools.eventually(lambda: written, "the update of on_lost")
    assert written == ["changed by on_lost"]


async def test_a_task_of_on_lost_is_in_no_update(shared: Cluster, broker: Server) -> None:
    ended, written = asyncio.Event(), list[str]()
    async with AsyncFencedStore(broker.url) as store, asyncio_tools.client_of(shared.urls, **SOON) as client:

        async def on_lost(_: object) -> None:
            ended.set()
            # As with threads: the update goes to its turn at once, and then waits for the end of the outer update.
            written.append((await store.update("outer", Outer(), "beside", changed)).value)

        async def change(value: str | None) -> str:
            with pytest.raises(LockLost):
                async with client.lock(NAME, max_hold=0.3, on_lost=on_lost):
                    await asyncio.wait_for(ended.wait(), WITHIN)
            return str(value)

        await store.update("outer", Outer(), "outer", change)
        await asyncio_tools.until(lambda: written, "the update of on_lost")
    assert written == ["changed by on_lost"]


async def test_a_worker_that_restarts_itself_keeps_no_task(shared: Cluster) -> None:
    """Each `on_lost` starts the next task, which inherits its context and acquires the next lease."""
    calls, running, may_end = list[weakref.ref[Any]](), set[asyncio.Task[None]](), asyncio.Event()
    async with asyncio_tools.client_of(shared.urls, **SOON) as client:

        async def work(left: int) -> None:
            def restart(_: object) -> None:
                calls.append(weakref.ref(asyncio.current_task()))
                task = asyncio.create_task(work(left - 1))
                running.add(task)
                task.add_done_callback(running.discard)

            if not left:
                await may_end.wait()
                return
            with pytest.raises(LockLost):
                async with client.lock(f"{NAME}:{left}", max_hold=0.1, on_lost=restart):
                    await asyncio_tools.until(lambda: len(calls) > 3 - left, "the next task")

        await work(3)
        await asyncio_tools.until(lambda: len(calls) == 3 and len(running) == 1, "only the last task runs")
        await asyncio_tools.until(lambda: calls[0]() is calls[1]() is None, "no earlier call is kept", within=20)
        may_end.set()
        await asyncio.wait(running)
