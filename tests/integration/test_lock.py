"""`Lock` keeps the conventions of redis-py's `Lock`, on five real nodes."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress

import pytest
from redis.exceptions import LockError, LockNotOwnedError

from redlock import ConfigurationError, LockContended, LockLost, NotHeld, Redlock, RedlockError
from redlock._core.commands import Acquire, Command
from redlock._locking.driver import ThreadsDriver
from redlock._locking.effects import Effects
from redlock._locking.lock_events import LockEventLog
from redlock._transport.codec import Codec
from redlock.lease import Lease
from redlock.testing.redis_server import Cluster
from tests.integration.threads import in_threads, started
from tests.integration.tools import (
    LASTING,
    blocked_clients,
    client_of,
    eventually,
    holders,
    in_a_fork,
    is_free,
    kill_all,
    leased,
    raw,
    raws,
    run_out,
    stands_on_all,
)
from tests.integration.tracer import Interrupted

NAME = "account:42"


@pytest.fixture
def brief(nodes: Cluster) -> Iterator[Redlock]:
    """A client with leases that expire soon without renewal. On a busy machine it needs several rounds for a lease."""
    with client_of(nodes.urls, ttl=0.6) as redlock:
        yield redlock


def remaining_ms(nodes: Cluster, name: str) -> list[int]:
    return [redis.pttl(name) for redis in raws(nodes.servers)]


@pytest.fixture
def lasting(nodes: Cluster) -> Iterator[Redlock]:
    """A client whose locks end by a release alone."""
    with client_of(nodes.urls, **LASTING) as redlock:
        yield redlock


def test_acquire_sets_and_release_deletes_the_token_on_all_nodes(nodes: Cluster, lasting: Redlock) -> None:
    lock = lasting.lock(NAME)

    assert lock.acquire() is True
    eventually(lambda: holders(nodes.servers, NAME) == [lock.lease.owner] * 5, "the token on all five nodes")
    lock.release()

    eventually(lambda: is_free(nodes.servers, NAME), "no key on any node")


def test_the_key_runs_out_with_the_ttl_that_the_lock_was_given(nodes: Cluster, lasting: Redlock) -> None:
    lock = lasting.lock(NAME, ttl=37.5)

    lock.acquire()

    assert all(15_000 < left <= 37_500 for left in remaining_ms(nodes, NAME) if left != -2)
    assert 15.0 < lock.lease.remaining() < 37.5
    lock.release()


def test_acquire_returns_false_while_another_client_holds_it(client: Redlock, rival: Redlock) -> None:
    with rival.lock(NAME):
        assert client.lock(NAME).acquire(blocking=False) is False
        assert client.lock(NAME, blocking=False).acquire() is False
        assert client.lock(NAME).acquire(blocking_timeout=0.1) is False
        assert client.lock(NAME, blocking_timeout=0.1).acquire() is False
        assert client.lock(NAME).acquire(False) is False  # noqa: FBT003 - as threading's locks are used
    assert client.lock(NAME).acquire(True, 1.0) is True  # noqa: FBT003 - as above


def test_not_blocking_and_a_timeout_of_zero_both_mean_one_try(
    nodes: Cluster, rival: Redlock, monkeypatch: pytest.MonkeyPatch
) -> None:
    attempts, encode = [0], Codec.encode

    def counted(codec: Codec, command: Command) -> bytes:
        attempts[0] += isinstance(command, Acquire)
        return encode(codec, command)

    # A node that is late counts as silent, and without a quorum the client tries again.
    with Redlock(nodes.urls, node_timeout=4.0, ttl=10.0) as client, rival.lock(NAME):
        lock = client.lock(NAME)
        # New connections: nodes that have not got the scripts yet are asked twice.
        assert lock.acquire(blocking=False) is False
        monkeypatch.setattr(Codec, "encode", counted)

        def tries(*, blocking: bool = True, blocking_timeout: float | None = None) -> int:
            attempts[0] = 0
            assert lock.acquire(blocking=blocking, blocking_timeout=blocking_timeout) is False
            return attempts[0]

        assert tries(blocking=False) == 1
        assert tries(blocking_timeout=0) == 1
        # An attempt that a pause of the machine makes long leaves no time for another.
        eventually(lambda: tries(blocking_timeout=1.0) > 1, "a second attempt")


def test_arguments_of_acquire_override_the_settings_of_the_lock(client: Redlock, rival: Redlock) -> None:
    patient = client.lock(NAME)
    impatient = client.lock(NAME, blocking=False)

    with rival.lock(NAME):
        # The lease is renewed: without a limit each of them would wait for ever.
        assert patient.acquire(blocking=False) is False
        assert impatient.acquire(blocking=True, blocking_timeout=0.05) is False
        assert patient.acquire(blocking_timeout=0) is False


def test_a_blocking_timeout_is_waited_for_and_not_overrun(client: Redlock, rival: Redlock) -> None:
    # The lease is renewed: without a limit the call would wait for ever.
    with rival.lock(NAME):
        started = time.monotonic()
        assert client.lock(NAME).acquire(blocking_timeout=0.4) is False
        waited = time.monotonic() - started

    assert waited > 0.2, "gave up long before its time"


def test_a_waiter_gets_the_lock_as_soon_as_it_is_released(nodes: Cluster, lasting: Redlock) -> None:
    got: list[bool] = []
    with client_of(nodes.urls, **LASTING) as rival, rival.lock(NAME):
        waiter = started(lambda: got.append(lasting.lock(NAME).acquire()))
        eventually(lambda: blocked_clients(nodes.servers), "a waiter")
    waiter.join(30)
    assert got == [True], "waits for the end of a lease that has been released"


def test_a_waiter_gets_the_lock_when_the_holders_lease_ends(client: Redlock, brief: Redlock) -> None:
    dead = brief.lock(NAME)
    dead.acquire(blocking_timeout=30.0)
    lock = client.lock(NAME)

    assert lock.acquire() is True
    assert lock.fence > dead.lease.fence
    lock.release()


def test_with_gives_the_lease_and_releases_at_the_end(nodes: Cluster, lasting: Redlock) -> None:
    with lasting.lock(NAME) as lease:
        assert lease.resource == NAME
        assert lease.fence > 0
        assert lease.remaining() > 0
        lease.ensure_valid()
        assert not is_free(nodes.servers, NAME)

    eventually(lambda: is_free(nodes.servers, NAME), "no key on any node")
    assert not lease.is_held


@pytest.mark.parametrize("acquire_timeout", [{"blocking": False}, {"blocking_timeout": 0}, {"blocking_timeout": 0.05}])
def test_with_raises_and_never_enters_the_body_without_the_lock(
    client: Redlock, rival: Redlock, acquire_timeout: dict[str, float]
) -> None:
    entered = False

    with rival.lock(NAME):
        with pytest.raises(LockContended) as caught, client.lock(NAME, **acquire_timeout):  # type: ignore[arg-type]  # bool or float
            entered = True
        error = caught.value
        assert not entered
        assert error.resource == NAME
        assert error.holder is not None
        assert error.remaining is not None
        assert 0 < error.remaining <= 9.0


def test_a_lock_that_with_could_not_have_is_left_as_it_was(client: Redlock, rival: Redlock) -> None:
    lock = client.lock(NAME, blocking=False)

    with rival.lock(NAME), suppress(LockContended), lock:
        pytest.fail("entered without the lock")

    with lock as lease:
        assert lease.is_held


def test_release_without_a_lease_raises_an_error_of_redis_py(client: Redlock) -> None:
    lock = client.lock(NAME)
    with pytest.raises(NotHeld) as caught:
        lock.release()
    assert isinstance(caught.value, LockError)

    lock.acquire()
    lock.release()

    with pytest.raises(NotHeld):
        lock.release()


def test_release_of_an_expired_lease_raises_lock_lost_once(nodes: Cluster, brief: Redlock) -> None:
    lock = brief.lock(NAME)
    lock.acquire(blocking_timeout=30.0)
    eventually(lambda: is_free(nodes.servers, NAME), "the end of the lease")

    with pytest.raises(LockLost, match="its time was over before the release") as caught:
        lock.release()
    assert isinstance(caught.value, LockNotOwnedError)
    with pytest.raises(NotHeld):
        lock.release()
    assert lock.acquire(blocking_timeout=30.0) is True


def test_a_with_block_raises_lock_lost_unless_the_body_raised(nodes: Cluster, lasting: Redlock) -> None:
    with pytest.raises(LockLost, match="a quorum of nodes no longer had it at the release"), lasting.lock(NAME):
        run_out(nodes.servers, NAME)


def test_what_the_body_raised_is_never_masked(nodes: Cluster, client: Redlock) -> None:
    with pytest.raises(ZeroDivisionError), client.lock(NAME):
        run_out(nodes.servers, NAME)
        _ = 1 / 0
    with pytest.raises(ZeroDivisionError), client.lock(NAME):
        kill_all(nodes.servers)
        _ = 1 / 0


def test_a_body_that_released_the_lock_gets_an_error_or_its_own(client: Redlock) -> None:
    lock = client.lock(NAME)

    with pytest.raises(NotHeld), lock:
        lock.release()
    with pytest.raises(ZeroDivisionError), lock:
        lock.release()
        _ = 1 / 0


def test_a_failed_attempt_of_a_thread_leaves_the_lease_alone(client: Redlock) -> None:
    lock = client.lock(NAME)
    lock.acquire()
    before = lock.lease.owner
    seen: list[object] = []

    def intrude() -> None:
        seen.append(lock.acquire(blocking=False))
        seen.append(lock.owned())
        try:
            lock.release()
        except NotHeld as error:
            seen.append(type(error))

    in_threads(intrude)

    assert seen == [False, False, NotHeld]
    assert lock.lease.owner == before
    assert lock.owned()
    lock.release()


def test_an_unlimited_wait_for_oneself_is_refused(client: Redlock) -> None:
    lock = client.lock(NAME)

    with lock as lease:
        with pytest.raises(RedlockError, match=f"'{NAME}' is held by this"):
            lock.acquire()
        assert lock.lease is lease
        assert lock.owned()


@pytest.mark.parametrize("limit", [{"blocking": False}, {"blocking_timeout": 0}, {"blocking_timeout": 0.05}])
def test_a_second_lock_of_the_same_thread_returns_false(client: Redlock, limit: dict[str, float]) -> None:
    with client.lock(NAME) as lease:
        assert client.lock(NAME).acquire(**limit) is False  # type: ignore[arg-type]  # as named
        assert client.lock([NAME, "more"]).acquire(**limit) is False  # type: ignore[arg-type]  # as above
        with pytest.raises(LockContended):
            client.lock(NAME, **limit).__enter__()  # type: ignore[arg-type]  # as above
        lease.ensure_valid()


def test_a_wait_for_a_lease_of_this_thread_ends_with_it(brief: Redlock) -> None:
    first, second = brief.lock(NAME), brief.lock(NAME, ttl=9.0)
    first.acquire(blocking_timeout=30.0)
    assert second.acquire(blocking_timeout=30.0) is True
    assert second.fence > first.fence
    second.release()


def test_an_acquire_in_a_block_outlives_the_block(nodes: Cluster, client: Redlock) -> None:
    inner = client.lock(NAME, reentrant=True)
    with client.lock(NAME) as outer:
        assert inner.acquire()
    eventually(lambda: holders(nodes.servers, NAME) == [outer.owner] * 5, "the lock on all nodes")
    inner.release()
    assert is_free(nodes.servers, NAME)


def test_a_thread_may_acquire_an_expired_lock_again(nodes: Cluster, brief: Redlock) -> None:
    lost = brief.lock(NAME)
    lost.acquire(blocking_timeout=30.0)
    eventually(lambda: lost.lease.remaining() == 0, "the end of the lease")

    with brief.lock(NAME, ttl=9.0) as lease:
        assert lease.is_held
        with pytest.raises(LockLost):
            lost.release()
        assert lease.owner in holders(nodes.servers, NAME)


def test_locks_on_different_resources_do_not_meet(client: Redlock) -> None:
    with client.lock("a") as a, client.lock("b", blocking=False) as b:
        assert a.owner != b.owner


def test_every_lease_has_a_token_of_its_own(client: Redlock) -> None:
    lock = client.lock(NAME)
    tokens = set()
    for _ in range(20):
        lock.acquire()
        tokens.add(lock.lease.owner)
        lock.release()

    assert len(tokens) == 20
    assert len({token[:32] for token in tokens}) == 20, "the secret part is what has to differ"


def test_an_expired_lease_is_released_without_harm_to_the_next(nodes: Cluster, client: Redlock, rival: Redlock) -> None:
    late = client.lock(NAME)
    late.acquire()
    run_out(nodes.servers, NAME)
    now = rival.lock(NAME)
    assert now.acquire(blocking=False)
    stands_on_all(nodes.servers, NAME)
    before = holders(nodes.servers, NAME)

    with pytest.raises(LockLost):
        late.extend(1)
    with pytest.raises(LockLost):
        late.release()

    assert holders(nodes.servers, NAME) == before
    assert now.owned()
    now.release()


def test_extend_adds_to_the_time_and_never_shortens_it(nodes: Cluster, lasting: Redlock) -> None:
    lock = lasting.lock(NAME, ttl=100)
    lock.acquire()
    before = lock.lease.remaining()

    assert lock.extend(100) is True

    assert lock.lease.remaining() > before + 50
    eventually(lambda: all(left > 120_000 for left in remaining_ms(nodes, NAME)), "the new time on all nodes")

    assert lock.extend(1, replace_ttl=True) is True

    assert lock.lease.remaining() > 100
    assert all(left > 100_000 for left in remaining_ms(nodes, NAME))
    lock.release()


def test_extend_can_count_from_now(lasting: Redlock) -> None:
    lock = lasting.lock(NAME, ttl=20)
    lock.acquire()

    lock.extend(50, True)  # noqa: FBT003 - by position, as with redis-py

    assert 20 < lock.lease.remaining() <= 50
    lock.release()


def test_reacquire_sets_the_time_back_to_the_ttl(nodes: Cluster, lasting: Redlock) -> None:
    lock = lasting.lock(NAME)
    lock.acquire()
    deadline_ms = lock.lease._held().deadline_ms
    eventually(lambda: lock.lease.remaining() < 239.0, "some time to pass")
    for redis in raws(nodes.servers):
        redis.pexpire(NAME, 20_000)

    assert lock.reacquire() is True

    assert lock.lease._held().deadline_ms > deadline_ms
    assert sum(left > 20_000 for left in remaining_ms(nodes, NAME)) >= 3
    lock.release()


def test_an_extension_beyond_max_ttl_is_refused_without_effect(client: Redlock) -> None:
    """Three emptied nodes vote again after `max_ttl`, so no lease may be longer."""
    lock = client.lock(NAME)
    lock.acquire()
    before = lock.lease.remaining()

    with pytest.raises(ConfigurationError, match="max_ttl"):
        lock.extend(9)

    assert 0 < lock.lease.remaining() <= before
    assert lock.owned()
    lock.release()


BAD_SECONDS = [0, -5, -0.5, True, float("nan"), float("inf"), "1", None, 10.001, 30_000]


@pytest.mark.parametrize("seconds", BAD_SECONDS, ids=str)
def test_a_bad_extension_is_refused_and_changes_nothing(client: Redlock, seconds: object) -> None:
    with client.lock(NAME, renew=False) as lease:
        before = lease.remaining()
        with pytest.raises(ConfigurationError) as refused:
            lease.extend(seconds)  # type: ignore[arg-type]  # that is the point
        assert "\n" not in str(refused.value)
        assert 0 < lease.remaining() <= before


def test_a_lease_is_extended_by_seconds_and_never_shortened(nodes: Cluster, lasting: Redlock) -> None:
    with lasting.lock(NAME, ttl=20, renew=False) as lease:
        lease.extend(59.5)
        assert 20 < lease.remaining() <= 59.5
        for shorter in (1e-9, 0.001, 1, 1.5):
            lease.extend(shorter)
        assert lease.remaining() > 20
        eventually(lambda: min(remaining_ms(nodes, NAME)) > 20_000, "the new time on all nodes")


def test_extending_a_lock_that_is_not_held_is_an_error(client: Redlock) -> None:
    lock = client.lock(NAME)

    with pytest.raises(NotHeld):
        lock.extend(1)
    with pytest.raises(NotHeld):
        lock.reacquire()


def test_extension_of_an_expired_lease_raises_lock_lost(nodes: Cluster, brief: Redlock) -> None:
    lock = brief.lock(NAME)
    lock.acquire(blocking_timeout=30.0)
    eventually(lambda: lock.lease.remaining() == 0, "the end of the lease")

    for _ in range(2):
        with pytest.raises(LockLost):
            lock.extend(1)
    with pytest.raises(LockLost):
        lock.lease.ensure_valid()

    eventually(lambda: is_free(nodes.servers, NAME), "no key on any node")


def test_a_lease_that_a_quorum_of_nodes_has_lost_is_not_extended(nodes: Cluster, client: Redlock) -> None:
    lock = client.lock(NAME)
    lock.acquire()
    eventually(lambda: all(holders(nodes.servers, NAME)), "the key on all five nodes")
    run_out(nodes.servers[:3], NAME)

    with pytest.raises(LockLost):
        lock.extend(1)

    assert holders(nodes.servers[:3], NAME) == [None, None, None]


def test_locked_and_owned_show_own_and_foreign_and_no_holders(nodes: Cluster, client: Redlock, rival: Redlock) -> None:
    mine, theirs = client.lock(NAME), rival.lock(NAME)
    assert (mine.locked(), mine.owned(), theirs.locked(), theirs.owned()) == (False, False, False, False)

    mine.acquire()
    assert (mine.locked(), mine.owned(), theirs.locked(), theirs.owned()) == (True, True, True, False)

    eventually(lambda: all(holders(nodes.servers, NAME)), "the key on all five nodes")
    run_out(nodes.servers[:3], NAME)
    assert not mine.owned(), "only two nodes still have it"

    run_out(nodes.servers, NAME)
    assert (mine.locked(), mine.owned(), theirs.locked(), theirs.owned()) == (False, False, False, False)
    theirs.acquire()
    assert (mine.locked(), mine.owned(), theirs.locked(), theirs.owned()) == (True, False, True, True)
    theirs.release()


def test_a_release_of_another_thread_during_owned(client: Redlock, monkeypatch: pytest.MonkeyPatch) -> None:
    lock = client.lock(NAME, thread_local=False)
    lock.acquire()

    def after_a_release(lease: Lease) -> bool:
        monkeypatch.undo()
        in_threads(lock.release)
        return lease.is_lost

    monkeypatch.setattr(Lease, "is_lost", property(after_a_release))
    assert not lock.owned()


def test_owned_looks_at_the_deadline_and_not_only_at_the_nodes(nodes: Cluster, brief: Redlock) -> None:
    lock = brief.lock(NAME)
    lock.acquire(blocking_timeout=30.0)
    token = lock.lease.owner
    for redis in raws(nodes.servers):
        redis.set(NAME, token)

    eventually(lambda: lock.lease.remaining() == 0, "the end of the lease")

    assert not lock.owned()


def test_the_holder_can_be_looked_up_without_its_secret(client: Redlock, rival: Redlock) -> None:
    assert client.holder(NAME) is None

    with rival.lock(NAME) as lease:
        holding = client.holder(NAME)
        assert holding is not None
        assert holding.resource == NAME
        assert holding.nodes >= 3
        assert holding.fence == lease.fence
        assert holding.remaining is not None
        assert 0 < holding.remaining <= 9.0
        assert lease.owner[:32] not in holding.holder
        assert lease.owner[:8] in holding.holder


def test_twenty_threads_with_one_lock_never_hold_it_together(client: Redlock) -> None:
    lock = client.lock(NAME, ttl=10)
    counter = {"value": 0}
    fences: list[int] = []
    at_the_lock: list[None] = []

    def work() -> None:
        for _ in range(5):
            at_the_lock.append(None)
            with lock as lease:
                read = counter["value"]
                # Other threads get time to enter, if the lock lets them.
                eventually(lambda: len(at_the_lock) == sum(thread.is_alive() for thread in threads), "all are here")
                counter["value"] = read + 1
                fences.append(lease.fence)
                at_the_lock.pop()

    threads = [threading.Thread(target=work) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)

    assert counter["value"] == 100
    assert fences == sorted(set(fences))


def test_a_forked_child_leaves_its_parents_lease_alone(nodes: Cluster, client: Redlock) -> None:
    lock = client.lock(NAME)
    lock.acquire()
    lease = lock.lease

    def in_the_child() -> dict[str, object]:
        told: dict[str, object] = {}
        acts: dict[str, Callable[[], object]] = {
            "release": lock.release,
            "extend": lambda: lock.extend(1),
            "fence": lambda: lease.fence,
            "give back": lease.release,
        }
        for name, act in acts.items():
            try:
                act()
            except NotHeld:
                told[name] = "NotHeld"
        told["theirs"] = client.lock(NAME).acquire(blocking=False)
        with client.lock("child's own") as own:
            told["own"] = own.is_held
        client.close()
        return told

    def connections() -> int:
        with raw(nodes[0]) as redis:
            return int(redis.info("stats")["total_connections_received"])

    before = connections()
    told = in_a_fork(in_the_child)

    assert connections() > before + 1, "the child dialled nobody; one connection is the one that asks"
    assert told == {
        "release": "NotHeld",
        "extend": "NotHeld",
        "fence": "NotHeld",
        "give back": "NotHeld",
        "theirs": False,
        "own": True,
    }
    before = connections()
    assert lock.owned()
    lock.release()
    assert lock.acquire(blocking=False)
    lock.release()
    assert connections() == before + 1, "the parent had to dial again; one connection is the one that asks"


def test_a_closed_client_has_no_connections_until_its_next_use(nodes: Cluster, client: Redlock) -> None:
    lock = client.lock(NAME)
    lock.acquire()
    client.close()

    with raw(nodes[0]) as redis:
        eventually(lambda: len(redis.client_list()) == 1, "the end of all connections but the one that asks")

    lock.release()
    with lock as lease:
        assert lease.is_held


@pytest.mark.parametrize("name", ["x", "ünïcode 🔒", "with space", "{braces}", "x" * 1_024, "'; return 1 --"])
def test_any_text_without_control_characters_can_be_locked(client: Redlock, rival: Redlock, name: str) -> None:
    with client.lock(name):
        assert rival.lock(name).acquire(blocking=False) is False


def test_a_very_long_owner_label_takes_the_lock_all_the_same(client: Redlock, nodes: Cluster) -> None:
    lease = leased(client, NAME, owner_label=f"{'t' * 1_000_000}@host since 2026-11-24T12:00:00Z")
    (token,) = {holder for holder in holders(nodes.servers, NAME) if holder}
    lease.release()
    assert len(token) < 300
    assert token.endswith("@host since 2026-11-24T12:00:00Z")


def test_leases_that_expired_do_not_accumulate(brief: Redlock) -> None:
    lock = brief.lock(NAME)
    for _ in range(4):
        assert lock.acquire(blocking_timeout=30.0)
        eventually(lambda: lock.lease.is_lost, "the end of a lease that is not renewed")
    assert lock.acquire(blocking_timeout=30.0)
    assert len(lock._leases) == 1
    with suppress(LockLost):
        lock.release()
    with pytest.raises(NotHeld):
        _ = lock.fence


def test_a_block_whose_lease_expired_still_says_so(brief: Redlock) -> None:
    lock = brief.lock(NAME, renew=False, blocking_timeout=30.0)
    with pytest.raises(LockLost), lock as lease:
        eventually(lambda: lease.is_lost, "the end of a lease that is not renewed")
        assert lock.acquire(blocking_timeout=30.0)
        lock.release()


@pytest.mark.parametrize(("thread_local", "said"), [(True, "by this thread"), (False, "by this Lock")])
def test_another_thread_may_release(nodes: Cluster, client: Redlock, thread_local: bool, said: str) -> None:
    lock = client.lock(NAME, thread_local=thread_local)
    assert lock.acquire()
    in_threads(lock.lease.release if thread_local else lock.release)
    assert is_free(nodes.servers, NAME)
    with pytest.raises(NotHeld, match=said):
        lock.release()


def test_an_event_loop_may_use_a_lock_where_that_is_allowed(nodes: Cluster) -> None:
    async def directly(client: Redlock) -> None:
        with client.lock(NAME) as lease:
            lease.ensure_valid()

    async def in_another_thread(client: Redlock) -> bool:
        return await asyncio.to_thread(client.lock(NAME).acquire)

    with client_of(nodes.urls, allow_event_loop=True) as client:
        asyncio.run(directly(client))
    with client_of(nodes.urls) as client:
        assert asyncio.run(in_another_thread(client)) is True


def strike(*_: object, **__: object) -> None:
    raise Interrupted


def test_an_acquisition_interrupted_at_its_end_is_undone(
    nodes: Cluster, lasting: Redlock, monkeypatch: pytest.MonkeyPatch
) -> None:
    lease = lasting.lease(NAME)
    with monkeypatch.context() as patch, pytest.raises(Interrupted):
        patch.setattr(LockEventLog, "acquired", strike)
        lease.acquire(0)
    assert not lease.is_held
    eventually(lambda: is_free(nodes.servers, NAME), "its cancellation")
    with lasting.lock(NAME, blocking=False):
        pass


def test_a_lock_interrupted_after_its_acquisition_is_released(
    nodes: Cluster, client: Redlock, monkeypatch: pytest.MonkeyPatch
) -> None:
    win = ThreadsDriver.run

    def win_and_strike(driver: ThreadsDriver, steps: Effects[None]) -> None:
        win(driver, steps)
        raise Interrupted

    lock = client.lock(NAME)
    for take in (lock.acquire, lock.__enter__):
        with monkeypatch.context() as patch, pytest.raises(Interrupted):
            patch.setattr(ThreadsDriver, "run", win_and_strike)
            take()
        assert is_free(nodes.servers, NAME)
        with pytest.raises(NotHeld):
            _ = lock.lease
