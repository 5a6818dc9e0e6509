"""A `Lock` object that several threads, tasks or generators share: the end of a block ends the lease of this block."""

from __future__ import annotations

import asyncio
import threading
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any

import pytest
from greenlet import greenlet

from redlock import Lease, Lock, LockLost, NotHeld, Redlock
from redlock._locking import lock_leases
from redlock.asyncio import Lease as AsyncLease
from redlock.asyncio import Lock as AsyncLock
from redlock.testing.redis_server import Cluster
from tests.integration import tools
from tests.integration.asyncio_tools import client_of
from tests.integration.tools import is_free, run_out

NAME = "account:42"


@pytest.fixture
def client(shared: Cluster) -> Iterator[Redlock]:
    with tools.client_of(shared.urls) as redlock:
        yield redlock


def block(lock: Lock) -> Iterator[Lease]:
    """A block in a generator, which waits inside."""
    with lock as lease:
        yield lease


def ended_early(lock: Lock) -> Iterator[Lease]:
    """The same, but the body releases the lock first."""
    with lock as lease:
        lock.release()
        yield lease


def in_a_block_of_another_thread(lock: Lock, end_first: Callable[[], object]) -> None:
    """Run the call while another thread is in a block with the lock, and check that the block keeps its lease."""
    inside, ended = threading.Event(), threading.Event()

    def hold() -> None:
        with lock as lease:
            inside.set()
            assert ended.wait(30)
            assert lease.is_held
            assert lock.owned()

    with ThreadPoolExecutor(1) as other:
        holding = other.submit(hold)
        assert inside.wait(30)
        try:
            end_first()
        finally:
            ended.set()
        holding.result(30)


@pytest.mark.parametrize(("enter", "error"), [(ended_early, NotHeld), (block, LockLost)], ids=["released", "lost"])
def test_an_ended_lease_ends_no_block_of_another_thread(
    shared: Cluster, client: Redlock, enter: Callable[[Lock], Iterator[Lease]], error: type[Exception]
) -> None:
    lock = client.lock(NAME, renew=enter is ended_early, thread_local=False)
    first = enter(lock)
    next(first)
    run_out(shared.servers, NAME)

    def end_first() -> None:
        with pytest.raises(error):
            next(first)

    in_a_block_of_another_thread(lock, end_first)


def test_a_plain_block_ends_no_block_of_another_thread(client: Redlock) -> None:
    """The blocks are in no generator: the thread tells one block from the other."""
    lock = client.lock(NAME, thread_local=False)
    with ExitStack() as stack:
        stack.enter_context(lock)
        lock.release()

        def end_first() -> None:
            with pytest.raises(NotHeld):
                stack.close()

        in_a_block_of_another_thread(lock, end_first)


def test_a_second_release_ends_no_block_of_another_thread(client: Redlock) -> None:
    lock = client.lock(NAME, thread_local=False)

    def use_again() -> None:
        for use in (lock.release, lock.reacquire, lambda: lock.fence):
            with pytest.raises(NotHeld):
                use()

    with pytest.raises(NotHeld), lock:
        lock.release()
        in_a_block_of_another_thread(lock, use_again)


@pytest.mark.parametrize("thread_local", [True, False])
def test_each_generator_of_a_thread_ends_its_own_block(client: Redlock, thread_local: bool) -> None:
    lock = client.lock(NAME, thread_local=thread_local)
    first, second = ended_early(lock), block(lock)
    next(first)
    lease = next(second)
    with pytest.raises(NotHeld):
        next(first)
    assert lease.is_held
    assert lock.owned()
    assert next(second, None) is None


@pytest.mark.parametrize("thread_local", [True, False])
def test_a_generator_can_end_its_block_in_another_thread(shared: Cluster, client: Redlock, thread_local: bool) -> None:
    """As the dependencies of a web framework: that thread has a block of its own by then."""
    lock = client.lock(NAME, renew=False, thread_local=thread_local)
    first, second = block(lock), block(lock)
    with ThreadPoolExecutor(1) as other:
        next(first)
        assert other.submit(lock.owned).result(30) is not thread_local
        run_out(shared.servers, NAME)
        lease = other.submit(next, second).result(30)
        with pytest.raises(LockLost):
            other.submit(next, first).result(30)
    assert lease.is_held
    assert next(second, None) is None
    assert is_free(shared.servers, NAME)


@pytest.mark.parametrize("thread_local", [True, False])
def test_released_blocks_of_generators_are_limited(
    client: Redlock, monkeypatch: pytest.MonkeyPatch, thread_local: bool
) -> None:
    monkeypatch.setattr(lock_leases, "_MOST_RELEASED", 3)
    lock, leases = client.lock(NAME, thread_local=thread_local), list[weakref.ref[Lease]]()

    def enter() -> Iterator[None]:
        leases.append(weakref.ref(lock.__enter__()))
        yield
        lock.release()

    for _ in range(10):
        assert list(enter()) == [None]
    assert sum(lease() is not None for lease in leases) == 4


@pytest.mark.parametrize("is_block_last", [True, False])
def test_a_call_means_the_lease_that_was_acquired_last(client: Redlock, is_block_last: bool) -> None:
    lock = client.lock(NAME, reentrant=True)
    generator = block(lock)
    acquires: list[Callable[[], object]] = [lock.acquire, lambda: next(generator)]
    for acquire in acquires if is_block_last else reversed(acquires):
        acquire()
    assert lock.lease._is_block is is_block_last
    lock.release()
    assert lock.lease._is_block
    assert next(generator, None) is None


def test_another_thread_can_end_a_plain_block(shared: Cluster, client: Redlock) -> None:
    stack = ExitStack()
    stack.enter_context(client.lock(NAME, thread_local=False))
    with ThreadPoolExecutor(1) as other:
        other.submit(stack.close).result(30)
    assert is_free(shared.servers, NAME)


def test_an_early_release_of_an_inner_block_ends_no_outer(client: Redlock) -> None:
    lock = client.lock(NAME, reentrant=True)
    with lock as outer:
        with pytest.raises(NotHeld), lock:
            lock.release()
        assert outer.is_held
        assert lock.owned()


def test_a_lock_can_be_entered_again_after_a_release(shared: Cluster, client: Redlock) -> None:
    lock = client.lock(NAME)
    with pytest.raises(NotHeld), lock:
        lock.release()
        with lock as again:
            assert lock.fence == again.fence
        assert is_free(shared.servers, NAME)


def test_blocks_that_never_end_do_not_accumulate(client: Redlock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock_leases, "_MOST_RELEASED", 2)
    lock = client.lock(NAME)
    for _ in range(5):
        lock.__enter__()
        lock.release()
    assert len(lock._leases) == 3


async def async_block(lock: AsyncLock) -> AsyncIterator[AsyncLease]:
    """A block in a generator, which waits inside."""
    async with lock as lease:
        yield lease


@pytest.mark.parametrize("wait_for_release", [True, False])
async def test_an_early_release_ends_no_block_of_another_task(shared: Cluster, wait_for_release: bool) -> None:
    async with client_of(shared.urls) as client:
        lock = client.lock(NAME, wait_for_release=wait_for_release)
        released, entered = asyncio.Event(), asyncio.Event()

        async def first() -> None:
            with pytest.raises(NotHeld):
                async with lock:
                    await lock.release()
                    released.set()
                    await entered.wait()
                    with pytest.raises(NotHeld):
                        await lock.release()
                    with pytest.raises(NotHeld):
                        _ = lock.fence

        task = asyncio.create_task(first())
        await released.wait()
        async with lock as lease:
            entered.set()
            await task
            assert lease.is_held
            assert await lock.owned()


async def test_an_async_generator_ends_its_own_block(shared: Cluster) -> None:
    """The event loop ends an abandoned generator in a task of its own."""
    async with client_of(shared.urls) as client:
        lock = client.lock(NAME, renew=False, blocking_timeout=30)
        first, second = async_block(lock), async_block(lock)
        await first.__anext__()
        run_out(shared.servers, NAME)
        lease = await second.__anext__()
        with pytest.raises(LockLost):
            await asyncio.create_task(first.__anext__())  # type: ignore[arg-type]  # also a coroutine
        assert lease.is_held
        assert await lock.owned()
        with pytest.raises(StopAsyncIteration):
            await second.__anext__()
        assert is_free(shared.servers, NAME)


async def test_another_task_can_end_a_block(shared: Cluster) -> None:
    """As a fixture: its start and its end run in two tasks."""
    async with client_of(shared.urls) as client:
        lock = client.lock(NAME)
        await asyncio.create_task(lock.__aenter__())
        await lock.__aexit__(None, None, None)
        assert is_free(shared.servers, NAME)


def test_a_greenlet_may_begin_with_a_call_of_the_lock(client: Redlock) -> None:
    """As `gevent.spawn(lock.acquire)`: no Python code calls the method."""
    lock = client.lock(NAME)
    for begin, end in ((lock.acquire, lock.release), (lock.__enter__, lambda: lock.__exit__(None, None, None))):
        greenlet(begin).switch()
        assert lock.owned()
        greenlet(end).switch()
        assert not lock.owned()


def traced(method: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
    """A wrapper as of a tracer: its frame ends with the call, and the next call may have a frame of the same number."""

    async def wrapper(*arguments: object) -> Any:  # noqa: ANN401 - of whichever method
        return await method(*arguments)

    return wrapper


async def test_a_wrapped_block_of_a_task_ends_its_own_lease(shared: Cluster) -> None:
    async with client_of(shared.urls) as client:
        lock = client.lock(NAME, reentrant=True)
        enter, leave = traced(lock.__aenter__), traced(lock.__aexit__)
        outer, inner = await enter(), await traced(enter)()
        await leave(None, None, None)
        assert (outer.is_held, inner.is_held) == (True, False)
        await leave(None, None, None)
        assert not outer.is_held


async def test_wrapped_blocks_of_two_tasks_keep_apart(shared: Cluster) -> None:
    async with client_of(shared.urls) as client:
        lock = client.lock(NAME)
        enter, leave = traced(lock.__aenter__), traced(lock.__aexit__)
        is_entered, is_ended = asyncio.Event(), asyncio.Event()

        async def first() -> None:
            await enter()
            await lock.release()
            is_entered.set()
            await is_ended.wait()
            with pytest.raises(NotHeld):
                await leave(None, None, None)

        ending = asyncio.create_task(first())
        await is_entered.wait()
        lease = await enter()
        is_ended.set()
        await ending
        assert lease.is_held
        await leave(None, None, None)


async def test_a_guard_with_the_lock_inside_ends_its_own_block(shared: Cluster) -> None:
    class Guard:
        def __init__(self, lock: AsyncLock) -> None:
            self.lock = lock

        async def __aenter__(self) -> AsyncLease:
            return await self.lock.__aenter__()

        def __aexit__(self, *error: Any) -> Awaitable[None]:  # noqa: ANN401 - as of the lock
            return self.lock.__aexit__(*error)

    async with client_of(shared.urls) as client:
        lock = client.lock(NAME, reentrant=True)
        async with lock as outer:
            async with Guard(lock):
                pass
            assert outer.is_held
