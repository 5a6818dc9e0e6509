"""A node that lost its memory abstains, says for how long, and comes back by itself; clients must agree."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Callable, Iterator

import pytest

from redlock import ConfigurationError, LockContended, QuorumUnavailable, Redlock, RedlockError
from redlock._transport import codec
from redlock.testing import redis_server
from redlock.testing.redis_server import Cluster, Server
from tests.integration.tools import client_of, end_quarantine, eventually, frozen, holders, kill_all, label, raw, raws
from tests.proxy import proxies


@pytest.fixture
def brief(nodes: Cluster) -> Iterator[Redlock]:
    """A client with a short quarantine."""
    with client_of(nodes.urls, ttl=4.5, max_ttl=5.0) as client:
        yield client


def restart(server: Server) -> None:
    server.kill()
    server.start()


def flush(server: Server) -> None:
    with raw(server) as redis:
        redis.flushall()


def drop_the_record(server: Server) -> None:
    with raw(server) as redis:
        redis.delete(codec.RECORD)


@pytest.mark.parametrize("lose", [restart, flush, drop_the_record])
def test_a_node_that_lost_its_memory_abstains_and_says_how_long(
    nodes: Cluster, brief: Redlock, lose: Callable[[Server], None]
) -> None:
    lock = brief.lock("x")
    assert lock.acquire()
    lock.release()
    for server in nodes.servers[:3]:
        lose(server)
    eventually(lambda: all(_abstains(brief, server) for server in nodes.servers[:3]), "three nodes that abstain")
    # The quarantine begins at the first contact, and lasts its full time from then.
    with pytest.raises(QuorumUnavailable, match=r"abstains for another [0-5]\.\d s"):
        brief.lock("x").acquire(blocking=False)
    assert lock.acquire()
    lock.release()


def _abstains(client: Redlock, server: Server) -> bool:
    try:
        with client.lock("probe", blocking=False):
            return False
    except QuorumUnavailable as error:
        return "abstains" in error.reasons.get(label(server), "")


def test_an_emptied_node_never_gives_a_second_holder(nodes: Cluster) -> None:
    """The schedule that breaks Redlock without quarantine: a holder on three nodes, and an empty restart of one
    node."""
    with client_of(nodes.urls, ttl=8.0, max_ttl=8.0) as client, client_of(nodes.urls, ttl=8.0, max_ttl=8.0) as other:
        lease = client.lease("x")
        with frozen(*nodes.servers[3:]):
            lease.acquire(0)
        restart(nodes[0])
        tries = itertools.count()

        def is_over_after_another_try() -> bool:
            with pytest.raises((LockContended, QuorumUnavailable)), other.lock("x", blocking=False):
                assert lease.remaining() == 0, "two holders"
                raise LockContended("x")
            next(tries)
            return lease.remaining() == 0

        eventually(is_over_after_another_try, "the end of the lease", every=0.01)
        assert next(tries) > 3
        # Two nodes still had the key, so only the quarantine kept the other nodes from a quorum.
        assert other.lock("x").acquire()


def test_a_node_restored_from_an_old_snapshot_abstains() -> None:
    with (
        redis_server.cluster(3, options=("--save", "3600 1")) as nodes,
        client_of(nodes.urls, ttl=4.5, max_ttl=5.0) as client,
    ):
        assert client.lock("before").acquire()
        for server in nodes.servers[:2]:
            with raw(server) as redis:
                redis.save()
            restart(server)
            with raw(server) as redis:
                assert redis.exists(codec.RECORD), "the snapshot holds the old record"
        with pytest.raises(QuorumUnavailable, match="abstains"):
            client.lock("after").acquire(blocking=False)
        assert client.lock("after").acquire()


def test_new_nodes_vote_after_the_longest_lease(new_servers: Cluster) -> None:
    with client_of(new_servers.urls, ttl=4.5, max_ttl=5.0) as client:
        with pytest.raises(QuorumUnavailable, match=r"abstains for another 5\.[01] s"):
            client.lock("x").acquire(blocking=False)
        assert client.lock("x").acquire(), "waiting without a limit outlasts the quarantine"


@pytest.mark.parametrize("max_ttl", [6.0, 4.6])
def test_a_client_with_other_terms_is_refused_by_name(nodes: Cluster, brief: Redlock, max_ttl: float) -> None:
    assert brief.lock("x").acquire()
    with client_of(nodes.urls, ttl=4.5, max_ttl=max_ttl) as other, pytest.raises(ConfigurationError) as caught:
        other.lock("y").acquire()
    assert "all clients must agree" in str(caught.value)
    assert "max_ttl=5s" in str(caught.value)
    assert "/redis.sock" in str(caught.value), "the node is named"


def reject(server: Server, fingerprint: str = "nodes=5 max_ttl=77s prefix=''") -> None:
    """The replies of a node after a loss of memory, when its first client had other settings."""
    with raw(server) as redis:
        redis.hset(codec.RECORD, "fingerprint", fingerprint)


def record(server: Server, field: str) -> str | None:
    with raw(server) as redis:
        value = redis.hget(codec.RECORD, field)
    return None if value is None else str(value)


@pytest.mark.parametrize("lose", [restart, flush])
def test_a_client_that_a_quorum_rejects_sends_no_vote(
    nodes: Cluster, brief: Redlock, lose: Callable[[Server], None]
) -> None:
    """Else its settings would become those of a node that has just lost its memory."""
    assert brief.lock("x").acquire()
    with client_of(nodes.urls, ttl=4.5, max_ttl=8.0) as other:
        for _ in range(2):
            with pytest.raises(ConfigurationError, match="all clients must agree"):
                other.lock("y").acquire()
            for server in nodes.servers[:2]:
                lose(server)
        with pytest.raises(ConfigurationError, match="all clients must agree"):
            other.lock("y").acquire()
        assert [record(server, "run_id") for server in nodes.servers[:2]] == [None, None]
    assert brief.lock("z").acquire(blocking=False)


def test_a_rejected_client_works_once_the_nodes_accept_it(nodes: Cluster, brief: Redlock) -> None:
    assert brief.lock("x").acquire()
    with client_of(nodes.urls, ttl=4.5, max_ttl=8.0) as other:
        with pytest.raises(ConfigurationError, match="all clients must agree"):
            other.lock("y").acquire()
        for server in nodes.servers:
            reject(server, other._context.pool.codec.fingerprint)
        assert other.lock("y").acquire(blocking=False)


def test_a_minority_that_rejects_has_no_vote_and_is_logged(nodes: Cluster, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG", "redlock")
    older, fresh = (client_of(nodes.urls, ttl=5.0, max_ttl=5.0) for _ in range(2))
    with older, fresh, older.lock("held") as lease:
        for server in nodes.servers[:2]:
            reject(server)
        for client in (older, fresh, older, fresh):
            with client.lock("x", blocking=False):
                assert holders(nodes.servers[:2], "x") == [None, None]
        before = caplog.text.count("extended ")
        eventually(lambda: caplog.text.count("extended ") > before + 2, "renewals that the minority does not stop")
        said = [line for line in caplog.messages if "node-disagrees" in line and "max_ttl=77s" in line]
        assert all(any(label(server) in line for line in said) for server in nodes.servers[:2])
        # As the manual says: such a node is restarted, and abstains like any that lost its memory.
        for server in nodes.servers[:2]:
            restart(server)
        eventually(
            lambda: all(_agrees(fresh, server) for server in nodes.servers[:2]), "five nodes that agree", every=0.1
        )
        lease.ensure_valid()


def _agrees(client: Redlock, server: Server) -> bool:
    with client.lock("probe"):
        return record(server, "fingerprint") == client._context.pool.codec.fingerprint


def test_a_rejecting_node_and_two_dead_nodes_are_no_quorum(nodes: Cluster, brief: Redlock) -> None:
    """A client may wait for the two: nothing says that its settings are wrong."""
    assert brief.lock("x").acquire()
    reject(nodes[0])
    kill_all(nodes.servers[1:3])
    with client_of(nodes.urls, ttl=4.5, max_ttl=5.0) as fresh:
        for client in (brief, fresh):
            with pytest.raises(QuorumUnavailable, match=r"max_ttl=77s.*"):
                client.lock("y").acquire(blocking=False)
        for server in nodes.servers[1:3]:
            server.start()
        assert fresh.lock("z").acquire(), "the two are back, and have been known for long enough"


def test_a_new_node_abstains_for_the_longest_that_a_client_asks(new_servers: Cluster) -> None:
    """The client with the smaller `max_ttl` comes first; the node has forgotten the lease of another client."""
    urls = new_servers.urls
    with client_of(urls, ttl=5.0, max_ttl=5.0) as hasty, client_of(urls, ttl=5.0, max_ttl=60.0) as right:
        for client, expected in (
            (hasty, r"another 5\.[01] s"),
            (right, r"another (5\d|60)"),
            (hasty, r"another (5\d|60)"),
        ):
            with pytest.raises(QuorumUnavailable, match=expected):
                client.lock("x").acquire(blocking=False)
        assert [record(server, "fingerprint") for server in new_servers.servers] == [None] * 3, "no node has voted yet"


def test_another_number_of_nodes_gets_no_lease_with_a_quorum(nodes: Cluster, brief: Redlock) -> None:
    """C and D are emptied; a client of B, C, D would win C and D against a holder on A, B, E."""
    assert brief.lock("x").acquire()
    for server in nodes.servers[2:4]:
        flush(server)
    with warnings.catch_warnings(), client_of(nodes.urls[1:4], ttl=4.5, max_ttl=5.0) as other:
        with pytest.raises(RedlockError) as caught:
            eventually(lambda: other.lock("x").acquire(), "a refusal")
        assert "nodes=5" in str(caught.value)
        assert "nodes=3" in str(caught.value)


def test_a_rejection_is_known_from_the_first_contact(nodes: Cluster, brief: Redlock) -> None:
    """As before, after C and D have adopted the wrong terms, and with B slower than C and D."""
    with brief.lock("x") as lease:
        for server in nodes.servers[2:4]:
            flush(server)
        with client_of(nodes.urls[1:4], ttl=4.5, max_ttl=5.0) as first, pytest.raises(RedlockError):
            eventually(lambda: first.lock("x").acquire(), "a refusal")
        for server in nodes.servers[2:4]:
            end_quarantine(server)
        with proxies(nodes.servers[1:2], delay=0.02) as (b,):
            urls = [b.url, *nodes.urls[2:4]]
            with client_of(urls, ttl=4.5, max_ttl=5.0) as second, pytest.raises(ConfigurationError, match="must agree"):
                second.lock("x").acquire(blocking=False)
        assert lease.remaining() > 0


def test_a_record_from_the_future_is_written_anew(nodes: Cluster, brief: Redlock) -> None:
    """A node that booted an hour ahead and was stepped back must not stay silent for an hour."""
    assert brief.lock("x").acquire()
    for redis in raws(nodes.servers):
        redis.hset(codec.RECORD, "since", 10**13 * 5)
    assert brief.lock("y").acquire(), "within a quarantine, not an hour"
