"""Waiters are woken instead of polling, first come first served, and each waiter gets the lock."""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial

import pytest
from celery import Celery
from redis import Redis

from redlock import Lock, LockContended, Redlock
from redlock._core import backoff as times
from redlock._locking import wait_queue
from redlock._transport import codec
from redlock.celery import client_for, locked
from redlock.testing.redis_server import Cluster
from tests.integration.threads import in_threads, started
from tests.integration.tools import (
    LASTING,
    blocked_clients,
    client_of,
    comes_true,
    eventually,
    in_a_fork,
    label,
    raw,
    raws,
    scripts_run,
    wake_ups,
)

FAIR = LASTING | {"node_timeout": 60.0}
"""A lock is reserved for its woken waiter during half a node timeout: here longer than a pause of the machine."""


@pytest.fixture
def client(nodes: Cluster) -> Iterator[Redlock]:
    """A client whose locks end by a release alone."""
    with client_of(nodes.urls, **LASTING) as redlock:
        yield redlock


def take_and_give_back(lock: Lock) -> None:
    lock.acquire()
    lock.release()


@contextlib.contextmanager
def blocked(nodes: Cluster, work: Callable[[], object]) -> Iterator[None]:
    """A thread does this, and blocks on a node. After the block it ends, long before the end of a TTL."""
    thread = started(work)
    eventually(lambda: blocked_clients(nodes.servers) == 1, "a waiter that blocks")
    yield
    thread.join(100)
    assert not thread.is_alive(), "the waiter was not woken"


def test_a_waiter_asks_nothing_while_it_waits(nodes: Cluster, client: Redlock, monkeypatch: pytest.MonkeyPatch) -> None:
    # After this time a waiter asks the nodes again; a pause of the machine can last as long.
    monkeypatch.setattr(wait_queue, "READ_SECONDS", 200)
    holder = client.lock("x")
    assert holder.acquire()
    with blocked(nodes, lambda: client.lock("x", blocking_timeout=60).acquire()):
        began, before = time.monotonic(), scripts_run(nodes[0])
        assert not comes_true(lambda: blocked_clients(nodes.servers) != 1, within=0.8, every=0.05)
        # A wake-up could be lost, so a waiter asks about once a second; this thread may have stood still for longer.
        assert scripts_run(nodes[0]) - before <= 1 + (time.monotonic() - began) * 1_000 / times._LONGEST_SLEEP_MS
        holder.release()


def test_releases_wake_waiters_first_come_first_served(nodes: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    # After this time a waiter asks its node again, and is the last in the queue of the node.
    monkeypatch.setattr(wait_queue, "READ_SECONDS", 200)
    clients = [client_of(nodes.urls, **FAIR) for _ in range(5)]
    order: list[int] = []
    first = clients[0].lock("x")
    assert first.acquire()

    def wait(number: int) -> None:
        with clients[number].lock("x"):
            order.append(number)

    threads = []
    for number in range(1, 5):
        threads.append(started(lambda number=number: wait(number)))  # type: ignore[misc]  # binds the number
        eventually(lambda: blocked_clients(nodes.servers) == len(threads), "one more waiter")
    first.release()
    for thread in threads:
        thread.join()
    assert order == [1, 2, 3, 4]
    for one in clients:
        one.close()


def test_a_holder_that_acquires_again_at_once_starves_no_waiter(nodes: Cluster) -> None:
    turns = 30
    order: list[int] = []

    def take_turns(number: int, lock: Lock) -> None:
        for _ in range(turns):
            with lock:
                order.append(number)
                if len(order) < 2 * turns:
                    eventually(lambda: blocked_clients(nodes.servers) == 1, "the other client waits", every=0.005)

    with client_of(nodes.urls, **FAIR) as first, client_of(nodes.urls, **FAIR) as second:
        in_threads(partial(take_turns, 0, first.lock("x")), partial(take_turns, 1, second.lock("x")))
    assert order in ([0, 1] * turns, [1, 0] * turns)


def test_a_waiter_waits_for_a_dead_holder_at_most_one_ttl(nodes: Cluster) -> None:
    with client_of(nodes.urls, ttl=1.0, max_ttl=240.0) as dead, client_of(nodes.urls, **LASTING) as client:
        lease = dead.lease("x")
        lease.acquire(30_000)
        with client.lock("x"):
            assert lease.remaining() == 0
        # The lease was never released: the wait ended with the expiry of the keys.
        assert lease.is_held


def test_only_a_release_leaves_a_wake_up_on_every_node(nodes: Cluster, client: Redlock) -> None:
    """A waiter must not wake itself; a holder may have its keys elsewhere than its waiters wait.

    A node at `maxmemory` never has the keys. Its waiters wait there all the same, because a wait needs no memory.
    """
    holder = client.lock("x")
    assert holder.acquire()
    for redis in raws(nodes.servers[:2]):
        redis.delete("x")
    with client_of(nodes.urls, **LASTING) as other:
        assert not other.lock("x").acquire(blocking=False)
    assert wake_ups(nodes.servers, "x") == [0] * 5
    with raw(nodes[0]) as full:
        full.config_set("maxmemory", "1")
        holder.release()
        eventually(lambda: wake_ups(nodes.servers, "x") == [1] * 5, "a wake-up on every node")
        full.delete(codec.wake_key("x"))
        assert full.eval(wait_queue._WAKE.source, 1, codec.wake_key("x"), "1000") == 1, "a wake-up that is passed on"


def test_at_most_one_wake_up_lies_on_a_node_and_it_expires(nodes: Cluster) -> None:
    with client_of(nodes.urls, ttl=5.0) as client:
        for _ in range(3):
            with client.lock("x"):
                pass
        assert max(wake_ups(nodes.servers, "x")) == 1
        eventually(lambda: not any(wake_ups(nodes.servers, "x")), "the end of the wake-ups")


def test_who_only_tries_has_nothing_reserved_for_it(nodes: Cluster, client: Redlock) -> None:
    with client_of(nodes.urls, **LASTING) as other:
        lock = client.lock("x")
        for _ in range(20):
            assert lock.acquire(blocking=False)
            assert not other.lock("x").acquire(blocking=False)
            lock.release()


def reserve_for_a_dead_waiter(nodes: Cluster, client: Redlock) -> None:
    """Leave the reservation of a waiter that was denied by this client and then killed."""
    with client.lock("x"):
        for redis in raws(nodes.servers):
            redis.set(codec.queue_key("x"), "waited for", px=60_000)


def test_a_lock_that_is_only_reserved_is_taken_without_waiting(nodes: Cluster) -> None:
    with Redlock(nodes.urls, node_timeout=2.0) as client:
        reserve_for_a_dead_waiter(nodes, client)

        assert client.lock("x").acquire(blocking=False), "nothing holds it"


def test_a_task_is_never_skipped_for_a_reservation(nodes: Cluster) -> None:
    app = Celery("skip", set_as_current=False)
    app.conf.update(redlock_nodes=nodes.urls, redlock_node_timeout=2.0)

    @app.task
    @locked("x", wait=0, on_conflict="skip")
    def work() -> str:
        return "done"

    with client_for(app) as client:
        reserve_for_a_dead_waiter(nodes, client)

        assert work() == "done"


def test_a_reservation_does_not_hide_a_holder(nodes: Cluster) -> None:
    with Redlock(nodes.urls, node_timeout=2.0) as client:
        reserve_for_a_dead_waiter(nodes, client)
        for redis in raws(nodes.servers[:3]):
            redis.set("x", "another client", px=60_000)

        assert not client.lock("x").acquire(blocking=False)


@pytest.mark.parametrize(("first_free", "then_free"), ["ab", "ba"])
def test_a_wake_up_that_was_taken_in_vain_is_passed_on(nodes: Cluster, first_free: str, then_free: str) -> None:
    """A waiter for {a, b} takes the wake-up of one name and is denied on the other: the waiter for the one alone must
    not sleep on."""
    one, both, alone = (client_of(nodes.urls, **LASTING) for _ in range(3))
    a, b = one.lease(first_free), one.lease(then_free)
    a.acquire(0)
    b.acquire(0)
    got: list[str] = []

    def wait(client: Redlock, names: list[str]) -> None:
        with client.lock(names):
            got.append("+".join(names))

    first = started(lambda: wait(both, ["a", "b"]))
    eventually(lambda: blocked_clients(nodes.servers) == 1, "the waiter for both")
    second = started(lambda: wait(alone, [first_free]))
    eventually(lambda: blocked_clients(nodes.servers) == 2, "the waiter for one")
    a.release()
    eventually(lambda: got == [first_free], "the waiter for one")
    b.release()
    for thread in (first, second):
        thread.join()
    for client in (one, both, alone):
        client.close()


@pytest.mark.parametrize("place", range(5))
def test_the_death_of_a_node_delays_its_waiters_for_a_moment(nodes: Cluster, place: int) -> None:
    with client_of(nodes.urls, **LASTING) as client, client_of(nodes.urls, **LASTING) as other:
        holder = client.lock("x")
        assert holder.acquire()
        with blocked(nodes, lambda: other.lock("x").acquire()):
            nodes[place].kill()
            holder.release()


def test_waiters_return_to_nodes_that_refused_connections(
    nodes: Cluster, client: Redlock, caplog: pytest.LogCaptureFixture
) -> None:
    """Other clients can take all connections of the nodes for a moment; the connections of the rounds stay open."""
    with contextlib.ExitStack() as stack:
        other = stack.enter_context(client_of(nodes.urls, **LASTING))
        admins = [stack.enter_context(raw(server)) for server in nodes.servers]
        for one in (client, other):
            with one.lock("y"):
                pass
        for admin in admins:
            admin.config_set("maxclients", 1)
        with other.lock("x"):
            waiter = started(lambda: take_and_give_back(client.lock("x")))
            eventually(lambda: caplog.text.count("node-down") >= len(admins), "a try at each node")
            for admin in admins:
                admin.config_set("maxclients", 1_000)
        waiter.join(100)
    wait_and_block(nodes, client)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda redis, key: redis.hset(key, "a", "b"),
        lambda redis, key: redis.rpush(key, *["v" * 200_000] * 5),
    ],
    ids=["another type", "long values"],
)
def test_a_spoilt_key_of_wake_ups_marks_no_node(
    nodes: Cluster, client: Redlock, caplog: pytest.LogCaptureFixture, spoil: Callable[[Redis, str], object]
) -> None:
    for redis in raws(nodes.servers):
        spoil(redis, codec.wake_key("x"))
    with client_of(nodes.urls, **LASTING) as other, other.lock("x"):
        assert not client.lock("x").acquire(blocking_timeout=1)
    # The dial of an earlier test's client may end now.
    assert not [server for server in nodes.servers if f"node-down node={label(server)} " in caplog.text]
    wait_and_block(nodes, client)


def wait_and_block(nodes: Cluster, client: Redlock) -> None:
    """Check that a waiter of this client blocks on a node, and is woken."""
    with client_of(nodes.urls, **LASTING) as other:
        holder = other.lock("z")
        assert holder.acquire()
        with blocked(nodes, lambda: client.lock("z", blocking_timeout=60).acquire()):
            holder.release()


def test_a_hundred_waiters_of_one_client_all_get_their_turn(client: Redlock) -> None:
    turns: list[int] = []

    def turn(number: int) -> None:
        with client.lock("x"):
            turns.append(number)

    in_threads(*(partial(turn, number) for number in range(100)))
    assert sorted(turns) == list(range(100))


def test_the_threads_of_a_process_are_one_waiter_in_a_fair_queue(nodes: Cluster, client: Redlock) -> None:
    order: list[int] = []
    first = client.lock("x")
    assert first.acquire()

    def wait(number: int) -> None:
        with client.lock("x"):
            order.append(number)

    threads = []
    for number in range(6):
        threads.append(started(lambda number=number: wait(number)))  # type: ignore[misc]  # binds the number
        eventually(lambda: client._context.waiters.local_queue.length(("x",)) == len(threads), "one more in the line")
    eventually(lambda: blocked_clients(nodes.servers) == 1, "a waiter that blocks")
    first.release()
    for thread in threads:
        thread.join()
    assert order == list(range(6))


def test_a_signal_handler_waits_in_place_of_its_thread(
    nodes: Cluster, client: Redlock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The waiter that the handler interrupts is before the handler, and can't move until the handler ends."""
    # The nodes would end the read of the interrupted waiter.
    monkeypatch.setattr(wait_queue, "READ_SECONDS", 200)
    got: list[str] = []

    def take(name: str) -> None:
        with client.lock("x"):
            got.append(name)

    with client_of(nodes.urls, **LASTING) as other:
        holder = other.lease("x")
        holder.acquire(0)

        def interrupt_and_release() -> None:
            try:
                eventually(lambda: blocked_clients(nodes.servers) == 1, "the waiter")
                signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGUSR1)
                eventually(lambda: blocked_clients(nodes.servers) == 2, "the handler")
            finally:
                holder.release()

        before = signal.signal(signal.SIGUSR1, lambda *_: take("handler"))
        try:
            thread = started(interrupt_and_release)
            take("waiter")
            thread.join()
        finally:
            signal.signal(signal.SIGUSR1, before)
    assert got == ["handler", "waiter"]


def test_a_queued_thread_that_times_out_gets_the_holder(client: Redlock, nodes: Cluster) -> None:
    holder = client.lock("x")
    assert holder.acquire()
    told: list[LockContended] = []

    def wait_briefly() -> None:
        with pytest.raises(LockContended) as caught, client.lock("x", blocking_timeout=0.2):
            pass
        told.append(caught.value)

    with blocked(nodes, lambda: client.lock("x", blocking_timeout=60).acquire()):
        started(wait_briefly).join()
        assert client._context.waiters.local_queue.length(("x",)) == 1
        assert "MainThread" in str(told[0])
        holder.release()


def test_after_a_recent_wait_a_client_queues_before_its_attempt(
    nodes: Cluster, client: Redlock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(times, "_FIRST_MS", 100_000)
    with client_of(nodes.urls, **LASTING) as rival:
        theirs, ours = rival.lock("x"), client.lock("x")
        assert theirs.acquire()
        with blocked(nodes, partial(take_and_give_back, ours)):
            # Long enough to be called waiting.
            assert not comes_true(lambda: blocked_clients(nodes.servers) != 1, within=0.1)
            theirs.release()

        assert theirs.acquire()
        before = scripts_run(nodes[0])
        with blocked(nodes, partial(take_and_give_back, ours)):
            assert scripts_run(nodes[0]) == before
            theirs.release()


def test_without_other_waiters_a_wake_up_is_found_at_once(client: Redlock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(times, "_FIRST_MS", 100_000)
    # On a busy machine the reply takes more than a millisecond. Without a wake-up the wait takes 5 s.
    monkeypatch.setattr(wait_queue, "_LEAST_WAIT_SECONDS", 4.0)
    lock = client.lock("x", blocking_timeout=100)
    assert lock.acquire()
    lock.release()
    client._context.waiters.remember(lock.names, 5, 60_000)
    for _ in range(3):
        assert lock.acquire()
        lock.release()
    assert not client._context.waiters.last_wait_ms(lock.names)


def test_without_a_wait_the_nodes_are_asked_at_once(client: Redlock) -> None:
    lock = client.lock("x", blocking=False)
    client._context.waiters.remember(lock.names, 5, 60_000)
    assert lock.acquire()
    lock.release()


def test_a_forked_child_inherits_no_queue_and_no_connections(nodes: Cluster, client: Redlock) -> None:
    names = ("account:42",)
    with client_of(nodes.urls, **LASTING) as rival, rival.lock(names):
        assert not client.lock(names, blocking_timeout=0.3).acquire(), "this leaves a connection for the next wait"
        waiting = started(lambda: client.lock(names, blocking_timeout=100.0).acquire())
        eventually(lambda: client._context.waiters.local_queue.length(names), "a thread in the queue")

        def in_the_child() -> list[object]:
            kept = sum(map(len, client._context.waiters._kept.values()))
            return [
                kept,
                client._context.waiters.local_queue.length(names),
                client.lock(names, blocking_timeout=0.3).acquire(),
            ]

        assert in_a_fork(in_the_child) == [0, 0, False]
    waiting.join(100)
