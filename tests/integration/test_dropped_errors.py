"""An error that the caller has dropped is gone at once: its frames can have the turn on a set of connections."""

from __future__ import annotations

import asyncio
import gc
import time
import weakref
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import pytest
from celery import Celery
from redis.connection import Connection

from redlock import LockContended, NoThread, QuorumUnavailable, Redlock, RedlockError
from redlock._transport.dial import open_socket
from redlock._transport.socket_errors import reason_of
from redlock.asyncio import Redlock as AsyncRedlock
from redlock.celery import locked
from redlock.testing.redis_server import Cluster
from tests.integration import asyncio_tools
from tests.integration.tools import client_of, leased, node_timeout
from tests.no_threads import no_thread

APP = Celery(set_as_current=False, broker="memory://")
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


def dialled(host: str) -> Callable[[], object]:
    options = Connection(host=host, port=1)  # type: ignore[no-untyped-call]
    return lambda: open_socket(options, time.monotonic() + 100, 100)


def in_a_signal_handler() -> None:
    """A read that the time limit of an application has ended."""
    try:
        raise TimeoutError
    except TimeoutError as error:
        reason_of(error)


def errors_left() -> list[BaseException]:
    """The errors that only a garbage collection frees."""
    gc.set_debug(gc.DEBUG_SAVEALL)
    try:
        gc.collect()
        return [left for left in gc.garbage if isinstance(left, BaseException)]
    finally:
        gc.set_debug(0)
        gc.garbage.clear()


@pytest.mark.parametrize(
    "fails",
    [dialled("127.0.0.1"), dialled("name.invalid"), in_a_signal_handler, lambda: Redlock("redis://127.0.0.1:99999")],
    ids=["dial", "name", "signal", "settings"],
)
def test_no_error_waits_for_the_collector(fails: Callable[[], object]) -> None:
    with pytest.raises((OSError, RedlockError)):
        fails()
    assert not errors_left()


def acquires(wait: float) -> Callable[[AsyncRedlock], Coroutine[Any, Any, object]]:
    """A wait for the lock of the other client."""
    return lambda client: client.lock("held", blocking_timeout=wait).__aenter__()


async def extends(client: AsyncRedlock) -> None:
    """An extension of a lease that was lost."""
    lock = client.lock("free")
    await lock.acquire()
    lock.lease._declare_lost("by the test")
    await lock.extend(1.0)


async def asks(client: AsyncRedlock) -> None:
    """A request that the end of the client ends."""
    asyncio.get_running_loop().call_soon(client._context.parts().abandon)
    await client.holder("free")


@pytest.mark.parametrize(
    "fails", [acquires(0.0), acquires(0.01), extends, asks], ids=["attempt", "wait", "extend", "close"]
)
async def test_no_error_of_a_coroutine_waits_for_the_collector(
    held: Cluster, fails: Callable[[AsyncRedlock], Coroutine[Any, Any, object]]
) -> None:
    async with asyncio_tools.client_of(held.urls) as client:
        with pytest.raises(RedlockError):
            await fails(client)
        assert not errors_left()


@pytest.mark.parametrize("on_conflict", ["raise", "requeue"])
def test_the_error_of_a_task_is_gone(held: Cluster, on_conflict: str) -> None:
    APP.conf.update(redlock_nodes=held.urls, redlock_ttl=9.0, redlock_node_timeout=node_timeout(9.0))

    @APP.task(name=f"tests.dropped.{on_conflict}")
    @locked("held", on_conflict=on_conflict)  # type: ignore[arg-type]  # one of the modes
    def fails() -> None: ...

    with pytest.raises(LockContended):
        fails()
    assert not errors_left()
