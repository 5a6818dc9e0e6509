"""Tests of `workers.freeze`: the demo freezes a worker only between its read and its write."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from redis import Redis

from redlock import Redlock
from redlock.fencing.redis_store import FencedStore
from redlock.testing.redis_server import Server
from workers.freeze import Freeze


def test_only_an_open_section_is_frozen(client: Redlock, broker: Server) -> None:
    signals: list[int] = []
    cluster: Any = SimpleNamespace(programs=[SimpleNamespace(name="worker1", signal=signals.append)])
    lease = client.lease("counter:hits", owner_label="task-1@worker1@here")
    lease.acquire(30_000)
    with Redis.from_url(broker.url, decode_responses=True) as redis:
        store, freeze = FencedStore(redis), Freeze(cluster, client, redis, "hits", seconds=600)
        assert (freeze.advance(), signals) == ("", []), "it has not read"
        section = store.open("hits", lease)
        store.write(section, "1", "task-1")
        assert (freeze.advance(), signals) == ("", []), "it has written, and still holds the lock"
        store.open("hits", lease)
        assert freeze.advance().startswith("worker1 is frozen inside its section")
        assert (freeze.worker, len(signals)) == ("worker1", 1)
    lease.release()
