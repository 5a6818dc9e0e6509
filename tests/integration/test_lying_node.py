"""A lying lock node can make two holders with one token, and the fenced store accepts only one of the holders."""

from __future__ import annotations

import pytest

from redlock import Redlock, Stale
from redlock._transport import codec
from redlock.fencing import FencedStore
from redlock.testing import lock_nodes
from redlock.testing.redis_server import Server
from tests.integration.tools import raw

NAME = "hits"


def test_the_store_accepts_one_of_two_holders_with_one_token(broker: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of two clients reaches two honest nodes and the lying node, which grants the lock to both."""
    monkeypatch.setattr("redlock._locking.acquisition.wall_us", lambda: 1_000)
    with (
        lock_nodes() as nodes,
        Redlock(nodes.urls, ttl=9.0, node_timeout=2.0) as one,
        Redlock(nodes.urls, ttl=9.0, node_timeout=2.0) as two,
    ):
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
