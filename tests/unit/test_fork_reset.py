"""A forked child shares nothing that changes with its parent: the objects of a client before and after the reset."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from queue import SimpleQueue

from redlock import Redlock
from redlock import asyncio as redlock_asyncio
from redlock._background import Background, Callbacks
from redlock._core.observed_fences import ObservedFences
from redlock._locking.context import LockContext
from redlock._locking.local_wait_queue import LocalWaitQueue
from redlock._locking.lock_events import LockEventLog
from redlock._locking.renewal import Renewal
from redlock._locking.wait_publisher import WaitPublisher
from redlock._locking.wait_registry import PendingWait, WaitRegistry
from redlock._locking.waiter_pool import WaiterPool
from redlock._transport.background_releaser import BackgroundReleaser
from redlock._transport.codec import Codec
from redlock._transport.node import Node
from redlock._transport.pool import ConnectionPool
from redlock.asyncio._loop_parts import LoopContext

KNOWLEDGE = (Node, Codec, LockEventLog, ObservedFences)
"""The objects that a child may share: plain values, of which no thread holds a part."""
OWNERS = (
    *(LockContext, ConnectionPool, WaiterPool, LocalWaitQueue, WaitRegistry, WaitPublisher, Renewal),
    *(BackgroundReleaser, LoopContext),
)
"""The objects that are reset; their contents must be new."""
CONTAINERS = (dict, list, set, deque, SimpleQueue, type(threading.Lock()), threading.Thread, threading.Semaphore)


def contents(root: object) -> list[object]:
    """All objects of a client that can change, and that are no owner."""
    found: dict[int, object] = {}
    left = [root]
    while left:
        one = left.pop()
        is_ours = type(one).__module__.partition(".")[0] == "redlock" and not isinstance(one, type)
        if id(one) in found or isinstance(one, KNOWLEDGE) or not (is_ours or isinstance(one, (*CONTAINERS, tuple))):
            continue
        found[id(one)] = one
        if isinstance(one, dict):
            left += [*one.keys(), *one.values()]
        elif isinstance(one, list | set | tuple | deque):
            left += one
        left += getattr(one, "__dict__", {}).values()
        left += [getattr(one, name, None) for name in getattr(type(one), "__slots__", ())]
    return [one for one in found.values() if not isinstance(one, (*OWNERS, tuple)) and not is_knowledge(one)]


def is_knowledge(one: object) -> bool:
    return isinstance(one, list) and bool(one) and all(isinstance(node, Node) for node in one)


def shared(before: list[object], context: object) -> list[object]:
    """The objects that a client still has after its reset."""
    kept = {id(one) for one in before}
    return [one for one in contents(context) if id(one) in kept]


def test_a_child_has_no_object_of_its_parents_client(client: Redlock) -> None:
    context = client._context
    with context.pool.connections() as connections:
        context.pool._releaser._rounds[connections] = 1
    context.renewal._added.append((lambda: None, 1))  # type: ignore[arg-type]  # as a weak reference
    place = context.waiters.local_queue.join(("x",))
    PendingWait(context.waits, client.lease("x")).begin()
    before = contents(context)
    assert {type(one) for one in before} >= {dict, list, deque, SimpleQueue, Background, Callbacks}
    assert place.is_first
    context.reset_after_fork()
    assert shared(before, context) == []
    assert not context.waiters.local_queue.length(("x",))
    assert context.waits.pending() == []


def test_a_child_has_no_object_of_its_parents_loop() -> None:
    async def made() -> tuple[LoopContext, list[object]]:
        context = redlock_asyncio.Redlock(["h:1", "h:2", "h:3", "h:4", "h:5"])._context
        context.parts()
        return context, contents(context)

    context, before = asyncio.run(made())
    context.reset_after_fork()
    assert shared(before, context) == []
