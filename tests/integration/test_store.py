"""The fenced store: two doors that keep shared state right where the lock alone would not."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from functools import partial

import pytest
from celery import Celery
from redis import Redis
from redis.exceptions import ConnectionError as StoreGone

from redlock import ConfigurationError, Lease, NotHeld, Redlock, RedlockError, Stale
from redlock._clock import wall_us
from redlock._core.votes import FENCE_LIMIT
from redlock._transport import codec
from redlock.celery import client_for, current_lease, locked
from redlock.fencing import FencedStore
from redlock.testing.redis_server import Cluster, Server
from tests.integration.threads import in_threads, started
from tests.integration.tools import client_of, leased, raw, raws, run_out, sixth_redis

NAME = "hits"


@pytest.fixture
def redis(broker: Server) -> Iterator[Redis]:
    """A client of the Redis that owns the data."""
    with Redis.from_url(f"{broker.url}/2") as client:
        yield client


@pytest.fixture
def store(redis: Redis) -> FencedStore:
    return FencedStore(redis)


def take_over(nodes: Cluster) -> Lease:
    """A new lease after the old one has run out, whatever its holder believes."""
    run_out(nodes.servers, NAME)
    with client_of(nodes.urls) as other:
        return leased(other, NAME)


def one_more(value: str | None) -> str:
    return str(int(value or 0) + 1)


def test_a_write_is_read_by_the_next(client: Redlock, store: FencedStore) -> None:
    lease = leased(client, NAME)
    section = store.open(NAME, lease)
    assert section.value is None

    written = store.write(section, "1", "op-1")

    assert written == ("1", lease.fence, True)
    assert store.read_unfenced(NAME) == "1"
    lease.release()
    assert store.open(NAME, leased(client, NAME)).value == "1"


def test_a_transaction_shows_neither_owner_nor_value(client: Redlock, store: FencedStore) -> None:
    lease = leased(client, NAME)
    store.write(store.open(NAME, lease), "private", "op-1")
    transaction = store.open(NAME, lease)
    assert transaction.owner == lease.owner
    assert not any(secret in repr(transaction) for secret in (lease.owner[:32], "private"))


def test_any_text_can_be_stored(client: Redlock, store: FencedStore) -> None:
    lease = leased(client, NAME)
    for number, value in enumerate(["", "0", "a:b:c", "ünï 🔒", "line\nbreak", "x" * 100_000]):
        assert store.update(NAME, lease, f"op-{number}", lambda _, value=value: value).value == value  # type: ignore[misc]  # the value of this turn
        assert store.read_unfenced(NAME) == value
        assert store.open(NAME, lease).value == value


def test_replies_that_the_client_has_decoded_are_understood(broker: Server, client: Redlock) -> None:
    lease = leased(client, NAME)
    with raw(broker) as redis:
        store = FencedStore(redis)
        store.update(NAME, lease, "op-1", one_more)
        again = store.update(NAME, lease, "op-1", one_more)

    assert again == ("1", lease.fence, False)


def test_an_old_token_may_not_even_read(nodes: Cluster, client: Redlock, store: FencedStore) -> None:
    old = leased(client, NAME)
    new = take_over(nodes)
    store.update(NAME, new, "op-new", one_more)

    with pytest.raises(Stale) as caught:
        store.open(NAME, old)

    assert (caught.value.resource, caught.value.token, caught.value.seen) == (NAME, old.fence, new.fence)
    assert store.read_unfenced(NAME) == "1"


def test_the_lost_update_of_two_holders_is_refused(nodes: Cluster, client: Redlock, store: FencedStore) -> None:
    # Old reads, new reads, old writes, new writes: in the order of their tokens, so a check on writes alone passes.
    store.write_unfenced(NAME, "10")
    old = leased(client, NAME)
    old_section = store.open(NAME, old)
    new = take_over(nodes)
    new_section = store.open(NAME, new)

    with pytest.raises(Stale) as caught:
        store.write(old_section, one_more(old_section.value), "op-old")
    assert caught.value.seen == new.fence
    assert store.read_unfenced(NAME) == "10"
    assert store.write(new_section, one_more(new_section.value), "op-new").value == "11"
    client.observe_fence(NAME, new.fence)
    assert store.update(NAME, take_over(nodes), "op-old", one_more).value == "12"


def test_the_same_number_of_another_owner_is_refused(
    nodes: Cluster, client: Redlock, store: FencedStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    # All nodes have lost their memory, and the clocks stand still: two leases with one token.
    monkeypatch.setattr("redlock._locking.acquisition.wall_us", lambda: 1_000)
    first = leased(client, NAME)
    store.open(NAME, first)
    for node in raws(nodes.servers):
        node.delete(NAME, codec.fence_key(NAME))
    with client_of(nodes.urls) as other:
        second = leased(other, NAME)
        assert second.fence == first.fence

        with pytest.raises(Stale) as caught:
            store.open(NAME, second)

    assert caught.value.seen == second.fence


def test_an_operation_that_was_applied_is_not_applied_again(client: Redlock, store: FencedStore) -> None:
    lease = leased(client, NAME)
    first = store.update(NAME, lease, "op-1", one_more)
    store.update(NAME, lease, "op-2", one_more)

    again = store.update(NAME, lease, "op-1", one_more)

    assert first.applied
    assert again == ("1", first.fence, False)
    assert store.read_unfenced(NAME) == "2"


def test_a_duplicate_gets_its_old_result_under_a_stale_token(
    nodes: Cluster, client: Redlock, store: FencedStore
) -> None:
    old = leased(client, NAME)
    section = store.open(NAME, old)
    new = take_over(nodes)
    store.update(NAME, new, "op-1", one_more)

    assert store.write(section, "7", "op-1") == ("1", new.fence, False)
    assert store.read_unfenced(NAME) == "1"


def test_the_late_write_of_an_earlier_transaction_is_refused(client: Redlock, store: FencedStore) -> None:
    # One lease serves two operations, and a packet of the first comes late.
    lease = leased(client, NAME)
    first = store.open(NAME, lease)
    second = store.open(NAME, lease)
    assert second.number > first.number
    assert store.write(second, "1", "op-2").applied

    with pytest.raises(Stale) as caught:
        store.write(first, "1", "op-1")

    assert caught.value.seen == lease.fence, "its own token: to be opened again under the same lease"
    assert store.update(NAME, lease, "op-1", one_more).value == "2"


def test_a_section_is_good_for_one_write(client: Redlock, store: FencedStore) -> None:
    lease = leased(client, NAME)
    section = store.open(NAME, lease)
    store.write(section, "1", "op-1")

    with pytest.raises(Stale):
        store.write(section, "2", "op-2")

    assert store.read_unfenced(NAME) == "1"


def test_two_threads_under_one_lease_lose_nothing(broker: Server, client: Redlock) -> None:
    lease = leased(client, NAME)

    def work(thread: int) -> None:
        with Redis.from_url(broker.url) as redis:
            for number in range(20):
                FencedStore(redis).update(NAME, lease, f"{thread}-{number}", one_more)

    in_threads(*(partial(work, number) for number in range(3)))

    with Redis.from_url(broker.url) as redis:
        assert FencedStore(redis).read_unfenced(NAME) == "60"


def test_holders_with_lost_leases_lose_and_double_no_write(nodes: Cluster, broker: Server) -> None:
    # The lock is broken on purpose: its keys are deleted all the time, so that there are several holders at once.
    over = threading.Event()
    stale: list[int] = []

    def work(thread: int) -> None:
        with Redis.from_url(broker.url) as redis, client_of(nodes.urls) as client:
            store = FencedStore(redis)
            for number in range(15):
                done = False
                while not done:
                    with suppress(RedlockError), client.lock(NAME, blocking_timeout=0.05, renew=False) as lease:
                        try:
                            store.update(NAME, lease, f"{thread}-{number}", one_more)
                            done = True
                        except Stale as error:
                            stale.append(error.token)
                            client.observe_fence(NAME, error.seen)

    def break_the_lock() -> None:
        while not over.is_set():
            run_out(nodes.servers, NAME)

    breaker = started(break_the_lock)
    try:
        in_threads(*(partial(work, number) for number in range(4)))
    finally:
        over.set()
        breaker.join()

    with Redis.from_url(broker.url) as redis:
        assert FencedStore(redis).read_unfenced(NAME) == "60"


def test_tokens_that_went_backwards_heal_by_themselves(
    nodes: Cluster, client: Redlock, store: FencedStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    high = leased(client, NAME)
    store.update(NAME, high, "op-1", one_more)
    # The disaster: no node remembers any token, and the clocks are behind.
    for node in raws(nodes.servers):
        node.delete(NAME, codec.fence_key(NAME))
    monkeypatch.setattr("redlock._locking.acquisition.wall_us", lambda: 1_000)
    with client_of(nodes.urls) as other:
        low = leased(other, NAME)
        assert low.fence < high.fence
        with pytest.raises(Stale) as caught:
            store.update(NAME, low, "op-2", one_more)
        assert caught.value.seen == high.fence
        low.release()

        other.observe_fence(NAME, caught.value.seen)
        healed = leased(other, NAME)

        assert healed.fence > high.fence
        assert store.update(NAME, healed, "op-2", one_more).value == "2"


def test_a_task_that_the_store_refused_gets_a_larger_token(nodes: Cluster, store: FencedStore, redis: Redis) -> None:
    app = Celery("here", broker="memory://", set_as_current=False)
    app.conf.redlock_nodes = nodes.urls

    @app.task(shared=False)
    @locked(NAME, on_conflict="raise")
    def add() -> int:
        return store.update(NAME, current_lease(), "op-1", one_more).fence

    # As after the loss of all nodes, by clocks that are behind.
    ahead = wall_us() + 60_000_000
    redis.hset(f"store:{NAME}", mapping={"fence": ahead, "owner": "another"})
    try:
        with pytest.raises(Stale):
            add()
        assert add() > ahead
    finally:
        client_for(app).close()
        app.close()


def test_a_token_far_ahead_is_kept_with_all_its_digits(nodes: Cluster, client: Redlock, store: FencedStore) -> None:
    soon = time.time_ns() // 1_000 + 3_000_000_001
    for node in raws(nodes.servers):
        node.set(codec.fence_key(NAME), soon)
    lease = leased(client, NAME)
    assert lease.fence == soon + 1
    assert store.update(NAME, lease, "op-1", one_more).fence == soon + 1
    assert store.update(NAME, lease, "op-1", one_more).fence == soon + 1

    lease.release()
    last = leased(client, NAME)
    assert last.fence == soon + 2
    store.open(NAME, last)

    with pytest.raises(Stale) as caught:
        store.write(store.open(NAME, last)._replace(fence=soon + 1), "1", "op-2")
    assert caught.value.seen == soon + 2


def test_an_invalid_token_in_the_store_is_repaired_by_the_manual(
    client: Redlock, redis: Redis, store: FencedStore, caplog: pytest.LogCaptureFixture
) -> None:
    """The token must not reach the nodes and other resources, because every node would then refuse the client."""
    store.write_unfenced(NAME, "10")
    redis.hset(f"store:{NAME}", mapping={"fence": FENCE_LIMIT - 5, "owner": "of 2112"})
    lease = leased(client, NAME)
    with pytest.raises(Stale) as caught:
        store.update(NAME, lease, "op-1", one_more)
    client.observe_fence(NAME, caught.value.seen)
    assert "fence-implausible" in caplog.text
    lease.release()
    lease = leased(client, NAME)
    assert lease.fence < time.time_ns() // 1_000 + 3_600_000_000

    redis.hset(f"store:{NAME}", "fence", 0)
    assert store.update(NAME, lease, "op-1", one_more).value == "11"
    assert store.update(NAME, lease, "op-1", one_more).applied is False


def test_values_and_operations_survive_a_crash_of_the_store(nodes: Cluster, client: Redlock) -> None:
    with sixth_redis() as server:
        old = leased(client, NAME)
        new = take_over(nodes)
        with Redis.from_url(server.url) as redis:
            store = FencedStore(redis)
            store.update(NAME, new, "op-1", one_more)
            section = store.open(NAME, new)
            server.kill()
            with pytest.raises(StoreGone):
                store.write(section, "2", "op-2")
            server.start()

            assert store.read_unfenced(NAME) == "1"
            with pytest.raises(Stale):
                store.open(NAME, old)
            assert store.update(NAME, new, "op-1", one_more) == ("1", new.fence, False)
            assert store.write(store.open(NAME, new), "2", "op-2").applied


def test_a_store_that_forgot_its_scripts_is_taught_them_again(
    client: Redlock, store: FencedStore, redis: Redis
) -> None:
    lease = leased(client, NAME)
    store.update(NAME, lease, "op-1", one_more)
    redis.script_flush()

    assert store.update(NAME, lease, "op-2", one_more).value == "2"


def test_operations_are_remembered_and_not_for_ever(client: Redlock, store: FencedStore, redis: Redis) -> None:
    store.update(NAME, leased(client, NAME), "op-1", one_more)

    (left,) = {redis.pttl(key) for key in redis.scan_iter("*done*")}
    assert 6 * 24 * 3600 * 1000 < left <= 7 * 24 * 3600 * 1000
    assert redis.pttl(f"store:{NAME}") == -1, "the state itself stays"


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (("a", "op-1"), ("b", "op-1")),
        (("a", "b:done:c"), ("a:done:b", "c")),
        (("a", "done:b"), ("a:done", "b")),
        (("a", "\x01done:b"), ("a", "b")),
        (("a", "b\x01done:c"), ("a:done:b", "c")),
    ],
)
def test_operations_that_look_alike_are_two(
    client: Redlock, store: FencedStore, first: tuple[str, str], second: tuple[str, str]
) -> None:
    lease = leased(client, NAME)

    for name, op_id in (first, second):
        assert store.update(name, lease, op_id, one_more).applied
        assert not store.update(name, lease, op_id, one_more).applied


def test_a_name_that_looks_like_an_operation_has_a_value(client: Redlock, store: FencedStore) -> None:
    lease = leased(client, NAME)
    store.update("a", lease, "b", one_more)

    assert store.update("a:done:b", lease, "c", one_more).value == "1"


def test_a_prefix_without_control_characters(redis: Redis) -> None:
    with pytest.raises(ConfigurationError, match="control character"):
        FencedStore(redis, prefix="a\x01done:")


def test_without_a_lease_nothing_is_read(client: Redlock, store: FencedStore) -> None:
    lease = client.lease(NAME)
    with pytest.raises(NotHeld):
        store.open(NAME, lease)

    lease.acquire(0)
    lease.release()
    with pytest.raises(NotHeld):
        store.open(NAME, lease)


def test_a_change_that_fails_writes_and_blocks_nothing(client: Redlock, store: FencedStore) -> None:
    lease = leased(client, NAME)

    def fail(_: str | None) -> str:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        store.update(NAME, lease, "op-1", fail)

    assert store.read_unfenced(NAME) is None
    assert store.update(NAME, lease, "op-1", one_more).value == "1"
