"""The shipped client step by step on simulated nodes: interruptions, stopped processes, and connections that end."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

import pytest

from redlock.client import Redlock
from redlock.lease import Lease
from redlock.lock import Lock
from tests.sim.calls import NODE_TIMEOUT_MS, ROUND_TRIP_MS, Cluster, Process
from tests.sim.clients import Interrupted
from tests.sim.source import Source
from tests.sim.world import MS, Strand, here

TTL = 5.0
LONGEST_SLEEP_MS = 1_250


def connected(cluster: Cluster) -> tuple[Process, Redlock]:
    """A process with a client that has used its connections before."""
    process = cluster.process()
    client = cluster.run(process, process.client)
    lock = client.lock("first", thread_local=False)
    for call in (lock.acquire, lock.release):
        cluster.run(process, call)
    return process, client


def begin(cluster: Cluster, process: Process, call: Callable[[], object], for_us: int) -> Strand:
    """Let a call run for this long."""

    def run() -> None:
        with suppress(Interrupted):
            call()

    strand = process.spawn(run)
    until = cluster.world.now + for_us
    cluster.world.run(until)
    cluster.world.now = until
    return strand


def keys(cluster: Cluster, name: str = "a") -> list[str | None]:
    return [node.get(name) for node in cluster.nodes]


def held(lock: Lock) -> Callable[[], None]:
    def call() -> None:
        assert lock.acquire()

    return call


def holding(cluster: Cluster) -> tuple[Process, Lock]:
    """A process that holds the lock "a", and the lock."""
    process, client = connected(cluster)
    lock = client.lock("a", ttl=TTL, thread_local=False)
    cluster.run(process, held(lock))
    return process, lock


@pytest.mark.parametrize("after_us", range(0, 4_000, 250))
def test_an_interrupted_acquire_leaves_no_key(cluster: Cluster, after_us: int) -> None:
    process, client = connected(cluster)
    strand = begin(cluster, process, client.lock("a", ttl=TTL).acquire, after_us)
    if not strand.dead:
        strand.interrupt(Interrupted())
        cluster.wait(4 * ROUND_TRIP_MS)
        assert keys(cluster) == [None] * 5


@pytest.mark.parametrize("is_loaded_again", [False, True])
@pytest.mark.parametrize("after_us", range(500, 4_000, 500))
def test_an_interrupted_acquire_is_not_repeated_with_its_scripts(
    cluster: Cluster, after_us: int, is_loaded_again: bool
) -> None:
    """The nodes have lost the scripts. The command of the interrupted attempt must not follow them.

    Another client can load the scripts before the cancel arrives. Then no second cancel follows a second acquire.
    """
    process, client = connected(cluster)
    scripts = set(cluster.nodes[0].scripts)
    for node in cluster.nodes:
        node.scripts.clear()
    strand = begin(cluster, process, client.lock("a", ttl=TTL).acquire, after_us)
    if not strand.dead:
        strand.interrupt(Interrupted())
        for node in cluster.nodes if is_loaded_again else ():
            node.scripts |= scripts
        # The next calls read the late replies.
        for name in ("b", "c"):
            cluster.run(process, client.lock(name, thread_local=False).acquire)
        cluster.wait(4 * ROUND_TRIP_MS)
        assert keys(cluster) == [None] * 5


def test_lost_scripts_cost_one_round_trip(cluster: Cluster) -> None:
    process, client = connected(cluster)
    lock = client.lock("a", ttl=TTL, thread_local=False)
    for call in (lock.acquire, lock.reacquire, lock.release):
        for node in cluster.nodes:
            node.scripts.clear()
        result, took_ms = cluster.timed(process, call)
        assert not isinstance(result, Exception)
        assert took_ms <= 2 * ROUND_TRIP_MS


def test_an_attempt_that_a_lease_has_lost_is_undone(cluster: Cluster) -> None:
    """An exception right after the grant, before the caller has the lease."""
    process, client = connected(cluster)
    leases: list[Lease] = []

    def acquire() -> None:
        lease = client.lease("a", renew=True)
        leases.append(lease)

        def granted(*_: object) -> None:
            raise Interrupted

        client._context.event_log.acquired = granted  # type: ignore[assignment]  # an exception at this point
        lease.acquire(None)

    begin(cluster, process, acquire, 4 * ROUND_TRIP_MS * MS)
    assert keys(cluster) == [None] * 5
    assert cluster.run(process, lambda: leases[0].is_held) is False


class StoppedOnce(Process):
    """A process that is stopped at one of the next reads of its clock, and counts its attempts."""

    attempts = 0
    is_unsent = False
    """Whether the process was stopped between a read of its clock and the send that followed."""

    def attempt_begins(self, secret: str) -> None:
        self.attempts += len(secret) > 0
        self._sent = self._bytes_sent()

    def _bytes_sent(self) -> int:
        return sum(wire.sent for wire in self.network.wires_of(self))

    def stall(self) -> None:
        self.is_unsent = self._bytes_sent() == self._sent
        super().stall()
        self.stall_chance = 0.0


def test_a_process_stopped_at_its_clock_counts_the_replies(source: Source) -> None:
    counted = 0
    for seed in range(60):
        cluster = Cluster(source, seed)
        process = StoppedOnce(cluster, "p")
        client = cluster.run(process, process.client)
        cluster.run(process, client.lock("first").acquire)
        process.attempts = 0
        process.stall_chance, process.longest_stall_us = 0.15, 2 * NODE_TIMEOUT_MS * MS
        assert cluster.run(process, client.lock("a", ttl=TTL, blocking=False).acquire)
        # A round whose time is over before its bytes are sent has no replies.
        assert process.attempts == 1 or process.is_unsent, f"seed {seed}"
        counted += not process.is_unsent
        cluster.world.close()
    assert counted > 30


def test_a_process_stopped_in_a_round_counts_the_replies(cluster: Cluster) -> None:
    process, client = connected(cluster)
    lock = client.lock("a", ttl=TTL, blocking=False, thread_local=False)
    results: list[bool] = []
    begin(cluster, process, lambda: results.append(lock.acquire()), 100)
    process.freeze(3 * NODE_TIMEOUT_MS * MS)
    cluster.wait(4 * NODE_TIMEOUT_MS)
    assert results == [True]


def test_a_lease_with_little_time_left_is_renewed_in_time(cluster: Cluster) -> None:
    """The process is stopped for most of the lease, between the request and the reply."""
    process, client = connected(cluster)
    lease: Lease = cluster.run(process, lambda: client.lease("a", ttl_ms=1_000, renew=True))
    begin(cluster, process, lambda: lease.acquire(None), 100)
    process.freeze(800 * MS)
    cluster.wait(3_000)
    cluster.run(process, lease.ensure_valid)


def test_an_inner_block_hears_of_the_end_of_its_lease(cluster: Cluster) -> None:
    """The outer lease is not renewed, and has no `on_lost` of its own."""
    process, client = connected(cluster)
    told: list[int] = []

    def main() -> None:
        outer = client.lease("a", ttl_ms=1_000)
        outer.acquire(0)
        inner = client.lease("a", reentrant=True, on_lost=lambda _: told.append(cluster.world.now))
        inner.acquire(0)
        leases.extend((outer, inner))

    leases: list[Lease] = []
    cluster.run(process, main)
    began = cluster.world.now
    cluster.wait(2_000)
    assert len(told) == 1
    assert told[0] - began <= 1_000 * MS


@pytest.mark.parametrize("waited_ms", [500, 3_000])
def test_a_waiter_is_woken_by_the_release(cluster: Cluster, waited_ms: int) -> None:
    """In its first blocking read, and in the next one after that read has ended without a wake-up."""
    process, holder = holding(cluster)
    other, others = connected(cluster)
    results: list[int] = []

    def wait() -> None:
        assert others.lock("a", blocking_timeout=4.0).acquire()
        results.append(cluster.world.now)

    begin(cluster, other, wait, waited_ms * MS)
    cluster.run(process, holder.release)
    released = cluster.world.now
    cluster.wait(100)
    assert results
    assert results[0] - released <= 2 * ROUND_TRIP_MS * MS


def two_waiters(cluster: Cluster, first_timeout: float) -> tuple[Process, Lock, list[Strand], list[tuple[bool, str]]]:
    """A holder, its lock, two waiters of other processes, and the results of their waits as they end."""
    process, holder = holding(cluster)
    waits: list[Strand] = []
    ended: list[tuple[bool, str]] = []
    for timeout in (first_timeout, 4.5):
        other, others = connected(cluster)

        def wait(client: Redlock = others, timeout: float = timeout) -> None:
            ended.append((client.lock("a", blocking_timeout=timeout).acquire(), here().machine.name))

        waits.append(begin(cluster, other, wait, 100 * MS))
    return process, holder, waits, ended


def test_a_waiter_whose_time_is_over_takes_no_wake_up(cluster: Cluster) -> None:
    process, holder, waits, ended = two_waiters(cluster, 0.5)
    cluster.wait(450)
    assert waits[0].dead
    cluster.run(process, holder.release)
    cluster.wait(2 * ROUND_TRIP_MS)
    assert [result for result, _ in ended] == [False, True]


@pytest.mark.parametrize("after_us", range(200, 8_000, 400))
def test_an_interrupted_waiter_passes_its_wake_up_on(cluster: Cluster, after_us: int) -> None:
    """The first waiter is interrupted at any moment after the release.

    A wake-up that is on its way at this moment is lost with the connection. Then the second waiter sleeps to the end.
    """
    process, holder, waits, ended = two_waiters(cluster, 4.0)
    begin(cluster, process, holder.release, after_us)
    if not waits[0].dead:
        waits[0].interrupt(Interrupted())
        cluster.wait(12 * ROUND_TRIP_MS if after_us >= ROUND_TRIP_MS * MS else LONGEST_SLEEP_MS + 12 * ROUND_TRIP_MS)
        assert ended == [(True, waits[1].machine.name)]


@pytest.mark.parametrize("after_us", [3_000, 4_000])
def test_a_waiter_stops_at_once_without_room_in_its_sockets(cluster: Cluster, after_us: int) -> None:
    """The waiter has a wake-up and can't pass it on: a wait for room could exceed its time limit."""
    process, holder, waits, _ = two_waiters(cluster, 4.0)
    begin(cluster, process, holder.release, after_us)
    assert not waits[0].dead
    for sock in waits[0].machine.sockets:
        sock._blocked_until = cluster.world.now + 1_000 * MS
    waits[0].interrupt(Interrupted())
    assert waits[0].dead


def test_a_connection_that_a_firewall_has_forgotten_is_renewed(cluster: Cluster) -> None:
    process, client = connected(cluster)
    for wire in cluster.network.wires_of(process):
        wire.forget()
    result, took_ms = cluster.timed(process, client.lock("a", ttl=TTL, blocking=False).acquire)
    assert result is True
    assert took_ms <= 2 * NODE_TIMEOUT_MS


def test_a_wait_on_a_forgotten_connection_ends_with_a_look(cluster: Cluster) -> None:
    """The waiting connection is dead: the waiter looks at the nodes after its longest sleep."""
    process, holder = holding(cluster)
    other, others = connected(cluster)
    strand = begin(cluster, other, others.lock("a", blocking_timeout=4.5).acquire, 300 * MS)
    for wire in cluster.network.wires_of(other):
        wire.forget()
    cluster.run(process, holder.release)
    cluster.wait(LONGEST_SLEEP_MS + 2 * NODE_TIMEOUT_MS)
    assert strand.dead
    assert None not in keys(cluster)[:3]


def test_an_old_waiting_connection_is_not_used_again(cluster: Cluster) -> None:
    """After half a minute a firewall may have forgotten the connection."""
    process, client = connected(cluster)
    holder = client.lock("a", ttl=TTL, thread_local=False)
    other, others = connected(cluster)
    waiter = others.lock("a", blocking_timeout=4.5, thread_local=False)
    for idle_ms in (31_000, 0):
        cluster.run(process, held(holder))
        begin(cluster, other, waiter.acquire, 500 * MS)
        cluster.run(process, holder.release)
        cluster.wait(2 * ROUND_TRIP_MS)
        assert all(key and key.endswith(other.name) for key in keys(cluster)), "the waiter was woken"
        cluster.run(other, waiter.release)
        cluster.wait(idle_ms)
        for wire in cluster.network.wires_of(other):
            wire.forget()


def test_releases_in_quick_succession_reach_the_nodes_at_once(cluster: Cluster) -> None:
    process, client = connected(cluster)

    def release() -> None:
        for number in range(200):
            with client.lock(f"quick {number}", ttl=TTL, wait_for_release=False):
                pass

    cluster.run(process, release)
    cluster.wait(10)
    for number in (0, 100, 198, 199):
        assert keys(cluster, f"quick {number}") == [None] * 5


def test_a_round_to_no_node_sends_what_was_held_back(cluster: Cluster) -> None:
    process, client = connected(cluster)
    lock = client.lock("a", ttl=TTL, wait_for_release=False, thread_local=False)
    cluster.run(process, held(lock))
    connections = client._context.pool._sets[0]
    commands = cluster.source.package.module("_core.commands")

    def release() -> None:
        connections.releases.returns_at_once = True
        lock.release()
        assert connections.releases.held_back
        # The background thread cannot send the release meanwhile.
        assert connections.turn()
        connections.ask(commands.Round(commands.Release(("a",), "no lease", 1_000), commands.Wait.SENT, ()))

    cluster.run(process, release)
    cluster.wait(ROUND_TRIP_MS)
    assert keys(cluster) == [None] * 5


def test_a_dead_node_costs_no_lease_without_a_new_thread(cluster: Cluster) -> None:
    """As at the limit of a container: a dial needs a thread, and the connections to the other nodes need none."""
    process, client = connected(cluster)
    lease: Lease = cluster.run(process, lambda: client.lease("a", ttl_ms=1_000, renew=True))
    cluster.run(process, lambda: lease.acquire(0))
    process.lacks_threads = True
    cluster.nodes[0].stop()
    cluster.network.stop(cluster.nodes[0])
    cluster.wait(5_000)
    cluster.run(process, lease.ensure_valid)
    _, wait_ms = cluster.timed(process, lease.release)
    assert wait_ms <= ROUND_TRIP_MS
    assert keys(cluster)[1:] == [None] * 4


def test_an_asynchronous_release_needs_no_thread(cluster: Cluster) -> None:
    process, client = connected(cluster)

    def release_twice() -> None:
        # The second release is held back, because its thread returns at once.
        for name in ("a", "b"):
            lock = client.lock(name, ttl=TTL, wait_for_release=False)
            assert lock.acquire()
            lock.release()

    process.lacks_threads = True
    cluster.run(process, release_twice)
    cluster.wait(ROUND_TRIP_MS)
    assert [keys(cluster, name) for name in ("a", "b")] == [[None] * 5] * 2


def test_a_waiter_without_a_thread_asks_once_a_second(cluster: Cluster) -> None:
    process, holder = holding(cluster)
    other, others = connected(cluster)
    other.lacks_threads = True
    waiter = begin(cluster, other, held(others.lock("a")), 500 * MS)
    cluster.run(process, holder.release)
    cluster.wait(LONGEST_SLEEP_MS)
    assert waiter.dead
    assert all(key and key.endswith(other.name) for key in keys(cluster))


def test_a_client_closes_without_a_free_descriptor(cluster: Cluster) -> None:
    process, client = connected(cluster)
    held = client.lock("a", ttl=TTL, thread_local=False)
    cluster.run(process, held.acquire)
    # An exception has interrupted a round.
    client._context.pool._sets[0]._is_half_done = True
    process.lacks_threads = process.lacks_sockets = True
    cluster.run(process, client._context.await_releases)
    cluster.run(process, client.close)
    assert cluster.network.wires_of(process) == []
