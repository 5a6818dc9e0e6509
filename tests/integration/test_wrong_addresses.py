"""Addresses that lead to a wrong server: a minority of them stops nothing, and a server has one vote."""

from __future__ import annotations

from contextlib import suppress

import pytest

from redlock import ConfigurationError, LockLost, NotHeld, QuorumUnavailable, Redlock
from redlock.testing.redis_server import Cluster
from tests.integration.tools import client_of, eventually, is_free, outlive
from tests.proxy import proxies

NAME = "device:5"


def test_two_addresses_of_one_server_have_one_vote(nodes: Cluster) -> None:
    """Three servers at five addresses are a quorum, and two of them are none."""
    with (
        proxies([nodes[0], nodes[0], nodes[0], nodes[1], nodes[2]]) as links,
        client_of([link.url for link in links]) as client,
    ):
        with client.lock(NAME, blocking=False) as lease:
            lease.extend(5.0)
        nodes[2].kill()
        with pytest.raises(QuorumUnavailable, match="the same server as") as caught:
            client.lock(NAME).acquire(blocking=False)
        assert links[4].url.removeprefix("redis://") in caught.value.reasons
        eventually(lambda: is_free(nodes.servers[:2], NAME), "the end of what was not won")


def test_addresses_of_too_few_servers_are_refused_by_name(nodes: Cluster) -> None:
    with (
        proxies([nodes[0], nodes[0], nodes[0], nodes[0], nodes[1]]) as links,
        client_of([link.url for link in links]) as client,
    ):
        for _ in range(2):
            with pytest.raises(ConfigurationError, match="are the same server") as caught:
                client.lock(NAME).acquire(blocking=False)
            assert links[0].url.removeprefix("redis://") in str(caught.value)
            assert "2 of 5 nodes are no quorum" in str(caught.value)


def test_an_address_that_changes_to_another_node_ends_no_lease(
    nodes: Cluster, caplog: pytest.LogCaptureFixture
) -> None:
    """As where a container's address is used again. Neither a release nor the next acquire raises."""
    with proxies(nodes.servers) as links, client_of([link.url for link in links], ttl=5.0) as client:
        before = client.lock(NAME)
        assert before.acquire()
        links[4].connect_to(nodes[0])
        nodes[4].kill()
        eventually(lambda: _acquires(client) and "same_as" in caplog.text, "a client that has met the wrong node")
        with suppress(LockLost):
            before.release()
        with client.lock("renewed") as lease:
            outlive(lease)
        for _ in range(3):
            lock = client.lock(NAME)
            assert lock.acquire(blocking=False)
            lock.release()
            with pytest.raises(NotHeld):
                lock.release()


def _acquires(client: Redlock) -> bool:
    with suppress(QuorumUnavailable), client.lock("probe", blocking=False):
        return True
    return False


@pytest.mark.parametrize("first", [True, False], ids=["impostor first", "impostor last"])
def test_an_impostor_does_not_silence_an_honest_node(nodes: Cluster, *, first: bool) -> None:
    """A server that introduces itself as a lock node, and then says nothing."""
    nodes[3].kill()
    with proxies([nodes[0]]) as (impostor,):
        impostor.lets_through = lambda data: b"EVALSHA" not in data
        urls = [*nodes.urls[:4], impostor.url]
        with client_of(urls[::-1] if first else urls) as client:
            for _ in range(3):
                with client.lock(NAME, blocking=False) as lease:
                    lease.extend(5.0)
                    assert lease.is_held
