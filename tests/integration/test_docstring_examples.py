"""The examples in the docstrings of the public entry points run on five real nodes and a real store."""

from __future__ import annotations

import asyncio
import doctest
import functools
from collections.abc import Iterator
from typing import Any

import pytest

from redlock import Redlock, client, lease, lock
from redlock import asyncio as for_asyncio
from redlock.asyncio import client as asyncio_client
from redlock.asyncio import lease as asyncio_lease
from redlock.asyncio import lock as asyncio_lock
from redlock.fencing import FencedStore, asyncio_redis_store, redis_store
from redlock.testing import redis_server
from tests.integration.tools import sixth_redis

PATIENT = 0.9
"""A node timeout that fits the TTL of each example."""

EXAMPLES = {
    example.name: example
    for module in (client, lease, lock, redis_store, asyncio_client, asyncio_lease, asyncio_lock, asyncio_redis_store)
    for example in doctest.DocTestFinder(exclude_empty=True).find(module)
    if example.examples
}
WITH_EXAMPLES = [
    "redlock.asyncio.client.Redlock",
    "redlock.asyncio.client.Redlock.lock",
    "redlock.asyncio.lease.Lease",
    "redlock.asyncio.lock.Lock",
    "redlock.client.Redlock",
    "redlock.client.Redlock.holder",
    "redlock.client.Redlock.lock",
    "redlock.fencing.asyncio_redis_store.AsyncFencedStore",
    "redlock.fencing.redis_store.FencedStore",
    "redlock.lease.Lease",
    "redlock.lock.Lock",
]


@pytest.fixture(scope="module")
def names() -> Iterator[dict[str, Any]]:
    """The names that the examples use without an import."""
    with redis_server.cluster() as nodes, sixth_redis() as server, Redlock(nodes.urls, node_timeout=PATIENT) as redlock:
        store = FencedStore(server.url)
        asyncio_redlock = for_asyncio.Redlock(nodes.urls, node_timeout=PATIENT)
        yield {
            "addresses": nodes.urls,
            "redlock": redlock,
            "asyncio_redlock": asyncio_redlock,
            "store": store,
            "store_url": server.url,
        }
        asyncio.run(asyncio_redlock.aclose())


@pytest.mark.parametrize("name", WITH_EXAMPLES)
def test_the_example_of_a_docstring_runs(name: str, names: dict[str, Any]) -> None:
    example = EXAMPLES[name]
    in_threads, in_loops = (functools.partial(kind, node_timeout=PATIENT) for kind in (Redlock, for_asyncio.Redlock))
    example.globs.update(names, Redlock=in_threads)
    if "asyncio" in name:
        example.globs.update(asyncio=asyncio, redlock=names["asyncio_redlock"], Redlock=in_loops)
    report: list[str] = []
    result = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(example, out=report.append)
    assert result.attempted > 0
    assert not result.failed, "".join(report)


def test_each_docstring_with_an_example_is_tested() -> None:
    assert sorted(EXAMPLES) == WITH_EXAMPLES
