"""The shipped asyncio client step by step on simulated nodes: loops that stand still, and waits that are cancelled."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from redlock.asyncio import Lock, Redlock
from tests.sim.calls import NODE_TIMEOUT_MS, ROUND_TRIP_MS, Cluster, Process
from tests.sim.cancellation import MOMENTS, cancelled
from tests.sim.virtual_loop import VirtualLoop
from tests.sim.world import MS, here

TTL = 5.0


def begin(cluster: Cluster, main: Callable[[Redlock], Coroutine[Any, Any, None]]) -> Process:
    """Let a process with an event loop and a client that has used its connections begin this."""
    process = cluster.process()
    client = cluster.source.package.module("asyncio.client").Redlock

    async def run() -> None:
        async with client(cluster.network.urls, ttl=TTL) as redlock:
            async with redlock.lock("first"):
                pass
            await main(redlock)

    process.spawn(lambda: VirtualLoop(process).run(run()))
    cluster.wait(100)
    return process


def test_a_lease_with_little_time_left_is_renewed_in_time(cluster: Cluster) -> None:
    """The process is stopped for most of the lease, between the request and the reply."""
    ends: list[float] = []

    async def main(redlock: Redlock) -> None:
        await asyncio.sleep(0.1)  # of simulated time
        cluster.world.after(100, process.freeze, 800 * MS)
        async with redlock.lock("a", ttl=1.0) as lease:
            await asyncio.sleep(3.0)  # as above
            ends.append(lease.remaining())

    process = begin(cluster, main)
    cluster.wait(5_000)
    assert ends
    assert ends[0] > 0


def test_an_inner_block_is_cancelled_at_the_end_of_its_lease(cluster: Cluster) -> None:
    """The outer lease is not renewed, and has no `on_lost` of its own."""
    ended: list[int] = []
    began = 0

    async def main(redlock: Redlock) -> None:
        nonlocal began
        lock, began = redlock.lock("a", ttl=1.0), cluster.world.now
        await lock.acquire()
        try:
            async with redlock.lock("a", reentrant=True, on_lost="cancel"):
                await asyncio.sleep(3.0)  # of simulated time
        except cluster.source.package.module("errors").LockLost:
            ended.append(cluster.world.now)

    begin(cluster, main)
    cluster.wait(5_000)
    assert ended
    assert ended[0] - began <= 1_100 * MS


def test_a_blocked_loop_misses_no_dial_that_has_ended(cluster: Cluster) -> None:
    """The loop is blocked for as long as the wait for dials, and again after the first of their callbacks has run."""
    taken: list[bool] = []

    async def main(redlock: Redlock) -> None:
        await redlock.aclose()
        attempt = asyncio.create_task(redlock.lock("a", blocking_timeout=2 * NODE_TIMEOUT_MS / 1000).acquire())
        loop: Any = asyncio.get_running_loop()
        for _ in range(2):
            await asyncio.sleep(0)  # exactly an iteration of the loop
            with loop.paused():
                here().sleep(3 * NODE_TIMEOUT_MS * MS)
        taken.append(await attempt)

    begin(cluster, main)
    cluster.wait(2_000)
    assert taken == [True]


@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize("wait", range(1, 8))
def test_a_cancelled_waiter_holds_up_no_other_process(cluster: Cluster, wait: int, moment: str) -> None:
    """The first waiter is cancelled at any of its waits; the second waiter gets the lock at the release.

    The waits are the first attempt, the dial of the waiting connection, two blocking reads and the attempts after them.
    """
    taken: list[int] = []
    ended: list[asyncio.Task[None]] = []
    released = cluster.world.now

    async def hold(redlock: Redlock) -> None:
        nonlocal released
        async with redlock.lock("a"):
            await asyncio.sleep(2.0)  # of simulated time
        released = cluster.world.now

    async def take(redlock: Redlock) -> None:
        async with redlock.lock("a"):
            taken.append(cluster.world.now)

    async def give_up(redlock: Redlock) -> None:
        task = asyncio.create_task(cancelled(take(redlock), wait, moment))
        await asyncio.wait({task})
        ended.append(task)

    begin(cluster, hold)
    begin(cluster, give_up)
    begin(cluster, take)
    cluster.wait(4_000)
    assert ended
    assert taken[-1] - released <= 4 * ROUND_TRIP_MS * MS


def test_the_waiting_tasks_of_a_loop_take_turns_at_once(cluster: Cluster) -> None:
    taken: list[int] = []

    async def take(redlock: Redlock, seconds: float) -> None:
        async with redlock.lock("a"):
            taken.append(cluster.world.now)
            await asyncio.sleep(seconds)

    async def main(redlock: Redlock) -> None:
        await asyncio.gather(take(redlock, 0.3), take(redlock, 0), take(redlock, 0))

    begin(cluster, main)
    cluster.wait(2_000)
    assert len(taken) == 3
    assert taken[2] - taken[1] <= 4 * ROUND_TRIP_MS * MS


def test_a_dead_node_costs_no_lease_without_a_new_thread(cluster: Cluster) -> None:
    """As at the limit of a container: a dial needs a thread, also that of a waiter."""
    taken: list[int] = []

    async def main(redlock: Redlock) -> None:
        async with redlock.lock("a", ttl=1.0) as lease:
            await asyncio.sleep(5.0)  # of simulated time
            lease.ensure_valid()

    async def wait(redlock: Redlock) -> None:
        async with redlock.lock("a"):
            taken.append(cluster.world.now)

    began = cluster.world.now
    for process in (begin(cluster, main), begin(cluster, wait)):
        process.lacks_threads = True
    cluster.nodes[0].stop()
    cluster.network.stop(cluster.nodes[0])
    cluster.wait(7_000)
    assert [time - began >= 5_000 * MS for time in taken] == [True]


def test_no_repair_of_an_extension_follows_the_release(cluster: Cluster) -> None:
    """A renewal waits for a silent node, and repairs a key that another node has lost."""

    async def main(redlock: Redlock) -> None:
        async with redlock.lock("a", ttl=3.0):
            cluster.nodes[4].delete("a")
            cluster.nodes[3].mood = "mute"
            # The renewal begins at a third of the TTL, and waits for one node timeout.
            await asyncio.sleep(1.0 + NODE_TIMEOUT_MS / 2000)  # of simulated time
        # The end of the client would end the renewal too.
        await asyncio.sleep(0.4)  # as above

    begin(cluster, main)
    cluster.wait(1_400)
    assert [node.get("a") for node in cluster.nodes] == [None] * 5


def test_a_cancelled_release_goes_on_to_its_outcome(cluster: Cluster) -> None:
    outcomes: list[str] = []

    async def main(redlock: Redlock) -> None:
        lock = redlock.lock("a")
        await lock.acquire()
        lease = lock.lease
        release = asyncio.create_task(lock.release())
        await asyncio.sleep(0)  # exactly an iteration of the loop
        assert lease._is_releasing
        release.cancel()
        await asyncio.wait({release})
        assert release.cancelled()
        outcomes.append((await lease.outcome()).value)

    begin(cluster, main)
    cluster.wait(200)
    assert outcomes == ["released"]


@pytest.mark.parametrize("pause_ms", range(5))
def test_a_repeated_release_gets_the_outcome_at_any_time(cluster: Cluster, pause_ms: int) -> None:
    outcomes: list[object] = []

    async def repeated(lock: Lock) -> object:
        lease = lock.lease
        release = asyncio.create_task(lock.release())
        await asyncio.sleep(0)  # exactly an iteration of the loop
        assert not lease.is_held
        release.cancel()
        await asyncio.wait({release})
        await asyncio.sleep(pause_ms / 1000)  # of simulated time
        return (await asyncio.gather(lock.release(), return_exceptions=True))[0]

    async def main(redlock: Redlock) -> None:
        for is_lost in (False, True):
            lock = redlock.lock("a")
            await lock.acquire()
            for node in cluster.nodes if is_lost else ():
                node.delete("a")
            outcomes.append(await repeated(lock))

    begin(cluster, main)
    cluster.wait(1_000)
    assert len(outcomes) == 2
    assert outcomes[0] is None
    assert isinstance(outcomes[1], cluster.source.package.module("errors").LockLost)
