"""The asyncio lock: every behaviour that redis-py promises for its own, and those that a quorum adds."""

from __future__ import annotations

import asyncio
import gc
import time
from typing import Any

import pytest

from redlock import ConfigurationError, LockContended, LockLost, NotHeld, Outcome, QuorumUnavailable, RedlockError
from redlock._clock import now_ms
from redlock._locking.wait_publisher import WaitPublisher
from redlock.asyncio import Lock, Redlock
from redlock.testing.redis_server import Cluster
from tests.integration import tools
from tests.integration.asyncio_tools import client_of, next_turn, open_sockets, until
from tests.integration.tools import LASTING, blocked_clients, holders, is_free, raw, raws, run_out

NAME = "foo"


def left_ms(nodes: Cluster, name: str = NAME) -> int:
    """How long the first node keeps a lock."""
    with raw(nodes.servers[0]) as redis:
        return int(redis.pttl(name))


def change_hands(nodes: Cluster, name: str = NAME) -> None:
    """Another holder has the lock on every node."""
    for redis in raws(nodes.servers):
        redis.set(name, "another", px=300)


async def test_a_lock_is_on_all_nodes_until_its_release(shared: Cluster) -> None:
    async with client_of(shared.urls) as client:
        lock = client.lock(NAME)
        assert await lock.acquire(blocking=False)
        await until(lambda: holders(shared.servers, NAME) == [lock.lease.owner] * 5, "all nodes have the lock")
        await lock.release()
        await until(lambda: is_free(shared.servers, NAME), "all nodes have deleted the lock")


async def test_locked_and_owned_tell_who_holds(shared: Cluster) -> None:
    async with client_of(shared.urls) as client:
        first, second = client.lock(NAME), client.lock(NAME)
        assert (await first.locked(), await first.owned(), await second.owned()) == (False, False, False)
        assert await first.acquire(blocking=False)
        assert (await second.locked(), await first.owned(), await second.owned()) == (True, True, False)
        holder = await client.holder(NAME)
        assert holder is not None
        assert holder.fence == first.fence
        assert "Task-" in holder.holder
        assert not await second.acquire(blocking=False)
        await first.release()
        assert (await second.locked(), await first.owned(), await client.holder(NAME)) == (False, False, None)


async def test_threads_and_asyncio_exclude_each_other(shared: Cluster) -> None:
    async with client_of(shared.urls) as client:
        with tools.client_of(shared.urls, allow_event_loop=True) as threads:
            async with client.lock(NAME):
                assert not threads.lock(NAME).acquire(blocking=False)
            with threads.lock(NAME) as lease:
                assert not await client.lock(NAME).acquire(blocking=False)
                waiting = asyncio.create_task(client.lock(NAME).acquire())
                await until(lambda: client._context.parts().waiters.local_queue.length((NAME,)), "the task waits")
            assert await waiting
            assert (await client.holder(NAME)).fence > 0  # type: ignore[union-attr]  # held
            assert lease.is_held is False
    run_out(shared.servers, NAME)


@pytest.mark.parametrize("ttl", [99, 99.5])
async def test_the_ttl_is_that_of_the_lock(nodes: Cluster, ttl: float) -> None:
    async with client_of(nodes.urls, **LASTING) as client:
        lock = client.lock(NAME, ttl=ttl)
        assert await lock.acquire()
        await until(lambda: 0 < left_ms(nodes) <= ttl * 1000, "the lock on the first node")
        assert ttl - 50 < lock.lease.remaining() < ttl
        await lock.release()


async def test_a_wait_ends_at_the_blocking_timeout(shared: Cluster) -> None:
    async with client_of(shared.urls) as client, client.lock(NAME):
        began = time.monotonic()
        assert not await client.lock(NAME, blocking_timeout=0.2).acquire()
        assert time.monotonic() - began > 0.15
        assert not await client.lock(NAME).acquire(blocking_timeout=0)
        with pytest.raises(LockContended, match="held by"):
            async with client.lock(NAME, blocking_timeout=0.05):
                pytest.fail("two holders")


async def test_a_block_holds_the_lock_and_gives_the_lease(shared: Cluster) -> None:
    async with client_of(shared.urls) as client:
        async with client.lock(NAME) as lease:
            assert (await client.holder(NAME)).fence == lease.fence  # type: ignore[union-attr]  # held
            lease.ensure_valid()
        assert await client.holder(NAME) is None
        assert await lease.outcome() is Outcome.RELEASED
    assert not lease.is_held


async def test_an_error_of_the_body_leaves_the_block(shared: Cluster) -> None:
    async with client_of(shared.urls) as client:
        with pytest.raises(ZeroDivisionError):
            async with client.lock(NAME):
                change_hands(shared)
                raise ZeroDivisionError
        await until(lambda: is_free(shared.servers, NAME), "the other holder's time is over")


async def test_a_lock_that_is_not_held_is_refused(shared: Cluster) -> None:
    async with client_of(shared.urls) as client:
        lock = client.lock(NAME)
        for call in (lock.release(), lock.extend(1), lock.reacquire()):
            with pytest.raises(NotHeld, match="not held by this Lock"):
                await call
        with pytest.raises(NotHeld):
            _ = lock.fence


@pytest.mark.parametrize("call", ["release", "extend", "reacquire"])
async def test_a_lock_that_another_holder_has_is_lost(shared: Cluster, call: str) -> None:
    async with client_of(shared.urls) as client:
        lock = client.lock(NAME)
        await lock.acquire()
        change_hands(shared)
        with pytest.raises(LockLost, match="quorum of nodes no longer"):
            await (lock.extend(1) if call == "extend" else getattr(lock, call)())
        if call == "release":
            with pytest.raises(NotHeld):
                await lock.release()
        await until(lambda: is_free(shared.servers, NAME), "the other holder's time is over")


async def test_an_extension_adds_to_the_time_that_is_left(nodes: Cluster) -> None:
    async with client_of(nodes.urls, **LASTING) as client:
        lock = client.lock(NAME, ttl=60.0)
        await lock.acquire()
        assert await lock.extend(80.0)
        assert 90.0 < lock.lease.remaining() < 140.0
        assert await lock.extend(5, True)  # noqa: FBT003 - by position, as with redis-py
        assert lock.lease.remaining() > 80.0, "never shortens"
        with pytest.raises(ConfigurationError, match="max_ttl"):
            await lock.extend(240)
        await lock.release()


async def test_reacquire_sets_the_ttl_again(nodes: Cluster) -> None:
    async with client_of(nodes.urls, **LASTING) as client:
        lock = client.lock(NAME)
        await lock.acquire()
        for redis in raws(nodes.servers):
            redis.pexpire(NAME, 50_000)
        assert await lock.reacquire()
        await until(lambda: left_ms(nodes) > 100_000, "the node has the whole time again")
        await lock.release()


@pytest.mark.parametrize(
    ("option", "right"),
    [
        ("timeout", "`ttl`"), ("sleep", "polling"), ("lock_class", "one class"), ("thread_local", "held by the code"),
        ("raise_on_release_error", "LockLost"),
    ],
)  # fmt: skip
def test_an_option_of_redis_py_is_refused_by_name(option: str, right: str) -> None:
    options: dict[str, Any] = {option: 1}
    with pytest.raises(ConfigurationError, match=f"lock.. has no option '{option}'.*{right}"):
        Redlock().lock(NAME, **options)


async def test_the_options_of_acquire_are_checked() -> None:
    lock = Redlock().lock(NAME)
    token: dict[str, Any] = {"token": "mine"}
    with pytest.raises(ConfigurationError, match="owner token"):
        await lock.acquire(**token)
    with pytest.raises(ConfigurationError, match="True or False"):
        await lock.acquire(0.1)  # type: ignore[arg-type]  # what redis-py calls `sleep`
    with pytest.raises(ConfigurationError, match="blocking_timeout"):
        await lock.acquire(blocking_timeout=-1)
    with pytest.raises(ConfigurationError, match="on_lost is 'stop'"):
        Redlock().lock(NAME, on_lost="stop")  # type: ignore[arg-type]  # wrong on purpose
    with pytest.raises(ConfigurationError, match="async with"):
        await Redlock().lock(NAME, on_lost="cancel").acquire()


async def test_any_task_may_release_a_lock(shared: Cluster) -> None:
    async with client_of(shared.urls) as client:
        lock = client.lock(NAME)
        await asyncio.create_task(lock.acquire())
        assert await lock.owned()
        await asyncio.create_task(lock.release())
        assert not await lock.locked()


async def test_a_set_is_acquired_all_or_nothing(shared: Cluster) -> None:
    async with client_of(shared.urls) as client:
        async with client.lock(["set:b", "set:a"]) as lease:
            assert lease.resource == "set:a, set:b"
            assert not await client.lock("set:a", blocking=False).acquire()
            assert not await client.lock(["set:b", "set:c"], blocking=False).acquire()
            assert await client.lock(["set:c"]).acquire()
        assert is_free(shared.servers, "set:c") is False
    run_out(shared.servers, "set:c")


async def enter(lock: Lock) -> None:
    async with lock:
        pytest.fail("another task shares nothing")


async def test_a_task_may_enter_its_own_lock_again(shared: Cluster) -> None:
    async with client_of(shared.urls) as client:
        lock = client.lock(NAME, reentrant=True, blocking=False)
        async with lock as outer:
            async with lock as inner:
                assert inner.fence == outer.fence
                await inner.extend(2.0)
            with pytest.raises(NotHeld):
                inner.ensure_valid()
            await lock.acquire()
            await lock.release()
            with pytest.raises(LockContended):
                await asyncio.create_task(enter(lock))
            assert outer.is_held
        assert await client.holder(NAME) is None


async def test_a_block_that_was_left_early_ends_no_other_block(shared: Cluster) -> None:
    async with client_of(shared.urls) as client:
        lock = client.lock(NAME, reentrant=True)
        async with lock as outer:
            with pytest.raises(NotHeld):
                async with lock as inner:
                    assert await inner.release() is Outcome.STILL_HELD
            assert await lock.owned()
            with pytest.raises(NotHeld):
                await inner.release()
        assert await outer.outcome() is Outcome.RELEASED


async def test_an_acquire_in_a_block_outlives_the_block(shared: Cluster) -> None:
    async with client_of(shared.urls) as client:
        inner = client.lock(NAME, reentrant=True)
        async with client.lock(NAME) as outer:
            assert await inner.acquire()
        await until(lambda: holders(shared.servers, NAME) == [outer.owner] * 5, "the lock on all nodes")
        await inner.release()
        assert is_free(shared.servers, NAME)


async def test_nested_blocks_release_at_the_end_of_the_outer(shared: Cluster) -> None:
    async with client_of(shared.urls) as client:
        lock = client.lock(NAME, reentrant=True)
        async with lock, lock, lock:
            assert await lock.owned()
        assert not await lock.locked()
        assert await lock.acquire()
        async with lock:
            await lock.release()
            assert await lock.locked(), "the block inside shares the lease"
        assert not await lock.locked()


async def test_a_task_that_waits_for_itself_is_refused(shared: Cluster) -> None:
    async with client_of(shared.urls) as client, client.lock(NAME):
        with pytest.raises(RedlockError, match="it would wait for itself"):
            await client.lock(NAME).acquire()
        assert not await client.lock(NAME, blocking_timeout=0.02).acquire()


async def test_each_block_releases_its_own_lease(shared: Cluster) -> None:
    """Two tasks share a Lock object, and the first loses its lease while it is inside."""
    async with client_of(shared.urls) as client:
        lock, inside = client.lock(NAME, renew=False), asyncio.Event()

        async def first() -> None:
            with pytest.raises(LockLost):
                async with lock:
                    run_out(shared.servers, NAME)
                    await inside.wait()

        task = asyncio.create_task(first())
        await until(lambda: is_free(shared.servers, NAME) and lock._leases, "the first lease is lost")
        async with lock as second:
            inside.set()
            await task
            assert second.is_held
            assert await lock.owned()


async def test_tokens_grow(shared: Cluster) -> None:
    fences = []
    for _ in range(2):
        async with client_of(shared.urls) as client:
            for _ in range(20):
                async with client.lock(NAME) as lease:
                    fences.append(lease.fence)
    assert fences == sorted(set(fences))


async def test_a_token_that_the_resource_has_seen_is_exceeded(shared: Cluster) -> None:
    async with client_of(shared.urls) as client:
        seen = time.time_ns() // 1_000 + 60_000_000
        client.observe_fence("seen", seen)
        async with client.lock("seen") as lease:
            assert lease.fence > seen


async def test_a_release_can_do_without_the_replies(shared: Cluster) -> None:
    async with client_of(shared.urls) as client:
        async with client.lock(NAME, wait_for_release=False) as lease:
            pass
        assert await lease.outcome() is Outcome.RELEASED
        lock = client.lock(NAME, wait_for_release=False)
        await lock.acquire()
        lease = lock.lease
        await lock.release()
        assert not lease.is_held
    assert is_free(shared.servers, NAME), "the client is closed when the nodes have read everything"


async def test_hundreds_of_tasks_wait_on_one_connection(shared: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    # The thread that reports waits for `redlock status` has a connection of its own.
    monkeypatch.setattr(WaitPublisher, "wake", lambda _: None)
    counted, sockets, waiting = 0, 0, 0

    # On a busy machine no node may count as down: the waiters would move to another node.
    async with client_of(shared.urls, node_timeout=4.0, ttl=9.0) as client:
        before = open_sockets()

        async def one() -> None:
            nonlocal counted, sockets, waiting
            async with client.lock("hot"):
                value = counted
                await next_turn()
                counted = value + 1
                if counted % 100 == 0 and counted < 400:
                    await until(lambda: blocked_clients(shared.servers), "the next task waits at its node")
                    sockets = max(sockets, open_sockets() - before)
                    waiting = max(waiting, blocked_clients(shared.servers))

        await asyncio.gather(*(one() for _ in range(400)))
    assert counted == 400
    assert waiting == 1, "one task waits at a node"
    assert sockets == 6, "five connections for rounds, and one that waits"


async def test_tasks_are_served_in_the_order_of_their_arrival(shared: Cluster) -> None:
    served: list[int] = []

    async def one(number: int) -> None:
        async with client.lock("row"):
            served.append(number)

    async with client_of(shared.urls) as client:
        async with client.lock("row"):
            tasks = [asyncio.create_task(one(number)) for number in range(20)]
            await until(lambda: client._context.parts().waiters.local_queue.length(("row",)) == 20, "all wait")
        await asyncio.gather(*tasks)
    assert served == list(range(20))


async def test_a_cancelled_extension_lets_the_next_extension_go_on(nodes: Cluster) -> None:
    async with client_of(nodes.urls, node_timeout=3.0, ttl=8.0) as client, client.lock(NAME, renew=False) as lease:
        with tools.frozen(*nodes.servers):
            first, second = (asyncio.create_task(lease.extend(7)) for _ in range(2))
            await until(lambda: lease._step is not None, "the first extension is sent", every=0)
            for _ in range(5):
                await next_turn()  # the second extension waits for the first
            first.cancel()
            await asyncio.wait({first})
        await second


async def test_a_dropped_lease_is_not_renewed(shared: Cluster) -> None:
    async with client_of(shared.urls, ttl=0.5) as client:
        block = client.lock("dropped", blocking_timeout=30.0).__aenter__()
        await block
        gc.collect()
        await until(lambda: is_free(shared.servers, "dropped"), "the lease runs out")


async def test_a_lease_is_renewed_beyond_its_ttl(shared: Cluster) -> None:
    async with client_of(shared.urls, ttl=4.5) as client:
        async with client.lock("long") as lease:
            fence, deadline_ms = lease.fence, lease._held().deadline_ms
            await until(lambda: now_ms() > deadline_ms, "the TTL of the acquisition is over")
            lease.ensure_valid()
            assert await client.lock("long").locked()
            assert lease.fence == fence
        lock = client.lock("short")
        await lock.acquire()
        await until(lambda: lock.lease.is_lost, "acquire alone does not renew")
        with pytest.raises(LockLost):
            await lock.release()


async def test_other_settings_are_refused(shared: Cluster) -> None:
    async with client_of(shared.urls) as client, client.lock(NAME), client_of(shared.urls, max_ttl=20) as other:
        with pytest.raises(ConfigurationError, match="all clients must agree"):
            await other.lock("free").acquire()


async def test_addresses_of_one_server_are_refused(shared: Cluster) -> None:
    url = shared.urls[0]
    with pytest.raises(ConfigurationError, match=r"listed twice|are the same server"):
        async with Redlock([url, f"{url}?db=0", f"{url}?socket_timeout=1"]) as client:
            await client.lock(NAME).acquire()


def test_a_client_without_a_loop_is_refused() -> None:
    with pytest.raises(RuntimeError, match="no running event loop"):
        Redlock()._context.parts()


async def test_without_a_quorum_the_reason_is_named() -> None:
    async with client_of([f"redis://127.0.0.1:{port}" for port in (1, 2, 3)]) as client:
        with pytest.raises(QuorumUnavailable, match="connection refused"):
            await client.lock(NAME, blocking=False).acquire()
        with pytest.raises(QuorumUnavailable):
            await client.holder(NAME)
