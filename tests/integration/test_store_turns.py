"""Updates of the fenced store that share a lease: each ends, and a slow computation is not repeated."""

from __future__ import annotations

import asyncio
import itertools
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
from redis import Redis

from redlock import ConfigurationError, LockLost
from redlock.fencing import AsyncFencedStore, FencedStore
from tests.integration.asyncio_tools import until

if TYPE_CHECKING:
    from collections.abc import Callable

    from redlock.testing.redis_server import Server

NAME, WITHIN = "hits", 60.0


class Watched(NamedTuple):
    """A lease that reports a wait: only an update that waits needs the remaining time."""

    waits: Callable[[], object]
    seconds: float = 60.0
    fence: int = 7
    owner: str = "me"

    def remaining(self) -> float:
        """Seconds until the deadline."""
        self.waits()
        return self.seconds


def one_more(value: str | None) -> str:
    """An increment."""
    return str(int(value or 0) + 1)


def test_a_slow_change_in_a_thread_is_computed_once(broker: Server) -> None:
    waiting, calls = threading.Event(), []
    with Redis.from_url(broker.url) as redis, ThreadPoolExecutor(2) as pool:
        store, lease = FencedStore(redis), Watched(waiting.set)

        def slow(value: str | None) -> str:
            calls.append("slow")
            if len(calls) == 1:
                second.append(pool.submit(store.update, NAME, lease, "op-2", fast))
            assert waiting.wait(WITHIN), "the second update did not wait"
            return one_more(value)

        def fast(value: str | None) -> str:
            calls.append("fast")
            return one_more(value)

        second: list[object] = []
        store.update(NAME, lease, "op-1", slow)
        pool.shutdown()
        assert calls == ["slow", "fast"]
        assert store.read_unfenced(NAME) == "2"
        assert not list(store._turns._last), "a turn that ended is kept"


async def test_a_slow_change_in_a_task_is_computed_once(broker: Server) -> None:
    calls: list[str] = []
    waiting = asyncio.Event()
    lease = Watched(waiting.set)

    async def slow(value: str | None) -> str:
        calls.append("slow")
        await asyncio.wait_for(waiting.wait(), WITHIN)
        return one_more(value)

    def fast(value: str | None) -> str:
        calls.append("fast")
        return one_more(value)

    async with AsyncFencedStore(broker.url) as store:
        await asyncio.gather(
            store.update(NAME, lease, "op-1", slow), *(store.update(NAME, lease, f"op-{n}", fast) for n in (2, 3))
        )
        assert not list(store._turns._last), "a turn that ended is kept"
        assert await store.read_unfenced(NAME) == "3"
    assert calls == ["slow", "fast", "fast"]


def test_other_leases_and_names_do_not_wait(broker: Server) -> None:
    """An update inside another one would wait for ever if both had the same turn."""
    with Redis.from_url(broker.url) as redis:
        store, lease = FencedStore(redis), Watched(lambda: pytest.fail("the update waits"))
        inner = lambda _: store.update("other", lease, "op-2", one_more).value  # noqa: E731 - as an application writes it
        assert store.update(NAME, lease, "op-1", inner).value == "1"
        newer = lease._replace(fence=8, owner="another")
        outer = lease._replace(fence=9)
        assert store.update("x", outer, "op-3", lambda _: store.update("y", newer, "op-4", one_more).value).value == "1"


async def test_a_cancelled_update_ends_its_turn(broker: Server) -> None:
    waiting, lease = asyncio.Event(), Watched(lambda: None)

    async def endless(_: str | None) -> str:
        waiting.set()
        await asyncio.Event().wait()
        raise AssertionError

    async with AsyncFencedStore(broker.url) as store:
        first = asyncio.create_task(store.update(NAME, lease, "op-1", endless))
        await waiting.wait()
        others = [asyncio.create_task(store.update(NAME, lease, f"op-{number}", one_more)) for number in (2, 3)]
        first.cancel()
        others[0].cancel()
        assert (await asyncio.wait_for(others[1], WITHIN)).value == "1"


def test_updates_of_two_stores_end(broker: Server) -> None:
    """No turn joins two stores: the first update is overtaken twice, and is repeated after a pause."""
    with Redis.from_url(broker.url) as redis:
        store, other, lease = FencedStore(redis), FencedStore(redis), Watched(lambda: None)
        calls: list[str | None] = []

        def overtaken(value: str | None) -> str:
            calls.append(value)
            if len(calls) <= 2:
                other.update(NAME, lease, f"other-{len(calls)}", one_more)
            return one_more(value)

        assert store.update(NAME, lease, "op-1", overtaken).value == "3"
        assert calls == [None, "1", "2"]


async def test_no_update_is_repeated_after_its_lease(broker: Server) -> None:
    lease = Watched(lambda: None, seconds=0.0)
    with Redis.from_url(broker.url) as redis:
        store, other = FencedStore(redis), FencedStore(redis)

        def overtaken(_: str | None) -> str:
            return other.update(NAME, lease, "other", one_more).value

        with pytest.raises(LockLost, match="other operations of the same lease"):
            store.update(NAME, lease, "op-1", overtaken)
        assert store.read_unfenced(NAME) == "1"

    async with AsyncFencedStore(broker.url) as loops, AsyncFencedStore(broker.url) as others:

        async def overtaken_in_a_loop(_: str | None) -> str:
            return (await others.update(NAME, lease, "other-2", one_more)).value

        with pytest.raises(LockLost, match="other operations of the same lease"):
            await loops.update(NAME, lease, "op-1", overtaken_in_a_loop)
        assert await loops.read_unfenced(NAME) == "2"


def test_updates_inside_changes_do_not_wait_for_each_other(broker: Server) -> None:
    both = threading.Barrier(2)
    with Redis.from_url(broker.url) as redis, ThreadPoolExecutor(2) as pool:
        store, lease = FencedStore(redis), Watched(lambda: None)

        def move(source: str, target: str) -> None:
            calls = itertools.count()

            def change(value: str | None) -> str:
                if next(calls) == 0:
                    both.wait(WITHIN)
                store.update(target, lease, f"from-{source}", one_more)
                return one_more(value)

            store.update(source, lease, f"of-{source}", change)

        for moving in [pool.submit(move, "a", "b"), pool.submit(move, "b", "a")]:
            moving.result(WITHIN)
        assert (store.read_unfenced("a"), store.read_unfenced("b")) == ("2", "2")


async def test_tasks_inside_changes_do_not_wait_for_each_other(broker: Server) -> None:
    async with AsyncFencedStore(broker.url) as store:
        lease, changing = Watched(lambda: None), set[str]()

        async def move(source: str, target: str) -> None:
            async def change(value: str | None) -> str:
                changing.add(source)
                await until(lambda: len(changing) == 2, "both changes")
                await store.update(target, lease, f"from-{source}", one_more)
                return one_more(value)

            await store.update(source, lease, f"of-{source}", change)

        await asyncio.wait_for(asyncio.gather(move("a", "b"), move("b", "a")), WITHIN)
        assert (await store.read_unfenced("a"), await store.read_unfenced("b")) == ("2", "2")


async def test_an_update_inside_its_own_change_is_refused(broker: Server) -> None:
    lease = Watched(lambda: None)
    with Redis.from_url(broker.url) as redis:
        store = FencedStore(redis)
        with pytest.raises(ConfigurationError, match="inside its own change"):
            store.update(NAME, lease, "outer", lambda _: store.update(NAME, lease, "inner", one_more).value)
        assert store.read_unfenced(NAME) is None
    async with AsyncFencedStore(broker.url) as loops:

        async def change(_: str | None) -> str:
            return (await loops.update(NAME, lease, "inner", one_more)).value

        with pytest.raises(ConfigurationError, match="inside its own change"):
            await loops.update(NAME, lease, "outer", change)


@pytest.mark.parametrize("name", [["hits"], None, ""])
def test_an_update_refuses_a_name_that_is_none(broker: Server, name: Any) -> None:  # noqa: ANN401 - whatever is passed
    with Redis.from_url(broker.url) as redis, pytest.raises(ConfigurationError, match="name"):
        FencedStore(redis).update(name, Watched(lambda: None), "op", one_more)
