"""The client for event loops, in a loop of a plugin and in loops of the test."""

from __future__ import annotations

import asyncio

import pytest

from redlock.asyncio import Redlock
from redlock.testing import LockNodes


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.mark.anyio
@pytest.mark.parametrize("turn", range(2))
async def test_a_loop_of_a_plugin(redlock_async_client: Redlock, redlock_nodes: LockNodes, turn: int) -> None:
    redlock_nodes[turn].freeze()
    async with redlock_async_client.lock("a", blocking_timeout=30) as lease:
        assert lease.fence


def test_loops_of_the_test(redlock_async_client: Redlock) -> None:
    async def fence() -> int:
        async with redlock_async_client.lock("a") as lease:
            return lease.fence

    assert asyncio.run(fence()) < asyncio.run(fence())
