"""Resources whose names look like the header of a long list: their waiters are woken, and operators see their locks."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from redlock.admin.cluster_status import cluster_status
from redlock.testing.redis_server import Cluster
from tests.integration.asyncio_tools import client_of as client_of_loops
from tests.integration.asyncio_tools import until
from tests.integration.tools import client_of, eventually

NAMES = ["tenant|12345", "a*123456789"]


def no_node_is_down(caplog: pytest.LogCaptureFixture) -> bool:
    return not any("node-down" in line for line in caplog.messages)


@pytest.mark.parametrize("name", NAMES)
def test_a_waiter_in_a_thread_is_woken(nodes: Cluster, name: str, caplog: pytest.LogCaptureFixture) -> None:
    with client_of(nodes.urls) as client, client_of(nodes.urls) as other, ThreadPoolExecutor() as threads:
        waiting = client.lock(name, blocking_timeout=100)
        with other.lock(name):
            got = threads.submit(waiting.acquire)
            eventually(lambda: cluster_status(nodes.urls, timeout=5).waiters, "the waiter is listed")
            status = cluster_status(nodes.urls, timeout=5)
            assert [lock.resource for lock in status.locks if lock.held] == [name]
            assert not any(node.unlisted for node in status.nodes)
        assert got.result(100)
        threads.submit(waiting.release).result(100)
    assert no_node_is_down(caplog)


@pytest.mark.parametrize("name", NAMES)
async def test_a_waiter_in_a_loop_is_woken(nodes: Cluster, name: str, caplog: pytest.LogCaptureFixture) -> None:
    async with client_of_loops(nodes.urls) as client:

        async def wait() -> None:
            async with client.lock(name, blocking_timeout=100):
                pass

        async with client.lock(name):
            waiting = asyncio.create_task(wait())
            await until(lambda: client._context.parts().waiters.local_queue.length((name,)), "a task waits")
        await waiting
    assert no_node_is_down(caplog)


def test_a_holder_named_like_a_list_is_reported(nodes: Cluster, caplog: pytest.LogCaptureFixture) -> None:
    """The name of the thread is a part of the owner label."""
    with client_of(nodes.urls) as client, client_of(nodes.urls) as other:
        thread = threading.Thread(target=client.lock("x").acquire, name="job|12345")
        thread.start()
        thread.join(100)
        assert other.lock("x").acquire(blocking=False) is False
        found = other.holder("x")
        assert found is not None
        assert "job|12345" in found.holder
    assert no_node_is_down(caplog)
