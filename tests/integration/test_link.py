"""A connection whose socket accepts only a part of the bytes at once, and sets of names."""

from __future__ import annotations

import gc
import socket
import warnings
import weakref
from collections import Counter

import pytest

from redlock import Lock, Outcome, Redlock
from redlock._clock import now_ms
from redlock._core import protocol
from redlock._core.commands import Inspect, Round, Wait
from redlock._core.vote_tally import VoteTally
from redlock._transport import codec
from redlock._transport.codec import pack
from redlock._transport.connections import NodeConnections
from redlock._transport.exchange import Exchange
from redlock._transport.node import Node
from redlock._transport.sockets import Sockets
from redlock.testing.redis_server import Cluster
from tests.integration.alarms import a_strike_in
from tests.integration.tools import LASTING, client_of, eventually, frozen, is_free, leased, raw, raws, stands_on_all
from tests.proxy import always, proxies


def test_bytes_that_a_full_socket_refuses_are_sent_later() -> None:
    """Every command arrives whole and in order, and each reply finds its vote tally."""
    near, far = socket.socketpair()
    node = Node("redis://h:1", 100)
    codec_of_one = codec.Codec(1, "", 10_000)
    state = NodeConnections([node], codec_of_one, 100, now_ms())
    sockets = Sockets([node], state)
    connection = state.all[0]
    with far:
        near.settimeout(0)
        far.settimeout(10)
        sockets.adopt(connection, Exchange(near))
        tallies = [VoteTally(Round(Inspect(("x",)), Wait.ALL), 1, number) for number in range(2_000)]
        commands = [pack("ECHO", str(number) + "x" * 1_000) for number in range(2_000)]
        for tally, words in zip(tallies, commands, strict=True):
            assert connection.request(words, tally), "the connection is not dropped"
            sockets.write(state.all)
        assert connection.is_blocked, "the socket has taken everything"
        whole, arrived = b"".join(commands), bytearray()
        while len(arrived) < len(whole):
            arrived += far.recv(1_000_000)
            sockets.receive(sockets.wait(0))
        assert arrived == whole
        assert not connection.is_blocked
        far.sendall(b"".join(b"*3\r\n:1\r\n:0\r\n:%d\r\n" % number for number in range(len(tallies))))
        while connection.pending:
            sockets.receive(sockets.wait(10_000))
        assert [tally.votes[0].fence for tally in tallies] == list(range(len(tallies)))
        state.lost(connection, "the end")
        sockets.close_ended()
        sockets.abandon()


def test_800_names_are_one_lock(nodes: Cluster) -> None:
    with (
        client_of(nodes.urls, node_timeout=100.0, **LASTING) as client,
        client_of(nodes.urls, node_timeout=100.0, **LASTING) as rival,
    ):
        names = [f"{number}:" + "x" * 900 for number in range(800)]
        lock = client.lock(names)
        assert lock.acquire(blocking=False)
        assert not rival.lock(names[-1]).acquire(blocking=False)
        lock.release()
        assert rival.lock(names[0]).acquire(blocking_timeout=100), "long before the end of the TTL"


def held_by_all(client: Redlock, nodes: Cluster) -> Lock:
    """A lock of 800 names on all nodes, through sockets that accept a part of its release at a time."""
    lock = client.lock([f"{number}:" + "x" * 900 for number in range(800)])
    assert lock.acquire(blocking=False)
    stands_on_all(nodes.servers, lock.names[-1])
    for one in client._context.pool._sets[0].state.all:
        one.handle.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 16_384)
    return lock


def test_the_rest_of_a_release_needs_no_next_round(nodes: Cluster) -> None:
    with client_of(nodes.urls, node_timeout=100.0, **LASTING) as client:
        lock = held_by_all(client, nodes)
        with frozen(*nodes.servers):
            lock.release()
            assert client._context.pool._sets[0].state.unsent, "the system accepted every byte, so nothing was tested"
        eventually(lambda: is_free(nodes.servers, lock.names[0]), "the whole release, long before the end of the TTL")


def test_a_node_that_takes_no_bytes_is_given_up_in_time(nodes: Cluster) -> None:
    """No lock of its rest is valid after the longest TTL. A later round hands the rest over again."""
    with client_of(nodes.urls, node_timeout=100.0, **LASTING) as client:
        lock = held_by_all(client, nodes)
        (connections,), tries = client._context.pool._sets, client._context.pool._releaser._rounds
        with frozen(*nodes.servers):
            lock.release()
            assert connections.state.unsent, "the system accepted every byte, so nothing was tested"
            # During each try the set is not among the tries.
            eventually(lambda: tries, "the rest is handed over")
            connections.set_deadline(now_ms())
            client._context.codec.max_ttl_ms = 100
            eventually(lambda: connections.is_settled and not tries, "the end of the tries")
            assert connections.state.unsent, "the rest went out, so nothing was given up"


def test_a_closed_client_leaves_unsent_bytes_alone(nodes: Cluster) -> None:
    with client_of(nodes.urls, node_timeout=5.0, **LASTING) as client:
        lock = held_by_all(client, nodes)
        (connections,) = client._context.pool._sets
        with frozen(*nodes.servers):
            lock.release()
            assert connections.state.unsent, "the system accepted every byte, so nothing was tested"
            client.close()
        assert connections.is_settled
        connections.poll()


def test_a_closed_set_serves_a_thread_that_has_waited_for_it(nodes: Cluster) -> None:
    """The set was dialling a node when its client was closed, and the dial succeeds later."""
    with client_of(nodes.urls, **LASTING) as client:
        with frozen(nodes[0]):
            assert client.holder("before") is None
            (connections,) = client._context.pool._sets
            (dial,) = connections._sockets._dials.values()
            client.close()
        assert dial.done.wait(100)
        turn = connections.turn()
        assert turn is not None
        with turn:
            connections.run(protocol.inspect("before"))
            assert all(one.handle is not None for one in connections.state.all)
            connections.abandon()


def test_a_thousand_asynchronous_releases_are_all_sent(nodes: Cluster) -> None:
    with client_of(nodes.urls, node_timeout=100.0, **LASTING) as client:
        leases = [leased(client, str(number)) for number in range(1_100)]
        for lease in leases:
            lease.release(wait=False)

        def keys() -> int:
            left = 0
            for redis in raws(nodes.servers):
                left += sum(1 for _ in redis.scan_iter("[0-9]*", count=2_000))
            return left

        eventually(lambda: not keys(), "all releases on all nodes, long before the end of their TTL")
        known = Counter(lease.outcome() for lease in leases)
    assert set(known) <= {Outcome.RELEASED, Outcome.UNKNOWN}


def test_an_interrupted_attempt_is_never_sent_again(nodes: Cluster) -> None:
    """The nodes have lost the scripts, and their NOSCRIPT replies come after the attempt was cancelled."""
    with proxies(nodes.servers) as links, Redlock([link.url for link in links], node_timeout=3.0, ttl=9.0) as client:
        with client.lock("before"):
            pass
        for link, server in zip(links, nodes.servers, strict=True):
            link.hold("from")
            with raw(server) as redis:
                redis.script_flush()
        with pytest.raises(ArithmeticError), a_strike_in(1.0, ArithmeticError):
            client.lock("x").acquire()
        for link in links:
            link.restore()
        for _ in range(3):
            assert client.holder("x") is None
        assert is_free(nodes.servers, "x")


def test_a_release_of_a_set_wakes_the_waiters_of_each_name(nodes: Cluster) -> None:
    with client_of(nodes.urls, **LASTING) as client:
        with client.lock(["a", "b", "c"]):
            pass
        for redis in raws(nodes.servers):
            eventually(
                lambda redis=redis: [redis.llen(codec.wake_key(name)) for name in "abc"] == [1, 1, 1],  # type: ignore[misc]  # bound now
                "a wake-up for each name",
            )
        assert is_free(nodes.servers, "a")


def test_dropped_connections_close_without_a_warning(nodes: Cluster) -> None:
    """As after an exception that discards a set. Otherwise a later, innocent piece of code would see the warnings."""
    with client_of(nodes.urls) as client:
        with client.lock("name"):
            pass
        pool = client._context.pool
        exchanges = [weakref.ref(one.handle) for one in pool._sets[0].state.all]
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            pool._sets.clear()
            eventually(lambda: gc.collect() >= 0 and not any(one() for one in exchanges), "the end of the connections")
    assert [str(one.message) for one in caught if issubclass(one.category, ResourceWarning)] == []


def test_a_proxy_ends_before_its_bytes_are_read(nodes: Cluster) -> None:
    with socket.socket() as reads_nothing, proxies(nodes.servers[:1]) as (proxy,):
        proxy.passing = always(bytes(50_000_000))
        reads_nothing.connect(("127.0.0.1", int(proxy.url.rpartition(":")[2])))
        reads_nothing.send(b"*1\r\n$4\r\nPING\r\n")
        # The sockets hold a few megabytes, and the proxy the rest.
        eventually(lambda: reads_nothing.recv(1, socket.MSG_PEEK), "the first byte")
    gc.collect()
