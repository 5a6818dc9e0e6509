"""Updates of the fenced store that share a lease: each ends, and a slow computation is not repeated."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import gc
import itertools
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from queue import SimpleQueue
from typing import Any, NamedTuple

import pytest
from redis import Redis

from redlock import ConfigurationError, LockLost, Stale
from redlock.fencing import AsyncFencedStore, FencedStore, _turns
from redlock.fencing.redis_store import Written
from redlock.testing.redis_server import Server
from tests.integration.asyncio_tools import until
from tests.integration.test_store import one_more
from tests.integration.tools import eventually

NAME, WITHIN = "hits", 60.0


class Watched(NamedTuple):
    """A lease that reports a wait: only an update that waits needs the remaining time."""

    waits: Callable[[], object]
    seconds: float = 60.0
    fence: int = 7
    owner: str = "me"

    def remaining(self) -> float:
        self.waits()
        return self.seconds


class Change:
    """Notes its name and adds one, after an event if there is one.

    Args:
        name: The name in the notes.
        notes: The changes that were made.
        may_end: The change waits for this event.
    """

    def __init__(self, name: str, notes: list[str], may_end: threading.Event | None = None) -> None:
        self.begun = threading.Event()
        self._name, self._notes, self._may_end = name, notes, may_end

    def __call__(self, value: str | None) -> str:
        self.begun.set()
        assert self._may_end is None or self._may_end.wait(WITHIN)
        self._notes.append(self._name)
        return one_more(value)


class AsyncChange:
    """As `Change`, in a task."""

    def __init__(self, name: str, notes: list[str], may_end: asyncio.Event) -> None:
        self.begun = asyncio.Event()
        self._name, self._notes, self._may_end = name, notes, may_end

    async def __call__(self, value: str | None) -> str:
        self.begun.set()
        await self._may_end.wait()
        self._notes.append(self._name)
        return one_more(value)


async def begun_update(store: AsyncFencedStore, lease: Watched) -> tuple[asyncio.Task[Written], asyncio.Event]:
    """An update in the middle of its `change`, and the event that ends the change."""
    slow = AsyncChange("slow", [], may_end := asyncio.Event())
    update = asyncio.create_task(store.update(NAME, lease, "op-1", slow))
    await slow.begun.wait()
    return update, may_end


def test_a_slow_change_in_a_thread_is_computed_once(broker: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also if a single wait for the turn is shorter than the change."""
    monkeypatch.setattr(_turns, "_LONGEST_SECONDS", 0.01)
    waits, calls = list[int](), list[str]()
    with Redis.from_url(broker.url) as redis, ThreadPoolExecutor(2) as pool:
        store, lease = FencedStore(redis), Watched(lambda: waits.append(1))

        def slow(value: str | None) -> str:
            calls.append("slow")
            if len(calls) == 1:
                second.append(pool.submit(store.update, NAME, lease, "op-2", fast))
                eventually(lambda: len(waits) > 2 or len(calls) > 1, "the second update waits again", within=WITHIN)
            return one_more(value)

        fast, second = Change("fast", calls), list[object]()
        store.update(NAME, lease, "op-1", slow)
        pool.shutdown()
        assert calls == ["slow", "fast"]
        assert store.read_unfenced(NAME) == "2"
        assert not list(store._turns._queues), "a turn that ended is kept"
        assert not _turns._changing.get(), "an update that ended is kept"


async def test_a_slow_change_in_a_task_is_computed_once(broker: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a thread."""
    monkeypatch.setattr(_turns, "_LONGEST_SECONDS", 0.01)
    waits, calls = list[int](), list[str]()
    lease = Watched(lambda: waits.append(1))

    async def slow(value: str | None) -> str:
        calls.append("slow")
        await until(lambda: len(waits) > 3 or len(calls) > 1, "the other updates wait again", within=WITHIN)
        return one_more(value)

    fast = Change("fast", calls)
    async with AsyncFencedStore(broker.url) as store:
        await asyncio.gather(
            store.update(NAME, lease, "op-1", slow), *(store.update(NAME, lease, f"op-{n}", fast) for n in (2, 3))
        )
        gc.collect()  # redis-py's error for a script that is new at the server keeps the frames of the first update
        assert not list(store._turns._queues), "a turn that ended is kept"
        assert await store.read_unfenced(NAME) == "3"
    assert calls == ["slow", "fast", "fast"]


def test_a_thread_waits_for_no_later_update(broker: Server) -> None:
    """A loop of updates asks for its next turn before the waiting thread can wake."""
    waiting, calls = threading.Event(), list[str]()
    change = Change("loop", calls, waiting)
    with Redis.from_url(broker.url) as redis, ThreadPoolExecutor(1) as pool:
        store = FencedStore(redis)

        def loop() -> None:
            for number in range(9):
                store.update(NAME, Watched(lambda: None), f"op-{number}", change)

        looping = pool.submit(loop)
        assert change.begun.wait(WITHIN)
        assert store.update(NAME, Watched(waiting.set), "once", Change("once", calls)).value == "2"
        looping.result(WITHIN)
    assert calls == ["loop", "once", *["loop"] * 8]


async def test_a_task_waits_for_no_later_update(broker: Server) -> None:
    """As a thread."""
    waiting, calls = asyncio.Event(), list[str]()
    change = AsyncChange("loop", calls, waiting)
    async with AsyncFencedStore(broker.url) as store:

        async def loop() -> None:
            for number in range(9):
                await store.update(NAME, Watched(lambda: None), f"op-{number}", change)

        looping = asyncio.create_task(loop())
        await change.begun.wait()
        assert (await store.update(NAME, Watched(waiting.set), "once", Change("once", calls))).value == "2"
        await looping
    assert calls == ["loop", "once", *["loop"] * 8]


def test_other_leases_and_names_do_not_wait(broker: Server) -> None:
    """An update inside another one would wait for ever if both had the same turn."""
    with Redis.from_url(broker.url) as redis:
        store, lease = FencedStore(redis), Watched(lambda: pytest.fail("the update waits"))
        inner = lambda _: store.update("other", lease, "op-2", one_more).value  # noqa: E731 - as an application writes it
        assert store.update(NAME, lease, "op-1", inner).value == "1"
        newer = lease._replace(fence=8, owner="another")
        outer = lease._replace(fence=9)
        assert store.update("x", outer, "op-3", lambda _: store.update("y", newer, "op-4", one_more).value).value == "1"


def test_no_thread_waits_for_another_lease_or_name(broker: Server) -> None:
    lease = Watched(lambda: pytest.fail("the update waits"))
    slow = Change("slow", [], go_on := threading.Event())
    with Redis.from_url(broker.url) as redis, ThreadPoolExecutor(1) as pool:
        store = FencedStore(redis)
        first = pool.submit(store.update, NAME, lease, "op-1", slow)
        try:
            assert slow.begun.wait(WITHIN)
            assert store.update("other", lease, "op-2", one_more).value == "1"
            assert store.update(NAME, lease._replace(fence=8), "op-3", one_more).value == "1"
        finally:
            go_on.set()
        with pytest.raises(Stale):
            first.result(WITHIN)


async def test_no_task_waits_for_another_lease_or_name(broker: Server) -> None:
    lease = Watched(lambda: pytest.fail("the update waits"))
    async with AsyncFencedStore(broker.url) as store:
        first, may_end = await begun_update(store, lease)
        assert (await store.update("other", lease, "op-2", one_more)).value == "1"
        assert (await store.update(NAME, lease._replace(fence=8), "op-3", one_more)).value == "1"
        may_end.set()
        with pytest.raises(Stale):
            await first


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


@pytest.mark.parametrize("comes", ["before", "after"])
async def test_a_cancelled_update_lets_no_other_run_early(broker: Server, comes: str) -> None:
    """The update behind waits for the update before, which still runs."""
    waits, go_on, calls = list[int](), asyncio.Event(), list[str]()
    lease = Watched(lambda: waits.append(1))
    slow, fast = AsyncChange("slow", calls, go_on), Change("fast", calls)
    async with AsyncFencedStore(broker.url) as store:
        first = asyncio.create_task(store.update(NAME, lease, "op-1", slow))
        await slow.begun.wait()
        second = asyncio.create_task(store.update(NAME, lease, "op-2", fast))
        await until(lambda: len(waits) == 1, "the second waits")
        if comes == "before":
            third = asyncio.create_task(store.update(NAME, lease, "op-3", fast))
            await until(lambda: len(waits) == 2, "the third waits")
        second.cancel()
        with pytest.raises(asyncio.CancelledError):
            await second
        if comes == "after":
            third = asyncio.create_task(store.update(NAME, lease, "op-3", fast))
        # A later update of another name: by its end the third would have called `fast`.
        await store.update("other", lease, "op-4", one_more)
        await store.update("other", lease, "op-5", one_more)
        assert calls == []
        go_on.set()
        assert [(await first).value, (await third).value] == ["1", "2"]
    assert calls == ["slow", "fast"]


@pytest.mark.parametrize("comes", ["before", "after"])
def test_an_interrupted_update_lets_no_other_run_early(
    broker: Server, comes: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in a task, for a thread whose wait ends with an exception before or after the third update comes."""
    monkeypatch.setattr(_turns, "_LONGEST_SECONDS", 0.01)
    interrupted, go_on = threading.Event(), threading.Event()
    waits: SimpleQueue[str] = SimpleQueue()
    calls = list[str]()
    slow, fast = Change("slow", calls, go_on), Change("fast", calls)

    def interrupt() -> None:
        waits.put("second")
        assert interrupted.wait(WITHIN)
        raise ZeroDivisionError

    with Redis.from_url(broker.url) as redis, ThreadPoolExecutor(3) as pool:
        store = FencedStore(redis)

        def interrupted_update() -> None:
            # The error would keep the frame of the update, and with it its turn.
            with contextlib.suppress(ZeroDivisionError):
                store.update(NAME, Watched(interrupt), "op-2", fast)

        def begin_third() -> Future[Written]:
            begun = pool.submit(store.update, NAME, Watched(lambda: waits.put("third")), "op-3", fast)
            assert waits.get(timeout=WITHIN) == "third", "the third update waits"
            return begun

        try:
            first = pool.submit(store.update, NAME, Watched(lambda: None), "op-1", slow)
            assert slow.begun.wait(WITHIN)
            second = pool.submit(interrupted_update)
            assert waits.get(timeout=WITHIN) == "second"
            if comes == "before":
                third = begin_third()
            interrupted.set()
            second.result(WITHIN)
            if comes == "after":
                third = begin_third()
            while not waits.empty():
                waits.get()
            assert [waits.get(timeout=WITHIN) for _ in range(2)] == ["third"] * 2, (
                "the third update waits for the first"
            )
        finally:
            interrupted.set()
            go_on.set()
        assert [first.result(WITHIN).value, third.result(WITHIN).value] == ["1", "2"]
    assert calls == ["slow", "fast"]


async def test_an_update_after_the_change_that_spawned_it_runs(broker: Server) -> None:
    """A task has inherited the mark of a `change` that has ended."""
    lease, spawned, is_written = Watched(lambda: None), list[asyncio.Task[str]](), asyncio.Event()
    async with AsyncFencedStore(broker.url) as store:

        async def audit() -> str:
            await is_written.wait()
            return (await store.update(NAME, lease, "audit", one_more)).value

        def change(value: str | None) -> str:
            spawned.append(asyncio.create_task(audit()))
            return one_more(value)

        assert (await store.update(NAME, lease, "outer", change)).value == "1"
        is_written.set()
        assert await spawned[0] == "2"


def test_an_update_in_a_copy_of_an_ended_change_runs(broker: Server) -> None:
    """As a task, a thread with a copy of the context has the mark of a `change` that has ended."""
    lease, contexts = Watched(lambda: None), list[contextvars.Context]()

    def change(value: str | None) -> str:
        contexts.append(contextvars.copy_context())
        return one_more(value)

    with Redis.from_url(broker.url) as redis, ThreadPoolExecutor(1) as pool:
        store = FencedStore(redis)
        assert store.update(NAME, lease, "outer", change).value == "1"
        later = pool.submit(contexts[0].run, store.update, NAME, lease, "of a copy", one_more)
        assert later.result(WITHIN).value == "2"


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
async def test_an_update_refuses_a_name_that_is_none(broker: Server, name: Any) -> None:  # noqa: ANN401 - whatever is passed
    lease = Watched(lambda: None)
    with Redis.from_url(broker.url) as redis, pytest.raises(ConfigurationError, match="name"):
        FencedStore(redis).update(name, lease, "op", one_more)
    async with AsyncFencedStore(broker.url) as loops:
        with pytest.raises(ConfigurationError, match="name"):
            await loops.update(name, lease, "op", one_more)


async def test_a_task_of_an_earlier_change_is_inside_its_update(broker: Server) -> None:
    """The `change` runs a second time, and awaits the task: that would wait for the end of this update."""
    lease, may_update = Watched(lambda: None), asyncio.Event()
    async with AsyncFencedStore(broker.url) as store, AsyncFencedStore(broker.url) as other:
        tasks: list[asyncio.Task[Written]] = []

        async def late() -> Written:
            await may_update.wait()
            return await store.update(NAME, lease, "late", one_more)

        async def change(value: str | None) -> str:
            if not tasks:
                tasks.append(asyncio.create_task(late()))
                await other.update(NAME, lease, "overtakes", one_more)
                return one_more(value)
            may_update.set()
            return (await tasks[0]).value

        with pytest.raises(ConfigurationError, match="inside its own change"):
            await asyncio.wait_for(store.update(NAME, lease, "outer", change), WITHIN)


async def test_cancelled_updates_leave_no_queue_behind(broker: Server) -> None:
    waits, cancelled = list[int](), list[str]()
    lease = Watched(lambda: waits.append(1))
    async with AsyncFencedStore(broker.url) as store:
        first, may_end = await begun_update(store, lease)
        (queue,) = store._turns._queues.values()
        while len(cancelled) < 3:
            task = asyncio.create_task(store.update(NAME, lease, f"cancelled-{len(cancelled)}", one_more))
            await until(lambda: len(waits) > len(cancelled), "the update waits")
            task.cancel()
            await asyncio.wait({task})
            cancelled.append(task.get_name())
        assert list(store._turns._queues.values()) == [queue]
        assert len(queue) == 1, "only the turn of the first"
        may_end.set()
        assert (await first).value == "1"
