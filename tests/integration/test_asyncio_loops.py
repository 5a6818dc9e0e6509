"""Event loops: several in one process, in sequence and side by side, in a fork, with uvloop; and their end."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import itertools
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import uvloop

from redlock import LockContended, NotHeld, Outcome, RedlockError
from redlock.asyncio import Lease, Redlock
from redlock.testing.redis_server import Cluster
from tests.integration.asyncio_tools import client_of, next_turn, open_sockets, run, until
from tests.integration.threads import in_threads
from tests.integration.tools import LASTING, eventually, frozen, in_a_fork, is_free

NAME = "loops"


async def pair(client: Redlock, name: str = NAME) -> int:
    """Acquire and release; the fencing token."""
    async with client.lock(name, blocking_timeout=100) as lease:
        return lease.fence


def test_one_client_works_in_loop_after_loop(shared: Cluster) -> None:
    """Without `aclose`: the next loop closes the connections of earlier loops."""
    client, sockets = client_of(shared.urls), open_sockets()
    fences = [asyncio.run(pair(client, "one after another")) for _ in range(3)]
    assert fences == sorted(set(fences))
    assert len(client._context._parts) == 1
    assert open_sockets() <= sockets + 5

    async def end() -> None:
        await pair(client, "one after another")
        await client.aclose()
        await client.aclose()

    run(end())
    assert open_sockets() == sockets
    gc.collect()


def test_one_client_works_in_loops_side_by_side(shared: Cluster) -> None:
    client, fences = client_of(shared.urls), []

    async def many() -> None:
        fences.extend([await pair(client) for _ in range(10)])
        await client.aclose()

    in_threads(*[lambda: run(many())] * 3)
    assert len(set(fences)) == 30


def test_a_lease_is_used_in_its_own_loop_only(nodes: Cluster) -> None:
    # Nothing renews the lease while its loop stands still.
    client = client_of(nodes.urls, **LASTING)
    loop = asyncio.new_event_loop()
    lock = client.lock(NAME)
    loop.run_until_complete(lock.acquire())

    async def elsewhere(lease: Lease) -> None:
        with pytest.raises(RedlockError, match="another event loop"):
            await lock.release()
        with pytest.raises(RedlockError, match="another event loop"):
            await lease.extend(1)
        await client.aclose()

    run(elsewhere(lock.lease))
    loop.run_until_complete(lock.release())
    loop.run_until_complete(client.aclose())
    loop.close()


def test_a_later_loop_knows_the_outcome_of_a_release(shared: Cluster) -> None:
    async def take() -> Lease:
        async with client_of(shared.urls) as client, client.lock("ended") as lease:
            return lease

    assert run(run(take()).outcome()) is Outcome.RELEASED


def test_uvloop_works(shared: Cluster) -> None:
    counted = 0

    async def main() -> None:
        async with client_of(shared.urls) as client:

            async def one() -> None:
                nonlocal counted
                async with client.lock("uv"):
                    value = counted
                    await next_turn()
                    counted = value + 1

            await asyncio.gather(*(one() for _ in range(50)), *(pair(client, f"uv:{number}") for number in range(50)))
            with pytest.raises(LockContended):
                async with client.lock("uv"), client.lock("uv", blocking_timeout=0.01):
                    pass

    loop = uvloop.new_event_loop()
    try:
        loop.run_until_complete(main())
    finally:
        loop.close()
    assert counted == 50


async def test_a_fork_leaves_the_parent_its_connections(shared: Cluster) -> None:
    async def denied(client: Redlock) -> bool:
        return not await client.lock(NAME, blocking=False).acquire()

    async with client_of(shared.urls) as client:
        async with client.lock(NAME) as lease:

            def child() -> list[object]:
                # The child runs in the middle of the parent's loop, which is not its own.
                asyncio._set_running_loop(None)
                return [
                    len(client._context._parts),
                    lease.is_held,
                    asyncio.run(denied(client)),
                    asyncio.run(pair(client, "child")) > 0,
                ]

            assert in_a_fork(child) == [0, False, True, True]
            await lease.extend(1)
            assert await client.lock(NAME).locked()
        assert await pair(client) > 0


async def test_a_closed_client_ends_its_waits_with_an_error(shared: Cluster) -> None:
    client = client_of(shared.urls)
    lock = client.lock(NAME)
    await lock.acquire()
    waiting = [asyncio.create_task(client.lock(NAME).acquire()) for _ in range(3)]
    await until(lambda: client._context.parts().waiters.local_queue.length((NAME,)) == 3, "all wait")
    lease = lock.lease
    await client.aclose()
    with pytest.raises(RedlockError, match="client was closed"):
        await lease.extend(1)
    await lock.release()
    for task in waiting:
        with pytest.raises(RedlockError, match="client was closed"):
            await asyncio.wait_for(task, 100)
    with pytest.raises(NotHeld):
        await lock.release()
    # A closed client opens new connections at its next use, as the client for threads does.
    async with client_of(shared.urls) as other:
        await other.lock(NAME).locked()
    eventually(lambda: is_free(shared.servers, NAME), "its time is over")


async def test_the_end_of_a_client_waits_for_its_releases(shared: Cluster) -> None:
    async with client_of(shared.urls) as client:
        for number in range(20):
            async with client.lock(f"end:{number}", wait_for_release=False):
                pass
    assert all(is_free(shared.servers, f"end:{number}") for number in range(20))


@pytest.mark.parametrize("waits", [False, True], ids=["asynchronous", "cancelled"])
def test_a_loop_that_closes_during_a_release_harms_none_after(shared: Cluster, *, waits: bool) -> None:
    client, sockets, name = client_of(shared.urls, node_timeout=4.4), open_sockets(), f"closes:{waits}"

    async def release() -> None:
        async with client.lock(name, wait_for_release=waits):
            # The servers answer nothing until the loop has closed.
            stack.enter_context(frozen(*shared.servers))
            if waits:
                task = asyncio.current_task()
                assert task is not None
                asyncio.get_running_loop().call_later(0.01, task.cancel)

    with contextlib.ExitStack() as stack, contextlib.suppress(asyncio.CancelledError):
        asyncio.run(release())
    (parts,) = client._context._parts.values()
    assert parts.connections.executions, "the release is under way"
    run(pair(client, name))
    assert list(client._context._parts.values()) != [parts]
    assert parts.waiters._is_closed
    assert open_sockets() <= sockets + 5
    run(client.aclose())


def test_a_closed_loop_is_dropped_by_one_of_two_threads(shared: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """The loops of two threads find the same closed loop."""
    client = client_of(shared.urls)
    asyncio.run(pair(client))
    (loop,) = client._context._parts
    both, calls = threading.Barrier(2), itertools.count()

    def is_closed() -> bool:
        if next(calls) < 2:
            both.wait(100)
        return True

    monkeypatch.setattr(loop, "is_closed", is_closed, raising=False)
    with ThreadPoolExecutor(2) as threads:
        fences = list(threads.map(lambda _: asyncio.run(pair(client)), range(2)))
    assert len(set(fences)) == 2
