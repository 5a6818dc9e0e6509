"""A lock node that lies: it can make two holders with one token, and the fenced store lets one of them through."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from redlock import Redlock, Stale
from redlock._transport import codec
from redlock.fencing import FencedStore
from redlock.testing import lock_nodes
from tests.integration.tools import raw

if TYPE_CHECKING:
    from redlock.testing.redis_server import Server

NAME = "hits"


def test_a_lying_node_makes_two_holders_and_the_store_lets_one_through(
    broker: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two clients, each of which reaches two honest nodes and the one that tells both of them that the lock is free."""
    monkeypatch.setattr("redlock._locking.acquisition.wall_us", lambda: 1_000)
    with lock_nodes() as nodes, Redlock(nodes.urls) as one, Redlock(nodes.urls) as two:
        honest, liar = (nodes[:2], nodes[3:]), nodes[2]
        first, second = one.lease(NAME), two.lease(NAME)
        for node in honest[1]:
            node.cut()
        first.acquire(0)
        for node in honest[1]:
            node.reconnect()
        for node in honest[0]:
            node.cut()
        with raw(liar) as redis:
            assert redis.delete(NAME, codec.fence_key(NAME)) == 2
        second.acquire(0)

        assert first.remaining() > 0
        assert second.remaining() > 0
        assert first.fence == second.fence, "and the token tells them not apart"

        store = FencedStore(f"{broker.url}/2")
        section = store.open(NAME, first)
        with pytest.raises(Stale):
            store.open(NAME, second)
        assert store.write(section, "one", "operation").applied
        for node in honest[0]:
            node.reconnect()
