"""Fencing tokens are unique and grow from lease to lease, for all faults of clocks, nodes and processes."""

from __future__ import annotations

import asyncio
import random
import re
import subprocess
import sys
import time
from collections.abc import Sequence

import pytest

from redlock import QuorumUnavailable, Redlock, RedlockError
from redlock._core.votes import FENCE_LIMIT
from redlock._transport import codec
from redlock.testing.redis_server import Cluster, Server
from tests.integration.tools import ROOT, client_of, eventually, fences, frozen, holders, is_free, kill_all, raw
from tests.proxy import proxies, unchanged

NAME = "device:3"


def now_us() -> int:
    """The wall clock in microseconds."""
    return time.time_ns() // 1_000


def set_fences(nodes: Cluster, fences: Sequence[int]) -> None:
    """Give each node a fence of its own for the lock."""
    for server, fence in zip(nodes.servers, fences, strict=True):
        with raw(server) as redis:
            redis.set(codec.fence_key(NAME), fence)


def taken(client: Redlock) -> tuple[int, int]:
    """The fence of a lease, and the number of rounds."""
    with client.lock(NAME, blocking=False) as lease:
        return lease.fence, lease.rounds


USER = """
import sys, threading
from redis import Redis
from redlock import Redlock

record, times, *nodes = sys.argv[1:]

def work(client):
    with Redis.from_url(record) as redis:
        for _ in range(int(times)):
            with client.lock("device:3") as lease:
                redis.rpush("fences", lease.fence)

with Redlock(nodes, ttl=9, node_timeout=4) as client:
    threads = [threading.Thread(target=work, args=(client,)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
"""


@pytest.mark.long
def test_tokens_grow_over_a_thousand_leases_in_parallel(nodes: Cluster, broker: Server) -> None:
    command = [sys.executable, "-c", USER, broker.url, "250", *nodes.urls]
    processes = [subprocess.Popen(command, cwd=ROOT) for _ in range(2)]
    try:
        for process in processes:
            assert process.wait(100) == 0
    finally:
        for process in processes:
            process.kill()
            process.wait()

    with raw(broker) as redis:
        seen = [int(fence) for fence in redis.lrange("fences", 0, -1)]
    assert len(seen) == 1_000
    assert seen == sorted(set(seen))


def test_tokens_grow_with_changing_pairs_of_dead_nodes(nodes: Cluster) -> None:
    chance = random.Random(5)
    seen = []
    with Redlock(nodes.urls, ttl=9.0, node_timeout=0.3) as client:
        for _ in range(12):
            dead = chance.sample(nodes.servers, 2)
            with frozen(*dead), Redlock(nodes.urls, ttl=9.0, node_timeout=0.3) as other:
                for each in (client, other):
                    with each.lock(NAME, blocking_timeout=100) as lease:
                        seen.append(lease.fence)

    assert seen == sorted(set(seen))


def test_nodes_with_equal_fences_need_one_round(client: Redlock) -> None:
    before = now_us()
    fence, rounds = taken(client)

    assert rounds == 1
    assert before <= fence <= now_us(), "the first token is the wall clock"
    assert taken(client)[1] == 1


@pytest.mark.parametrize("ahead", [(5, 4, 3), (9, 0, 0), (0, 0, 9), (9, 9, 0), (1, 0, 1)])
def test_unequal_fences_need_a_second_round_and_a_larger_token(
    nodes: Cluster, client: Redlock, ahead: tuple[int, ...]
) -> None:
    soon = now_us() + 1_000_000_000
    set_fences(nodes, [soon + one for one in (*ahead, 0, 0)])
    kill_all(nodes.servers[3:])

    fence, rounds = taken(client)

    assert rounds == 2
    assert fence > soon + max(ahead)
    assert fences(nodes.servers[:3], NAME) == [fence] * 3


def test_equal_fences_ahead_of_the_clock_need_one_round(nodes: Cluster, client: Redlock) -> None:
    soon = now_us() + 1_000_000_000
    set_fences(nodes, [soon] * 5)

    assert taken(client) == (soon + 1, 1)


def test_a_second_round_stores_the_token_before_the_lease(nodes: Cluster, client: Redlock) -> None:
    set_fences(nodes, [now_us() + 100_000_000 * one for one in (5, 4, 3, 2, 1)])

    with client.lock(NAME) as lease:
        assert sum(fence == lease.fence for fence in fences(nodes.servers, NAME)) >= 3


def test_any_three_nodes_give_the_next_client_a_larger_token(nodes: Cluster) -> None:
    set_fences(nodes, [now_us() + 100_000_000 * one for one in (9, 0, 0, 0, 0)])
    with client_of(nodes.urls) as client:
        first, _ = taken(client)
    # The node that was ahead is dead, and so is another node: the other nodes must have learnt the token.
    nodes[0].kill()
    nodes[1].kill()

    with client_of(nodes.urls) as client:
        second, _ = taken(client)

    assert second > first


IMPLAUSIBLE = [FENCE_LIMIT - 1, FENCE_LIMIT, 2**53, 2**60]


@pytest.mark.parametrize("fence", IMPLAUSIBLE)
def test_a_node_with_an_implausible_token_has_no_vote_there(nodes: Cluster, client: Redlock, fence: int) -> None:
    """To ignore the token alone could give a smaller one than before."""
    set_fences(nodes, [fence, 0, 0, 0, fence])
    for _ in range(2):
        before = now_us()
        # A renewal would repair the nodes without the key.
        with client.lock(NAME, blocking=False, renew=False) as lease, client.lock("another", blocking=False) as other:
            assert before <= lease.fence <= now_us()
            assert holders([nodes[0], nodes[4]], NAME) == [None] * 2
            eventually(lambda: holders(nodes.servers, "another") == [other.owner] * 5, "all votes for another resource")
            lease.extend(5.0)
    assert fences([nodes[0], nodes[4]], NAME) == [fence] * 2

    set_fences(nodes, [fence, fence, fence, 0, 0])
    with pytest.raises(QuorumUnavailable, match=r"more than an hour ahead of its clock.*repair"):
        client.lock(NAME).acquire(blocking=False)
    assert is_free(nodes.servers, NAME)
    with client.lock("another", blocking=False):
        pass


def test_an_implausible_token_is_repaired_as_documented(nodes: Cluster) -> None:
    with client_of(nodes.urls, ttl=0.5, max_ttl=1.0) as client:
        before, _ = eventually(lambda: taken(client), "a first lease", despite=RedlockError)
        set_fences(nodes, [FENCE_LIMIT - 1, *fences(nodes.servers[1:], NAME)])
        with raw(nodes[0]) as redis:
            redis.flushall()

        def votes() -> bool:
            with client.lock(NAME) as later:
                assert later.fence > before
                return holders(nodes.servers[:1], NAME) == [later.owner]

        eventually(votes, "a vote of the repaired node", despite=RedlockError)


@pytest.mark.parametrize("fence", IMPLAUSIBLE)
def test_an_implausible_proposal_is_refused(
    nodes: Cluster, client: Redlock, monkeypatch: pytest.MonkeyPatch, fence: int
) -> None:
    """As of a client with its clock in 2112."""
    monkeypatch.setattr("redlock._locking.acquisition.wall_us", lambda: fence)

    with pytest.raises(QuorumUnavailable, match="more than an hour ahead of its clock; set the clock"):
        client.lock(NAME).acquire(blocking=False)

    assert fences(nodes.servers, NAME) == [0] * 5
    assert holders(nodes.servers, NAME) == [None] * 5
    monkeypatch.undo()
    assert taken(client)[0] <= now_us(), "nothing is left of it in the client"


async def tells_tokens_of_2112(data: bytes, writer: asyncio.StreamWriter) -> None:
    await unchanged(re.sub(rb":\d{16}\r\n", b":4503599627370000\r\n", data), writer)


def test_a_false_node_reaches_no_other_with_its_tokens(nodes: Cluster) -> None:
    """The other nodes refuse a token above such a token, so its vote alone would end every attempt."""
    with proxies(nodes.servers[:1]) as (false,):
        false.passing = tells_tokens_of_2112
        with client_of([false.url, *nodes.urls[1:]]) as client:
            for _ in range(4):
                for name in (NAME, "another"):
                    with client.lock(name, blocking=False) as lease:
                        assert lease.fence <= now_us()
                        assert lease.rounds == 1
    assert max(fences(nodes.servers, NAME)) <= now_us()


def test_a_proposal_within_the_hour_is_accepted(
    nodes: Cluster, client: Redlock, monkeypatch: pytest.MonkeyPatch
) -> None:
    late = now_us() + 3_500_000_000
    monkeypatch.setattr("redlock._locking.acquisition.wall_us", lambda: late)
    assert taken(client) == (late, 1)
    assert max(fences(nodes.servers, NAME)) == late


def test_a_token_ahead_is_remembered_for_its_resource_alone(nodes: Cluster, client: Redlock) -> None:
    set_fences(nodes, [now_us() + 3_000_000_000] * 5)
    ahead, _ = taken(client)
    with client.lock("another", blocking=False) as lease:
        assert lease.fence <= now_us()
    assert taken(client)[0] > ahead


def test_tokens_grow_where_the_clock_is_far_behind(
    nodes: Cluster, client: Redlock, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, _ = taken(client)
    monkeypatch.setattr("redlock._locking.acquisition.wall_us", lambda: 1_000)

    with client_of(nodes.urls) as late:
        second, _ = taken(late)
        third, rounds = taken(late)

    assert first < second < third
    assert rounds == 1, "after it has seen a token it proposes above it"


def test_tokens_grow_where_the_clock_jumps_ahead_and_back(nodes: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    for clock in (0, 10**15, 5, 10**15 + 7, 10**15 + 10**14, 3):
        monkeypatch.setattr("redlock._locking.acquisition.wall_us", lambda now=clock: now)
        with client_of(nodes.urls) as client:
            seen.append(taken(client)[0])

    assert seen == sorted(set(seen))


def test_a_refused_client_has_learnt_the_holders_token(nodes: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    with client_of(nodes.urls) as ahead, client_of(nodes.urls) as behind:
        monkeypatch.setattr("redlock._locking.acquisition.wall_us", lambda: 10**15)
        with ahead.lock(NAME) as lease:
            monkeypatch.setattr("redlock._locking.acquisition.wall_us", lambda: 10**9)
            assert behind.lock(NAME).acquire(blocking=False) is False
            fence = lease.fence

        assert behind._context.proposal((NAME,), 0) > fence


def test_extending_and_reacquiring_keep_the_token(client: Redlock) -> None:
    lock = client.lock(NAME)
    lock.acquire()
    before = lock.fence

    lock.extend(1)
    lock.reacquire()

    assert lock.fence == before
    lock.release()
