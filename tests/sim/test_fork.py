"""A fork in the simulator: the child has the objects of its parent, and the threads of the parent never run again.

The parent holds a lease, another of its threads waits, and releases are under way at the moment of the fork.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import pytest

from redlock.client import Redlock
from redlock.lease import Lease
from tests.sim.calls import NODE_TIMEOUT_MS, ROUND_TRIP_MS, Cluster, Process
from tests.sim.source import Source

FOR_EVER = 10**15
FIRST_MS = NODE_TIMEOUT_MS + 4 * ROUND_TRIP_MS
TTL = 5.0


class Forked:
    """A parent that is forked in the middle of everything, and its child."""

    def __init__(self, source: Source) -> None:
        self.cluster = Cluster(source)
        self.parent, self.other = self.cluster.process(), self.cluster.process()
        self.client: Redlock = self.cluster.run(self.parent, self.parent.client)
        self.leases: list[Lease] = []
        blocker = self.cluster.run(self.other, self.other.client).lock("waited", ttl=TTL, thread_local=False)
        self.cluster.run(self.other, blocker.acquire)
        for name in ("renewed", "first"):
            self.cluster.run(self.parent, partial(self._hold, name))
        self.parent.spawn(self.client.lock("waited").acquire)
        self.cluster.wait(50)
        # In quick succession a release is held back until the next request.
        self.cluster.run(self.parent, self._release_in_quick_succession)
        self.parent.freeze(FOR_EVER)
        self.child: Process = self.cluster.process()
        self.wires = self.cluster.network.wires_of(self.parent)
        self.cluster.run(self.other, blocker.release)
        self.cluster.run(self.child, self.client._context.reset_after_fork)

    def _hold(self, name: str) -> None:
        lease = self.client.lease(name, renew=True)
        lease.acquire(None)
        self.leases.append(lease)

    def _release_in_quick_succession(self) -> None:
        for number in range(3):
            with self.client.lock(f"quick {number}", wait_for_release=False):
                pass

    def took_ms(self, name: str) -> float:
        lock = self.client.lock(name, blocking_timeout=2.0, thread_local=False)
        result, length_ms = self.cluster.timed(self.child, lock.acquire)
        assert result is True, result
        return length_ms


@pytest.fixture
def forked(source: Source) -> Iterator[Forked]:
    forked = Forked(source)
    yield forked
    forked.cluster.world.close()


def test_a_child_acquires_at_once(forked: Forked) -> None:
    assert forked.took_ms("new") <= FIRST_MS
    assert forked.took_ms("another") <= ROUND_TRIP_MS


def test_a_child_queues_behind_no_thread_of_its_parent(forked: Forked) -> None:
    assert forked.took_ms("waited") <= FIRST_MS
    assert forked.client._context.waits.pending() == []


def test_a_child_says_nothing_on_the_connections_of_its_parent(forked: Forked) -> None:
    assert len(forked.wires) > 5
    sizes = [wire.sent for wire in forked.wires]
    forked.took_ms("new")
    forked.cluster.wait(1_000)
    assert [wire.sent for wire in forked.wires] == sizes
    assert forked.cluster.network.wires_of(forked.parent) == forked.wires


def test_a_child_renews_its_own_leases_and_no_other(forked: Forked) -> None:
    leases: list[Lease] = []

    def hold() -> None:
        lease = forked.client.lease("own", renew=True)
        lease.acquire(None)
        leases.append(lease)

    forked.cluster.run(forked.child, hold)
    forked.cluster.wait(int(3 * TTL * 1000))
    assert [node.get("own") is None for node in forked.cluster.nodes] == [False] * 5
    assert [node.get("renewed") for node in forked.cluster.nodes] == [None] * 5


def test_an_asynchronous_release_of_a_child_reaches_the_nodes(forked: Forked) -> None:
    def release() -> None:
        for number in range(3):
            with forked.client.lock(f"child {number}", wait_for_release=False):
                pass

    forked.cluster.run(forked.child, release)
    forked.cluster.wait(100)
    assert [node.get("child 2") for node in forked.cluster.nodes] == [None] * 5


def test_a_child_that_waits_is_woken(forked: Forked) -> None:
    holder = forked.cluster.run(forked.other, forked.other.client).lock("held", ttl=TTL, thread_local=False)
    forked.cluster.run(forked.other, holder.acquire)
    waiting = forked.client.lock("held", blocking_timeout=4.0, thread_local=False)
    strand = forked.child.spawn(waiting.acquire)
    forked.cluster.wait(300)
    forked.cluster.run(forked.other, holder.release)
    forked.cluster.wait(3 * ROUND_TRIP_MS)
    assert strand.dead
    assert all(node.get("held") for node in forked.cluster.nodes)
