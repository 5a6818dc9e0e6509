"""An error that the caller has dropped is gone at once: its frames can have the turn on a set of connections."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator

import pytest

from redlock import LockContended, NoThread, QuorumUnavailable, Redlock, RedlockError
from redlock.testing.redis_server import Cluster
from tests.integration import asyncio_tools
from tests.integration.tools import client_of, leased
from tests.no_threads import no_thread

NOWHERE = [f"redis://127.0.0.1:{port}" for port in (1, 2, 3)]


@pytest.fixture
def held(nodes: Cluster) -> Iterator[Cluster]:
    """Nodes where another client has the lock "held"."""
    with client_of(nodes.urls) as rival:
        leased(rival, "held")
        yield nodes


@pytest.fixture(autouse=True)
def without_collector() -> Iterator[None]:
    """The garbage collector frees nothing."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def is_gone_after(client: Redlock, error: type[RedlockError], name: str, wait: float) -> bool:
    """Whether the error of a lock is gone after its end."""
    try:
        with client.lock(name, blocking_timeout=wait):
            pytest.fail("the lock is free")
    except error as caught:
        kept = weakref.ref(caught)
    return kept() is None


@pytest.mark.parametrize("wait", [0.0, 0.01])
def test_the_error_of_a_held_lock_is_gone(held: Cluster, wait: float) -> None:
    with client_of(held.urls) as client:
        assert is_gone_after(client, LockContended, "held", wait)


def test_the_error_without_a_quorum_is_gone() -> None:
    with client_of(NOWHERE) as client:
        assert is_gone_after(client, QuorumUnavailable, "free", 0.01)


def test_the_error_without_a_thread_is_gone(nodes: Cluster) -> None:
    with client_of(nodes.urls) as client, no_thread("redlock-renewal"):
        assert is_gone_after(client, NoThread, "free", 0.01)


@pytest.mark.parametrize("wait", [0.0, 0.01])
async def test_the_error_of_a_held_lock_is_gone_in_a_task(held: Cluster, wait: float) -> None:
    async with asyncio_tools.client_of(held.urls) as client:
        try:
            async with client.lock("held", blocking_timeout=wait):
                pytest.fail("the lock is free")
        except LockContended as caught:
            kept = weakref.ref(caught)
        assert kept() is None
