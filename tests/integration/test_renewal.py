"""Leases that are renewed, repaired, lost and known to be lost."""

from __future__ import annotations

import contextlib
import contextvars
import gc
import sys
import threading
import weakref
from collections.abc import Callable, Iterator

import pytest

from redlock import ConfigurationError, Lease, LockLost, NoThread, QuorumUnavailable, Redlock, RedlockError
from redlock._clock import now_ms
from redlock._core import protocol
from redlock._core.votes import Grant
from redlock._locking.lock_events import LockEventLog
from redlock._transport import codec
from redlock.testing.redis_server import Cluster
from tests.integration.threads import in_threads
from tests.integration.tools import (
    LASTING,
    client_of,
    end_quarantine,
    eventually,
    frozen,
    holders,
    in_a_fork,
    kill_all,
    leased,
    outlive,
    raw,
    renew_now,
    renewed,
    run_out,
    sends,
)
from tests.no_threads import no_thread


@pytest.fixture
def brief(nodes: Cluster) -> Iterator[Redlock]:
    """A client whose leases are soon renewed, and outlast a pause of the machine."""
    with client_of(nodes.urls, ttl=5.0) as client:
        yield client


@pytest.fixture
def lasting(nodes: Cluster) -> Iterator[Redlock]:
    """A client whose leases are renewed when the test says so, and outlast any pause."""
    with client_of(nodes.urls, **LASTING) as client:
        yield client


def test_a_with_block_may_be_longer_than_its_lease(nodes: Cluster, brief: Redlock) -> None:
    with brief.lock("x") as lease:
        outlive(lease)
        assert brief.lock("x").locked()
    assert not any(holders(nodes.servers, "x"))


def test_acquire_alone_is_never_renewed(nodes: Cluster) -> None:
    with client_of(nodes.urls, ttl=2.0) as client:
        lock = client.lock("x")
        assert lock.acquire()
        eventually(lambda: lock.lease.is_lost, "the end of a lease that nobody renews")
        with pytest.raises(LockLost):
            lock.lease.ensure_valid()


def test_a_client_used_after_its_close_renews_no_earlier_lease(brief: Redlock) -> None:
    with pytest.raises(LockLost), brief.lock("old") as old:
        brief.close()
        with brief.lock("new", ttl=10.0) as new:
            eventually(lambda: old.is_lost, "the end of a lease of before the close")
            assert not new.is_lost


def test_renewal_stops_at_max_hold_and_on_lost_is_called(nodes: Cluster) -> None:
    told: list[Lease] = []
    with (
        client_of(nodes.urls, ttl=2.0) as client,
        pytest.raises(LockLost, match="max_hold"),
        client.lock("x", max_hold=0.5, on_lost=told.append) as lease,
    ):
        # A renewal that a pause of the machine delays beyond the deadline would give another reason.
        renew_now(client, lease)
        eventually(lambda: told, "the call of on_lost")
        assert told == [lease]
        assert lease.is_lost


def test_on_lost_is_called_for_a_lease_that_is_not_renewed(nodes: Cluster) -> None:
    told: list[Lease] = []
    with client_of(nodes.urls, ttl=2.0) as client:
        lock = client.lock("x", on_lost=told.append)
        assert lock.acquire()
        eventually(lambda: told, "the call of on_lost")
        assert told == [lock.lease]
        with pytest.raises(LockLost, match="its time was over"):
            lock.release()


def test_an_inner_block_hears_of_the_end_of_its_lease(nodes: Cluster) -> None:
    """The outer lease is not renewed, and has no `on_lost` of its own."""
    told: list[Lease] = []
    with client_of(nodes.urls, ttl=2.0) as client:
        lock = client.lock("x")
        assert lock.acquire()
        with client.lock("x", reentrant=True, on_lost=told.append):
            pass
        with pytest.raises(LockLost), client.lock("x", reentrant=True, on_lost=told.append) as inner:
            eventually(lambda: told, "the call of on_lost")
        assert told == [inner], "the first block has ended before the loss"
        assert lock.lease.is_lost


def test_a_lease_survives_a_rolling_restart_of_all_nodes(nodes: Cluster, brief: Redlock) -> None:
    with brief.lock("x") as lease:
        token = lease.owner
        for server in nodes.servers:
            server.kill()
            server.start()
            renew_now(brief, lease)
            end_quarantine(server)
            renew_now(brief, lease)
            eventually(lambda: holders([server], "x") == [token], "the repair of the restarted node")  # noqa: B023 - called now
            assert holders(nodes.servers, "x") == [token] * 5
            with raw(server) as redis:
                assert int(str(redis.get(codec.fence_key("x")))) >= lease.fence
            lease.ensure_valid()
        fence = lease.fence
    # The repair also wrote the fence again: the next token is larger.
    with brief.lock("x") as lease:
        assert lease.fence > fence


def test_a_lease_is_known_to_be_lost_when_three_nodes_are_killed(nodes: Cluster) -> None:
    told = threading.Event()
    with (
        client_of(nodes.urls, ttl=3.0) as client,
        pytest.raises(LockLost),
        client.lock("x", on_lost=lambda _: told.set()) as lease,
    ):
        kill_all(nodes.servers[:3])
        assert told.wait(30)
        with pytest.raises(LockLost):
            lease.ensure_valid()
        assert lease.remaining() == 0.0


def test_a_lease_without_its_keys_on_a_quorum_stays_lost(nodes: Cluster, brief: Redlock) -> None:
    """Two of three nodes lose the key, and another client locks and releases: repair must not restore the lease."""
    with pytest.raises(LockLost, match="a quorum of nodes no longer has it"), brief.lock("x") as lease:
        token = lease.owner
        run_out(nodes.servers[:3], "x")
        eventually(lambda: lease.is_lost, "the renewal that finds it out")
        assert [found == token for found in holders(nodes.servers[:3], "x")] == [False] * 3


def test_what_the_body_raised_is_not_masked_by_a_lost_lease(nodes: Cluster, brief: Redlock) -> None:
    with pytest.raises(KeyError, match="mine"), brief.lock("x") as lease:
        run_out(nodes.servers, "x")
        eventually(lambda: lease.is_lost, "the loss")
        raise KeyError("mine")


def test_a_failed_extension_leaves_the_old_deadline(nodes: Cluster) -> None:
    with Redlock(nodes.urls, node_timeout=0.25, **LASTING) as client:
        lock = client.lock("x")
        assert lock.acquire()
        with frozen(*nodes.servers[:3]):
            before = lock.lease.remaining()
            with pytest.raises(QuorumUnavailable):
                lock.extend(0.05)
            assert 0 < lock.lease.remaining() <= before
        # Some of the nodes that are back first may never have had the key.
        eventually(lambda: lock.extend(0.05), "an extension by the nodes that are back", despite=RedlockError)


def test_a_lease_extended_beyond_its_ttl_stays_renewed(nodes: Cluster) -> None:
    with client_of(nodes.urls, ttl=4.0) as client:
        lock = client.lock("x")
        with lock as lease:
            # At the next renewal the lease still lasts for more than its TTL.
            lease.extend(6.0)
            outlive(lease)
            lock.extend(4.5, replace_ttl=True)
            outlive(lease)


def test_five_hundred_leases_are_renewed_by_one_thread(nodes: Cluster) -> None:
    # The thread of an earlier client may be ending.
    before = _renewing()
    with client_of(nodes.urls, ttl=6.0) as client:
        leases = [leased(client, f"r:{number}", renew=True) for number in range(500)]
        renewed(*leases)
        assert len(_renewing() - before) == 1


def _renewing() -> set[threading.Thread]:
    return {thread for thread in threading.enumerate() if thread.name == "redlock-renewal"}


def test_a_forked_child_renews_its_own_leases_only(brief: Redlock) -> None:
    with brief.lock("parent") as lease:

        def child() -> list[object]:
            with brief.lock("child") as own:
                renewed(own)
                return [own.fence > 0, len(_renewing())]

        assert in_a_fork(child) == [True, 1]
        lease.ensure_valid()


def test_a_set_of_resources_is_taken_all_or_nothing(nodes: Cluster, brief: Redlock) -> None:
    names, got = ["account:1", "account:2"], list[bool]()
    with client_of(nodes.urls, ttl=5.0) as other:
        with brief.lock("account:2"):
            in_threads(lambda: got.append(other.lock(names, blocking_timeout=0.05).acquire()))
            assert got == [False]
            assert not any(holders(nodes.servers, "account:1")), "nothing is kept of what was not won whole"
        with other.lock(names[::-1]) as lease:
            renewed(lease, client=other)
            assert all(holders(nodes.servers, name).count(lease.owner) >= 3 for name in names)
        assert not any(holders(nodes.servers, *names))


def test_two_transfers_in_opposite_order_never_deadlock(nodes: Cluster) -> None:
    fences: list[int] = []
    with client_of(nodes.urls) as client:

        def transfer(names: list[str]) -> None:
            for _ in range(20):
                with client.lock(names) as lease:
                    fences.append(lease.fence)

        in_threads(lambda: transfer(["a", "b"]), lambda: transfer(["b", "a"]))
    assert len(fences) == 40
    assert fences == sorted(set(fences))


def test_the_same_context_shares_its_lease_where_it_says_so(brief: Redlock) -> None:
    lock = brief.lock("x", reentrant=True)
    with lock as outer:
        with lock as inner, brief.lock(["x"], reentrant=True) as third:
            assert inner.fence == outer.fence == third.fence
            assert inner.owner == outer.owner == third.owner
        assert lock.locked(), "the inner blocks gave nothing back"
        outer.ensure_valid()
    assert not lock.locked()


def test_acquiring_a_held_lock_again_is_an_error_and_no_deadlock(brief: Redlock) -> None:
    with brief.lock("x"):
        with pytest.raises(RedlockError, match="would wait for itself"):
            brief.lock("x").acquire()
        with pytest.raises(RedlockError, match="with the outer lock"):
            brief.lock(["x", "y"], reentrant=True).acquire()
    assert brief.lock("x").acquire(blocking=False)


def test_a_dropped_lease_is_not_renewed(nodes: Cluster) -> None:
    """As where a signal strikes between the end of `__enter__` and the beginning of the block."""
    with client_of(nodes.urls, ttl=2.0) as client:
        client.lock("x").__enter__()
        gc.collect()
        eventually(lambda: not any(holders(nodes.servers, "x")), "the end of a lease without an owner", every=0.1)


def test_many_leases_are_renewed_in_few_exchanges(lasting: Redlock, monkeypatch: pytest.MonkeyPatch) -> None:
    count, sent = [0], sends(monkeypatch)
    extended = LockEventLog.extended

    def counted(journal: LockEventLog, resource: str, grant: Grant) -> None:
        count[0] += 1
        extended(journal, resource, grant)

    monkeypatch.setattr(LockEventLog, "extended", counted)
    first, *leases = [leased(lasting, f"account:{number}", renew=True) for number in range(100)]
    before = sent()
    for renewals in (100, 200, 300):
        # The thread sleeps until the last of these, so all are due at once.
        lasting._context.renewal._added.extend((weakref.ref(lease), now_ms()) for lease in leases)
        renew_now(lasting, first)
        eventually(lambda least=renewals: count[0] >= least, "a renewal of each")  # type: ignore[misc]  # binds the number
    pieces = sent() - before
    assert pieces < 5 * count[0] / 2, "a piece on each of five connections for each renewal is five times as many"
    assert not any(lease.is_lost for lease in leases)


def test_the_failure_of_a_renewal_leaves_other_leases_alone(
    nodes: Cluster, lasting: Redlock, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(_: Lease) -> None:
        raise ZeroDivisionError

    lost = leased(lasting, "lost", renew=True, on_lost=fail)
    leases = [leased(lasting, f"account:{number}", renew=True) for number in range(20)]
    run_out(nodes.servers, "lost")
    renew_now(lasting, lost)
    eventually(lambda: lost.is_lost, "the loss of one")
    eventually(lambda: any("on-lost-failed" in line for line in caplog.messages), "its on_lost, which fails")
    renewed(*leases, client=lasting)


def test_on_lost_may_use_the_lock(nodes: Cluster, brief: Redlock) -> None:
    told = threading.Event()

    def take_another(lost: Lease) -> None:
        lost.release()
        with brief.lock("another", blocking=False):
            told.set()

    lease = leased(brief, "x", renew=True, on_lost=take_another)
    run_out(nodes.servers, "x")
    assert told.wait(30)
    assert not lease.is_held


def test_on_lost_has_no_context_variables(nodes: Cluster, brief: Redlock) -> None:
    """Calls of `on_lost` share threads, and no call sees the variables of another call or of the acquiring code."""
    request = contextvars.ContextVar("request", default="none")
    heard: dict[str, str] = {}

    def on_lost(lease: Lease) -> None:
        heard[lease.resource] = request.get()
        request.set("of a callback")

    with contextlib.ExitStack() as stack:
        for name in "abc":
            request.set(name)
            stack.enter_context(contextlib.suppress(LockLost))
            stack.enter_context(brief.lock(name, on_lost=on_lost))
            stack.enter_context(brief.lock(name, reentrant=True, on_lost=on_lost))
        request.set("later")
        for name in "abc":
            run_out(nodes.servers, name)
        eventually(lambda: len(heard) == 3, "three calls")
    assert heard == dict.fromkeys("abc", "none")
    assert request.get() == "later"


def test_a_blocking_on_lost_delays_no_renewal(nodes: Cluster, lasting: Redlock) -> None:
    blocked, called = threading.Event(), threading.Event()

    def block(_: Lease) -> None:
        called.set()
        blocked.wait(30)

    guilty, innocent = leased(lasting, "guilty", renew=True, on_lost=block), leased(lasting, "innocent", renew=True)
    run_out(nodes.servers, "guilty")
    renew_now(lasting, guilty)
    assert called.wait(30)
    renewed(innocent, client=lasting)
    blocked.set()
    assert guilty.is_lost


def test_an_on_lost_that_exits_ends_no_renewal(nodes: Cluster, lasting: Redlock) -> None:
    called = threading.Event()

    def leave(_: Lease) -> None:
        called.set()
        sys.exit(1)

    lost = leased(lasting, "lost", renew=True, on_lost=leave)
    run_out(nodes.servers, "lost")
    renew_now(lasting, lost)
    assert called.wait(30)
    assert lost.is_lost
    with lasting.lock("next") as lease:
        renewed(lease, client=lasting)


def test_a_lease_that_is_due_earlier_wakes_the_thread(nodes: Cluster) -> None:
    """The second renewed lease of a process: the thread sleeps, for longer than this one lasts."""
    with (
        client_of(nodes.urls, ttl=5.0, max_ttl=60.0) as client,
        client.lock("long", ttl=60.0),
        client.lock("gone", ttl=60.0),
    ):
        sleeping = client._context.renewal._background
        eventually(lambda: sleeping._wakes_ms < now_ms() + 60_000, "a thread that sleeps")
        with client.lock("brief") as lease:
            renewed(lease)


def test_a_lease_that_fails_in_its_turn_ends_no_other(brief: Redlock, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise ZeroDivisionError

    broken = leased(brief, "broken", renew=True)
    leases = [leased(brief, f"account:{number}", renew=True) for number in range(5)]
    monkeypatch.setattr(broken, "_renewing", fail)
    renewed(*leases)


def test_a_loss_that_cannot_be_reported_ends_no_other(brief: Redlock, monkeypatch: pytest.MonkeyPatch) -> None:
    """As where the process may start no more threads."""
    failures: list[None] = []

    def fail() -> None:
        failures.append(None)
        raise RuntimeError("can't start new thread")

    unlucky = leased(brief, "unlucky", renew=True)
    leases = [leased(brief, f"account:{number}", renew=True) for number in range(5)]
    due_ms = now_ms() + 50
    for lease in (unlucky, *leases):
        # All in one batch, this one first.
        brief._context.renewal.add(lease, due_ms)
    monkeypatch.setattr(unlucky, "_report_loss", fail)
    eventually(lambda: failures, "a report that fails")
    renewed(*leases)


def test_a_lease_that_no_thread_can_renew_is_not_acquired(brief: Redlock, caplog: pytest.LogCaptureFixture) -> None:
    assert brief.holder("x") is None  # the connections need threads too
    caplog.set_level("INFO", "redlock")
    lease, renewal = brief.lease("x", renew=True), brief._context.renewal
    with no_thread("redlock-renewal"):
        for _ in range(3):
            with pytest.raises(NoThread, match=r"'x' is not acquired.*ulimit -u"):
                lease.acquire(0)
    assert [line.split()[0] for line in caplog.messages] == ["refused"] * 3
    assert not renewal._added
    lease.acquire(0)
    eventually(lambda: not renewal._added, "the renewal thread")
    assert renewal._schedule.held() == [lease]


@pytest.mark.parametrize("end", [Lease.ensure_valid, Lease.release, lambda lease: lease.release(wait=False)])
def test_a_lease_is_acquired_once(brief: Redlock, end: Callable[[Lease], object]) -> None:
    """Otherwise the renewal thread would finish the release of the first use during the second."""
    lease = brief.lease("x", renew=True)
    lease.acquire(0)
    end(lease)
    was_held = lease.is_held
    with pytest.raises(ConfigurationError, match="a lease is acquired once; make another of 'x'"):
        lease.acquire(0)
    assert lease.is_held is was_held


def test_a_copy_of_the_context_in_another_thread_holds_nothing(brief: Redlock) -> None:
    lock = brief.lock("x", reentrant=True, blocking=False)
    with lock:
        context = contextvars.copy_context()
        got: list[bool] = []
        in_threads(lambda: got.append(context.run(lock.acquire)))
        assert got == [False]


def test_a_lock_that_is_acquired_twice_is_released_twice(brief: Redlock) -> None:
    first, second = brief.lock("x", reentrant=True), brief.lock("x", reentrant=True)
    assert first.acquire()
    assert second.acquire()
    first.release()
    assert first.locked()
    assert second.lease.is_held
    second.release()
    assert not first.locked()


def test_a_forgotten_inner_entry_does_not_outlive_the_block(brief: Redlock) -> None:
    """Like a lease with an interrupted end: the block is over, and the lease was not released."""
    with brief.lock("x") as outer:
        brief.lock("x", reentrant=True).__enter__()
        kept = brief.lock("x", reentrant=True)
        kept.__enter__()
    assert not outer.is_held
    assert not brief.lock("x").locked()
    assert kept


def test_a_frozen_node_ends_no_lease_of_many_threads(nodes: Cluster) -> None:
    with Redlock(nodes.urls, ttl=6.0, node_timeout=1.0) as client, contextlib.ExitStack() as others:
        leases = [client.lease(f"lease {number}", renew=True) for number in range(12)]
        for _ in leases:
            # All sets dial before the first lease: a renewal during the dials would move a lease to another set.
            others.enter_context(client._context.pool.connections()).run(protocol.inspect("x"))
        others.close()
        for lease in leases:
            lease.acquire(0)
            # In use, as by another thread: the next lease is taken on connections of its own.
            others.enter_context(client._context.pool.connections(lease._connections))
        others.close()
        assert len({lease._connections for lease in leases}) == len(leases)
        nodes.servers[0].freeze()
        for _ in range(2):
            deadlines = [now_ms() + lease.remaining() * 1000 for lease in leases]
            eventually(
                lambda before=deadlines: (
                    all(  # type: ignore[misc]  # an argument of the loop's turn
                        now_ms() + lease.remaining() * 1000 > deadline + 10
                        for lease, deadline in zip(leases, before, strict=True)
                    )
                    or any(lease.is_lost for lease in leases)
                ),
                "the renewal of all leases",
            )
            assert not [lease.resource for lease in leases if lease.is_lost]
