"""Other Redlock clients and ours exclude each other: `SET name value NX PX` at the resource's own name."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack

import pytest
from redis import Redis
from redis.exceptions import LockNotOwnedError
from redis.lock import Lock as RedisLock

from redlock import LockContended, LockLost, Redlock
from redlock._core.commands import Command
from redlock._core.votes import masked_token
from redlock._transport.codec import RECORD, Codec
from redlock.admin.bootstrap import declare_nodes
from redlock.admin.cluster_status import cluster_status
from redlock.testing.redis_server import Cluster, Server
from tests.integration.tools import client_of, eventually, holders, leased, raw, raws, run_out
from tests.unit.helpers import each_command, script_call

NAME = "invoice:9"
THEIRS = "a1b2c3d4"
THEIR_RELEASE = "if redis.call('get', KEYS[1]) == ARGV[1] then return redis.call('del', KEYS[1]) else return 0 end"
"""The script of the Redis documentation, word for word; every Redlock client has this script."""


def they_take(servers: Sequence[Server], *, px: int | None = 60_000) -> list[bool]:
    """The acquire of any other Redlock client; returns for each node whether the node granted the lock."""
    return [bool(redis.set(NAME, THEIRS, nx=True, px=px)) for redis in raws(servers)]


def they_release(servers: Sequence[Server], value: str) -> int:
    """The release of any other Redlock client; returns the number of nodes that deleted the key."""
    return sum(redis.eval(THEIR_RELEASE, 1, NAME, value) for redis in raws(servers))


@pytest.fixture
def redis_locks(nodes: Cluster) -> Iterator[list[RedisLock]]:
    with ExitStack() as stack:
        clients: list[Redis] = [stack.enter_context(raw(server)) for server in nodes.servers]
        yield [client.lock(NAME, timeout=60, blocking=False) for client in clients]


def test_no_other_client_can_set_a_lock_that_we_hold(nodes: Cluster, client: Redlock) -> None:
    with client.lock(NAME) as lease:
        eventually(lambda: holders(nodes.servers, NAME) == [lease.owner] * 5, "our key on all nodes")

        assert they_take(nodes.servers) == [False] * 5
    eventually(lambda: sum(they_take(nodes.servers)) >= 3, "a quorum of nodes for them")


def test_a_foreign_lock_on_a_quorum_is_contended_for_us(nodes: Cluster, client: Redlock) -> None:
    assert they_take(nodes.servers[1:4]) == [True] * 3

    assert client.lock(NAME).acquire(blocking=False) is False
    with pytest.raises(LockContended) as caught, client.lock(NAME, blocking=False):
        pytest.fail("entered without the lock")

    assert caught.value.holder is not None
    assert caught.value.holder.startswith(THEIRS[:2])
    assert caught.value.remaining is not None
    assert 0 < caught.value.remaining <= 60
    assert holders(nodes.servers, NAME) == [None, THEIRS, THEIRS, THEIRS, None], "our attempt was not taken back"


def test_a_foreign_lock_without_ttl_is_held_for_an_unknown_time(nodes: Cluster, client: Redlock) -> None:
    they_take(nodes.servers, px=None)

    with pytest.raises(LockContended) as caught, client.lock(NAME, blocking=False):
        pytest.fail("entered without the lock")

    assert caught.value.remaining is None
    assert client.lock(NAME).acquire(blocking_timeout=0.1) is False


LIKE_LISTS = ["app|48213", "*1000", "jobs>4821\r\n>4821", "~123456", "%12345", "-" * 2043 + "*1000x"]
"""Each of them has an end that looks like the header of a long list."""


@pytest.mark.parametrize("theirs", ["x" * 5_000_000, *LIKE_LISTS], ids=lambda value: value[:9])
def test_a_value_of_others_at_a_name_ends_no_connection(
    nodes: Cluster, client: Redlock, theirs: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The connections carry the rounds of all other locks of the process."""
    lease = leased(client, NAME)
    for redis in raws(nodes.servers):
        redis.set(NAME, theirs, px=600_000)
    with client.lock("other"):
        with pytest.raises(LockLost):
            lease.extend(5)
        assert not client.lock(NAME).acquire(blocking=False)
        holder = client.holder(NAME)
        assert holder is not None
        assert holder.holder == masked_token(theirs)
        lease.release()
    assert "node-" not in caplog.text


def test_no_script_replies_with_a_text_that_ends_a_connection(nodes: Cluster) -> None:
    codec, theirs, shown = Codec(5, "", 10_000), "x" * 70_000, "x" * 2_048
    with raw(nodes[0]) as redis:
        run_id = redis.info("server")["run_id"]

        def reply(command: Command) -> list[object]:
            script, keys, arguments = script_call(codec, command)
            found: list[object] = redis.eval(script.source, len(keys), *keys, *arguments, run_id)
            return found

        commands = each_command(NAME)
        redis.set(NAME, theirs)
        assert [reply(command)[3] for command in commands] == [shown] * len(commands), "the holder"
        redis.hset(RECORD, "fingerprint", theirs)
        assert [reply(command)[2] for command in commands[:4]] == [shown] * 4, "the configuration of other clients"


def test_a_long_value_hides_no_other_lock_from_operators(nodes: Cluster, client: Redlock) -> None:
    for redis in raws(nodes.servers):
        redis.set(NAME, "x" * 5_000_000, px=600_000)
    with client.lock("other"):
        status = cluster_status(nodes.urls, timeout=5)
    assert [lock.resource for lock in status.locks if lock.held] == [NAME, "other"]


def test_a_foreign_lock_on_two_nodes_stops_no_client_and_stays(nodes: Cluster, client: Redlock) -> None:
    they_take(nodes.servers[:2])

    with client.lock(NAME, blocking=False) as lease:
        assert holders(nodes.servers, NAME) == [THEIRS, THEIRS, *[lease.owner] * 3]

    assert holders(nodes.servers[:2], NAME) == [THEIRS, THEIRS]


def test_we_get_the_lock_when_their_release_script_has_run(nodes: Cluster, client: Redlock) -> None:
    they_take(nodes.servers, px=60_000)
    assert client.lock(NAME).acquire(blocking=False) is False

    assert they_release(nodes.servers, THEIRS) == 5

    with client.lock(NAME, blocking=False) as lease:
        assert lease.is_held


def test_we_get_the_lock_when_their_time_is_over(nodes: Cluster, client: Redlock) -> None:
    they_take(nodes.servers, px=300)

    with client.lock(NAME, blocking_timeout=100) as lease:
        assert holders(nodes.servers, NAME).count(lease.owner) >= 3
        # Their keys end one after the other, and a quorum without them is enough for us.
        eventually(lambda: THEIRS not in holders(nodes.servers, NAME), "the end of their keys")
        assert lease.is_held


def test_a_foreign_release_script_leaves_our_lock_alone(nodes: Cluster, client: Redlock) -> None:
    lock = client.lock(NAME)
    with lock:
        assert they_release(nodes.servers, THEIRS) == 0
        assert lock.owned()


def test_our_release_leaves_foreign_locks_alone(nodes: Cluster, client: Redlock) -> None:
    they_take(nodes.servers[:2])
    lock = client.lock(NAME)
    for _ in range(3):
        lock.acquire()
        lock.release()

    assert holders(nodes.servers[:2], NAME) == [THEIRS, THEIRS]


def test_the_lock_of_redis_py_and_ours_exclude_each_other(
    nodes: Cluster, client: Redlock, redis_locks: list[RedisLock]
) -> None:
    with client.lock(NAME) as lease:
        eventually(lambda: holders(nodes.servers, NAME) == [lease.owner] * 5, "our key on all nodes")
        assert [lock.acquire() for lock in redis_locks] == [False] * 5
        assert all(lock.locked() for lock in redis_locks)
        assert not any(lock.owned() for lock in redis_locks)
    eventually(lambda: not any(lock.locked() for lock in redis_locks), "the end of our lease on all nodes")

    assert [lock.acquire() for lock in redis_locks] == [True] * 5
    assert client.lock(NAME).locked()
    assert client.lock(NAME).acquire(blocking=False) is False

    for lock in redis_locks:
        lock.release()
    with client.lock(NAME, blocking=False):
        pass


def test_redis_py_finds_that_the_lock_which_ran_out_is_ours_now(
    nodes: Cluster, client: Redlock, redis_locks: list[RedisLock]
) -> None:
    for lock in redis_locks:
        assert lock.acquire()
    run_out(nodes.servers, NAME)

    with client.lock(NAME) as lease:
        eventually(lambda: holders(nodes.servers, NAME) == [lease.owner] * 5, "our key on all nodes")
        for lock in redis_locks:
            with pytest.raises(LockNotOwnedError):
                lock.release()
        assert holders(nodes.servers, NAME) == [lease.owner] * 5


def test_clients_with_a_prefix_meet_others_at_the_prefixed_name(nodes: Cluster) -> None:
    declare_nodes(nodes.urls, "locks:")
    with client_of(nodes.urls, prefix="locks:") as client, client.lock(NAME) as lease:
        eventually(lambda: holders(nodes.servers, f"locks:{NAME}") == [lease.owner] * 5, "our key on all nodes")
        assert they_take(nodes.servers) == [True] * 5, "without the prefix it is another lock"
