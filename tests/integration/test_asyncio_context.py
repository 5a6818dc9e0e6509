"""Context variables: `on_lost` has those of the code that acquired, and nothing else keeps those of a task."""

from __future__ import annotations

import asyncio
import gc
import logging
import weakref
from contextvars import ContextVar

import pytest

from redlock import LockLost
from redlock._transport.codec import waiting_order
from redlock._transport.loop_sockets import LoopSockets
from redlock.asyncio import Lease, Redlock
from redlock.testing.redis_server import Cluster
from tests.integration.asyncio_tools import client_of, next_turn, until
from tests.integration.tools import eventually, raw

NAME = "context"
TTL = 3.0
request: ContextVar[object] = ContextVar("request", default="none")


class Session:
    """An object of a request."""


@pytest.mark.parametrize("kind", ["function", "coroutine", "entry"])
async def test_on_lost_has_the_context_of_its_own_task(shared: Cluster, kind: str) -> None:
    """The timer of renewal was set by another task, and leases of several tasks are lost at the same time."""
    heard: dict[str, object] = {}

    def on_lost(lease: Lease) -> None:
        heard[lease.resource] = request.get()
        request.set("of a callback")

    async def on_lost_task(lease: Lease) -> None:
        await next_turn()
        on_lost(lease)

    async def work(client: Redlock, number: int) -> None:
        request.set(number)
        name = f"{NAME}:{number}"
        with pytest.raises(LockLost):
            if kind == "entry":
                async with client.lock(name, max_hold=0.5), client.lock(name, reentrant=True, on_lost=on_lost):
                    await until(lambda: name in heard, "heard of the loss")
            else:
                called = on_lost_task if kind == "coroutine" else on_lost
                async with client.lock(name, max_hold=0.5, on_lost=called):
                    await until(lambda: name in heard, "heard of the loss")
        assert request.get() == number

    async def before(client: Redlock) -> None:
        request.set("of an earlier request")
        async with client.lock(NAME):
            pass

    async with client_of(shared.urls, ttl=TTL) as client:
        await asyncio.create_task(before(client))
        await asyncio.gather(*(asyncio.create_task(work(client, number)) for number in range(3)))
    assert heard == {f"{NAME}:{number}": number for number in range(3)}


async def test_the_log_of_a_loss_has_no_context_of_another(shared: Cluster) -> None:
    seen: list[object] = []

    def note(record: logging.LogRecord) -> bool:
        if record.getMessage().startswith("lost"):
            seen.append(request.get())
        return True

    async def other(client: Redlock) -> None:
        request.set("of another request")
        async with client.lock("context:other"):
            pass

    logger = logging.getLogger("redlock")
    logger.addFilter(note)
    try:
        async with client_of(shared.urls, ttl=TTL) as client:
            await asyncio.create_task(other(client))
            with pytest.raises(LockLost):
                async with client.lock(NAME, max_hold=0.5):
                    await until(lambda: seen, "the loss is logged")
    finally:
        logger.removeFilter(note)
    assert seen == ["none"]


@pytest.mark.parametrize("name", ["flush", "_ensure_flushed", "_on_readable"])
async def test_callbacks_of_the_loop_have_no_context(
    shared: Cluster, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """They serve all tasks, and can log."""
    seen, call = set[object](), getattr(LoopSockets, name)

    def noted(*arguments: object) -> None:
        seen.add(request.get())
        call(*arguments)

    monkeypatch.setattr(LoopSockets, name, noted)
    request.set("of a task")
    async with client_of(shared.urls) as client:
        sockets = client._context.parts().connections.sockets
        first = asyncio.create_task(client.lock("context:first").locked())
        await next_turn()  # the task dials
        # The loop is blocked on purpose: this task takes notice of the dials that end now.
        eventually(lambda: all(dial.done.is_set() for dial in sockets._dials.values()), "the end of all dials")
        async with client.lock(NAME):
            pass
        await first
        assert seen == {"none"}


@pytest.mark.parametrize("kind", ["first", "waiting", "lost", "kept lease", "kept entry", "kept loss"])
async def test_no_object_of_a_request_outlives_the_request(shared: Cluster, kind: str) -> None:
    """The first request dials and sets the timer of renewal; a waiting request opens a connection that is kept."""
    kept: list[Lease] = []

    async def handle(client: Redlock) -> weakref.ref[Session]:
        session = Session()
        request.set(session)
        if kind == "lost":
            with pytest.raises(LockLost):
                async with client.lock(NAME, max_hold=0.5, on_lost="cancel"):
                    await asyncio.Event().wait()
        elif kind == "kept entry":
            async with client.lock(NAME, reentrant=True), client.lock(NAME, reentrant=True, on_lost=print) as entry:
                kept.append(entry)
        elif kind == "kept loss":
            unreleased = client.lock(NAME, on_lost=print)
            await unreleased.acquire()
            kept.append(unreleased.lease)
        else:
            async with client.lock(NAME, on_lost=print if kind == "kept lease" else None) as lease:
                if kind == "kept lease":
                    kept.append(lease)
                await lease.extend(TTL)
        return weakref.ref(session)

    async with client_of(shared.urls, ttl=TTL) as client:
        async with client_of(shared.urls, ttl=TTL) as other:
            lock = other.lock(NAME)
            if kind == "waiting":
                await lock.acquire()
            handler = asyncio.create_task(handle(client))
            waiters = client._context.parts().waiters
            if kind == "waiting":
                with raw(shared.servers[waiting_order((NAME,), 5)[0]]) as redis:
                    await until(lambda: redis.info("clients")["blocked_clients"], "the request waits at its node")
                await lock.release()
            session = await handler
            del handler  # a task keeps its context
            assert kind != "waiting" or any(waiters._kept.values()), "its connection is kept"

        def is_gone() -> bool:
            gc.collect()
            return session() is None

        # The timer of renewal goes on for this lease.
        async with client.lock("context:later"):
            await until(is_gone, "the object of the request is gone", within=20, every=0.2)
