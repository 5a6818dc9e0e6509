"""Helpers for tests of the asyncio lock: a loop that leaves nothing behind, and conditions that become true."""

from __future__ import annotations

import asyncio
import gc
import os
import threading
import time
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, TypeVar

from redlock.asyncio import Redlock
from tests.integration.processes import sockets_of
from tests.integration.tools import eventually, next_pause, node_timeout

T = TypeVar("T")


def run(main: Coroutine[Any, Any, T]) -> T:
    """Run in a loop of its own, and fail if a task is left or the loop has reported an error."""
    errors: list[dict[str, Any]] = []

    async def watched() -> T:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: errors.append(context))
        result = await main
        left = asyncio.all_tasks() - {asyncio.current_task()}
        assert not left, f"tasks are left: {left}"
        return result

    try:
        return asyncio.run(watched())
    finally:
        # An exception that was never retrieved is reported when its future is collected.
        gc.collect()
        assert not errors, errors


def client_of(urls: Sequence[str], *, ttl: float = 9.0, **options: Any) -> Redlock:  # noqa: ANN401 - of the client
    """A client for asyncio, as `tools.client_of`."""
    return Redlock(urls, ttl=ttl, **{"node_timeout": node_timeout(ttl)} | options)


async def until(condition: Callable[[], object], what: str, *, within: float = 100.0, every: float = 0.005) -> None:
    """Wait until the condition is true; see `tools.eventually`. With `every=0` each iteration of the loop checks."""
    began = before = time.monotonic()
    while not condition():
        assert before < began + within, f"not within {within} s: {what}"
        await asyncio.sleep(every and next_pause(every, began, before))
        before = time.monotonic()


async def next_turn() -> None:
    """Wait for a future that the loop sets in its next iteration, after the steps of the other tasks."""
    loop = asyncio.get_running_loop()
    future = loop.create_future()

    def end() -> None:
        if not future.done():
            future.set_result(None)

    loop.call_soon(end)
    await future


def open_sockets() -> int:
    """The number of sockets that this process has open, without those that an earlier test has left.

    The test needs names of its own: a wait for a name that is reserved for a waiter has a socket more.
    """
    # An interrupted client can leave sockets that only the garbage collector closes, and the report of a wait has one.
    gc.collect()
    eventually(lambda: all(thread.name != "redlock-waits" for thread in threading.enumerate()), "no report of a wait")
    return len(sockets_of(os.getpid()))
