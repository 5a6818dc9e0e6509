"""A cancelled release goes on, and the next call of `release` gets its outcome, at once or later."""

from __future__ import annotations

import asyncio
import gc
import weakref

import pytest

from redlock import LockLost, NotHeld
from redlock._clock import now_ms
from redlock._core.protocol import Outcome
from redlock.asyncio import Lease, Lock, Redlock
from redlock.testing.redis_server import Cluster
from tests.integration.asyncio_tools import client_of, until
from tests.integration.tools import LASTING, is_free, run_out

NAME = "release"
LATER = pytest.mark.parametrize("later", [False, True], ids=["at once", "later"])
"""Whether the replies of the nodes come before the next call."""


async def cancelled_release(released: Lock | Lease, lease: Lease, *, later: bool) -> None:
    """Cancel a release while it waits for the nodes."""
    release = asyncio.create_task(released.release())
    await until(lambda: not lease.is_held, "the release is sent", every=0)
    release.cancel()
    with pytest.raises(asyncio.CancelledError):
        await release
    if later:
        await lease.outcome()
        await until(lambda: lease._outcome is not None, "the outcome is known")


async def acquired(client: Redlock, *, reentrant: bool = False) -> tuple[Lock, Lease]:
    """A lock that this task has acquired, and its lease."""
    lock = client.lock(NAME, reentrant=reentrant)
    assert await lock.acquire()
    return lock, lock.lease


@LATER
@pytest.mark.parametrize("is_inner", [False, True], ids=["lock", "last entry"])
async def test_a_cancelled_release_can_be_repeated(shared: Cluster, *, is_inner: bool, later: bool) -> None:
    async with client_of(shared.urls, **LASTING) as client:
        outer, lease = await acquired(client, reentrant=is_inner)
        lock = outer
        if is_inner:
            lock, _ = await acquired(client, reentrant=True)
            await outer.release()
        for _ in range(2):
            await cancelled_release(lock, lease, later=later)
        assert not await lock.owned()
        await lock.release()
        await until(lambda: is_free(shared.servers, NAME), "released")
        with pytest.raises(NotHeld):
            await lock.release()


@LATER
async def test_a_cancelled_release_of_a_lease_can_be_repeated(shared: Cluster, *, later: bool) -> None:
    async with client_of(shared.urls, **LASTING) as client:
        _, lease = await acquired(client)
        await cancelled_release(lease, lease, later=later)
        assert await lease.release() is Outcome.RELEASED
        with pytest.raises(NotHeld):
            await lease.release()


@LATER
async def test_a_repeated_release_of_a_lost_lease_tells_the_loss(shared: Cluster, *, later: bool) -> None:
    async with client_of(shared.urls, **LASTING) as client:
        lock, lease = await acquired(client)
        run_out(shared.servers, NAME)
        await cancelled_release(lock, lease, later=later)
        with pytest.raises(LockLost):
            await lock.release()
        with pytest.raises(NotHeld):
            await lock.release()


@LATER
@pytest.mark.parametrize("of_lease", [False, True], ids=["lock", "lease"])
async def test_the_end_of_a_block_repeats_a_cancelled_release(shared: Cluster, *, of_lease: bool, later: bool) -> None:
    async with client_of(shared.urls, **LASTING) as client:
        lock = client.lock(NAME)
        async with lock as lease:
            await cancelled_release(lease if of_lease else lock, lease, later=later)
        with pytest.raises(NotHeld):
            async with lock as lease:
                await cancelled_release(lease if of_lease else lock, lease, later=later)
                await (lease if of_lease else lock).release()


@LATER
async def test_an_inner_block_ends_no_release_of_its_outer_block(shared: Cluster, *, later: bool) -> None:
    """The inner block did not send the release, so its end does not repeat the release."""
    async with client_of(shared.urls, **LASTING) as client, client.lock(NAME) as lease:
        with pytest.raises(NotHeld):
            async with client.lock(NAME, reentrant=True):
                await cancelled_release(lease, lease, later=later)


async def test_each_entry_is_told_of_the_end_of_its_lease_once(shared: Cluster) -> None:
    async with client_of(shared.urls, **LASTING) as client:
        outer, lease = await acquired(client, reentrant=True)
        inner, _ = await acquired(client, reentrant=True)
        lease._grant = lease._held()._replace(deadline_ms=now_ms())
        for lock in (outer, inner):
            with pytest.raises(LockLost):
                await lock.release()
            with pytest.raises(NotHeld):
                await lock.release()


async def test_a_block_that_was_released_inside_tells_that(shared: Cluster) -> None:
    """The lease is held still, by an entry that is no block."""
    async with client_of(shared.urls, **LASTING) as client:
        lock, inner = client.lock(NAME), client.lock(NAME, reentrant=True)
        with pytest.raises(NotHeld):
            async with lock:
                assert await inner.acquire()
                await lock.release()
        await inner.release()


@pytest.mark.parametrize("is_block", [False, True])
async def test_a_repeated_release_leaves_another_task_its_lease(shared: Cluster, *, is_block: bool) -> None:
    """The other task has acquired the same `Lock` object meanwhile."""
    async with client_of(shared.urls, **LASTING) as client:
        lock, lease = await acquired(client)
        has_lock, ends = asyncio.Event(), asyncio.Event()

        async def other() -> None:
            await (lock.__aenter__() if is_block else lock.acquire())
            has_lock.set()
            await ends.wait()
            lock.lease.ensure_valid()
            await lock.release()

        await cancelled_release(lock, lease, later=True)
        task = asyncio.create_task(other())
        await has_lock.wait()
        assert await lock.owned(), "by the other task"
        await lock.release()
        ends.set()
        await task


async def test_a_release_that_nobody_repeats_keeps_no_lease(shared: Cluster) -> None:
    async with client_of(shared.urls, **LASTING) as client:
        lock = client.lock(NAME)
        leases: list[weakref.ref[Lease]] = []

        async def work() -> None:
            await lock.acquire()
            leases.append(weakref.ref(lock.lease))
            await cancelled_release(lock, lock.lease, later=True)

        for _ in range(3):
            await asyncio.create_task(work())
        await work()
        await work()
        # The exceptions that were caught have references to the leases.
        gc.collect()
        assert [lease() is None for lease in leases] == [True] * 4 + [False], "the next acquire drops it"


@LATER
async def test_a_repeated_release_ends_no_lease_of_another_task(shared: Cluster, *, later: bool) -> None:
    """A task without a lease releases the lock, and is cancelled. Another task acquires the lock meanwhile."""
    async with client_of(shared.urls, **LASTING) as client:
        lock, is_acquired, may_end = client.lock(NAME), asyncio.Event(), asyncio.Event()

        async def own() -> None:
            await lock.acquire()
            is_acquired.set()
            await may_end.wait()

        owner = asyncio.create_task(own())
        await is_acquired.wait()
        await cancelled_in_this_task(lock, lock.lease, later=later)
        is_acquired.clear()
        other = asyncio.create_task(own())
        await is_acquired.wait()
        newer = lock.lease
        await lock.release()
        assert newer.is_held, "the repetition has the outcome of the first call"
        may_end.set()
        await asyncio.gather(owner, other)
        await newer.release()


async def cancelled_in_this_task(lock: Lock, lease: Lease, *, later: bool) -> None:
    """As `cancelled_release`, where the running task calls `release`."""
    task = asyncio.current_task()
    assert task is not None
    cancelling = asyncio.create_task(cancelled_once(task, lease))
    with pytest.raises(asyncio.CancelledError):
        await lock.release()
    if hasattr(task, "uncancel"):
        task.uncancel()
    await cancelling
    if later:
        await until(lambda: lease._outcome is not None, "the outcome is known")


async def cancelled_once(task: asyncio.Task[object], lease: Lease) -> None:
    """Cancel a task while it waits for the nodes."""
    await until(lambda: not lease.is_held, "the release is sent", every=0)
    task.cancel()
