"""A cancellation at each `await` of acquire, body and release, one after the other, leaves nothing behind.

`cancelled` runs a coroutine and cancels its task at the n-th wait: at once, or in the iteration of the loop in which
the wait ends. The tests go on until the coroutine ends without a cancellation.
"""

from __future__ import annotations

import asyncio
import random
import types
from collections.abc import Awaitable, Callable, Coroutine, Generator
from typing import Any

import pytest

from redlock._transport.codec import waiting_order, wake_key
from redlock.asyncio import Redlock
from redlock.testing.redis_server import Cluster
from tests.integration.asyncio_tools import client_of, next_turn, open_sockets, until
from tests.integration.tools import LASTING, holders, is_free, raw, raws
from tests.sim.cancellation import MOMENTS, cancelled

NAME = "cancelled"
_MOST_WAITS = 60


@types.coroutine
def without_a_future() -> Generator[None, None, None]:
    """Wait as `asyncio.sleep(0)` does: the task yields no future, and the loop resumes it in its next iteration."""
    yield


async def at_each_wait(
    shared: Cluster, moment: str, work: Callable[[], Coroutine[Any, Any, None]], after: Callable[[], Awaitable[None]]
) -> int:
    """Cancel the work at each of its waits; the number of waits."""
    for number in range(1, _MOST_WAITS):
        task = asyncio.create_task(cancelled(work(), number, moment))
        done, _ = await asyncio.wait({task}, timeout=100)
        assert done, f"cancelled at wait {number}, and goes on"
        if not task.cancelled():
            task.result()
            return number - 1
        await after()
        await until(lambda: is_free(shared.servers, NAME), f"free after a cancellation at wait {number}")
    raise AssertionError("the work has no end")


@pytest.mark.parametrize("moment", MOMENTS)
async def test_a_free_lock_with_a_body(shared: Cluster, moment: str) -> None:
    async with client_of(shared.urls, **LASTING) as client:
        async with client.lock(NAME):
            sockets = open_sockets()

        async def work() -> None:
            async with client.lock(NAME) as lease:
                await next_turn()
                await lease.extend(6)

        async def after() -> None:
            assert len(asyncio.all_tasks()) == 1
            assert open_sockets() == sockets

        waits = await at_each_wait(shared, moment, work, after)
        assert waits == 4, "acquire, body, extension, release"


@pytest.mark.parametrize("moment", MOMENTS)
async def test_a_lock_without_a_block(shared: Cluster, moment: str) -> None:
    async with client_of(shared.urls, **LASTING) as client:

        async def work() -> None:
            lock = client.lock(NAME)
            await lock.acquire()
            try:
                await without_a_future()
            finally:
                await lock.release()

        async def after() -> None:
            assert len(asyncio.all_tasks()) == 1

        assert await at_each_wait(shared, moment, work, after) >= 3


@pytest.mark.parametrize("process", ["this process", "another process"])
@pytest.mark.parametrize("moment", MOMENTS)
async def test_a_lock_that_another_task_holds(shared: Cluster, moment: str, process: str) -> None:
    """The holder leaves while the cancelled task waits, and a third task waits behind: the third is always served."""
    async with client_of(shared.urls, **LASTING) as client:
        tasks: list[asyncio.Task[None]] = []

        async def hold(holder: Redlock, start: float, seconds: float) -> None:
            await asyncio.sleep(start)
            async with holder.lock(NAME):
                await asyncio.sleep(seconds)

        async def work() -> None:
            tasks.append(asyncio.create_task(hold(client, 0, 0.02)))
            await until(lambda: any(holders(shared.servers, NAME)), "held")
            tasks.append(asyncio.create_task(hold(third, 0.01, 0)))
            async with client.lock(NAME):
                await next_turn()

        async def after() -> None:
            done, pending = await asyncio.wait(tasks, timeout=100)
            assert not pending, "a waiter is not served"
            tasks.clear()
            for task in done:
                task.result()
            parts = client._context.parts()
            assert parts.waiters.local_queue.length((NAME,)) == 0
            assert not parts.window.attempts
            assert not parts.connections.executions

        async with client_of(shared.urls, **LASTING) as other:
            third = client if process == "this process" else other
            assert await at_each_wait(shared, moment, work, after) >= 4
            await asyncio.wait(tasks)


@pytest.mark.parametrize("moment", MOMENTS)
async def test_a_client_that_is_not_connected_yet(shared: Cluster, moment: str) -> None:
    async def work() -> None:
        async with client_of(shared.urls, **LASTING) as cold, cold.lock(NAME):
            await without_a_future()

    async def after() -> None:
        assert len(asyncio.all_tasks()) == 1

    assert await at_each_wait(shared, moment, work, after) >= 4


@pytest.mark.parametrize("is_refused", [False, True])
async def test_a_woken_task_that_is_cancelled_passes_its_wake_up_on(
    shared: Cluster, monkeypatch: pytest.MonkeyPatch, *, is_refused: bool
) -> None:
    """The task is cancelled between two attempts, after a wake-up without use. The node may refuse the command."""
    async with client_of(shared.urls, **LASTING) as client:
        parts, key = client._context.parts(), wake_key("woken")
        node = waiting_order(("woken",), 5)[0]
        for redis in raws(shared.servers):
            redis.set("woken", "another holder", px=60_000)
        woken = False

        def retry(*_: object) -> None:
            if woken:
                task.cancel()
                if is_refused:
                    redis.set(key, "no list")

        monkeypatch.setattr(client._context.event_log, "retry", retry)
        task = asyncio.create_task(client.lock("woken").acquire())
        with raw(shared.servers[node]) as redis:
            await until(lambda: redis.info("clients")["blocked_clients"], "the task waits at its node")
            woken = True
            redis.rpush(key, "1")
            await asyncio.wait({task})
            assert task.cancelled()
            if not is_refused:
                await until(lambda: redis.llen(key) == 1, "the wake-up is there for the next waiter")
        assert parts.waiters.local_queue.length(("woken",)) == 0
        ((_, exchange),) = parts.waiters._kept[client._context.nodes[node]]
        await until(lambda: not exchange._is_ignored, "the reply of the node has come")
        assert exchange.is_open is not is_refused
        assert exchange.has_answer is is_refused, "a later waiter would take the reply for a wake-up"
    for redis in raws(shared.servers):
        redis.delete("woken", wake_key("woken"))


async def test_a_wake_up_of_a_blocked_loop_is_passed_on(shared: Cluster) -> None:
    """The wake-up is in the socket, and the loop has not read it when the task is cancelled."""
    key, server = wake_key("asleep"), shared.servers[waiting_order(("asleep",), 5)[0]]
    for redis in raws(shared.servers):
        redis.set("asleep", "another holder", px=60_000)
    async with client_of(shared.urls, **LASTING) as client:
        task = asyncio.create_task(client.lock("asleep").acquire())
        with raw(server) as redis:
            await until(lambda: redis.info("clients")["blocked_clients"], "the task waits at its node")
            redis.rpush(key, "1")
            # The node has answered the waiter before this. Until the cancellation the loop does not run.
            assert redis.ping()
            assert redis.llen(key) == 0
            task.cancel()
            await asyncio.wait({task})
            assert task.cancelled()
            await until(lambda: redis.llen(key) == 1, "the wake-up is there for the next waiter", within=20)
    for redis in raws(shared.servers):
        redis.delete("asleep", wake_key("asleep"))


async def test_a_storm_of_cancellations_leaves_every_lock_free(shared: Cluster) -> None:
    """Tasks that are cancelled at random moments, many at a time, on few names."""
    chance = random.Random(7)

    async with client_of(shared.urls, **LASTING) as client:
        inside = dict.fromkeys(range(5), 0)

        async def one(number: int) -> None:
            async with client.lock(f"storm:{number}"):
                inside[number] += 1
                assert inside[number] == 1
                try:
                    await next_turn()
                finally:
                    inside[number] -= 1

        tasks = [asyncio.create_task(one(number % 5)) for number in range(400)]
        for task in chance.sample(tasks, 200):
            await asyncio.sleep(chance.random() / 1_000)
            task.cancel()
        for task in tasks:
            try:
                await task
            except asyncio.CancelledError:
                assert task.cancelled()
        await until(lambda: all(is_free(shared.servers, f"storm:{number}") for number in range(5)), "free")
        parts = client._context.parts()
        assert not parts.window.attempts
        assert not parts.connections.executions
        assert not parts.window._inside
        assert not parts.waiters.local_queue._queues
