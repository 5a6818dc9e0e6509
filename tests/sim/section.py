"""The critical section of an operation: a read, an update and a write of the counter in the store.

Rules: a generator, so that a thread and a task of an event loop work alike. The generator yields a `Question`, and is
resumed with the store's reply or None; or it yields a sleep in microseconds.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

from tests.sim.records import Question
from tests.sim.world import MS

if TYPE_CHECKING:
    from tests.sim.clients import Client
    from tests.sim.records import Operation

T = TypeVar("T")
Requests: TypeAlias = Generator["Question | int", Any, T]

_STORE_TRIES = 4
_REMEMBERED = str(7 * 24 * 3600 * 1000)


def update(client: Client, lease: Any, operation: Operation) -> Requests[bool]:  # noqa: ANN401 - of either driver
    """Apply the operation once; whether it is applied now, by this client or by another one before."""
    schedule, options = client.schedule, client.options
    name, fence, token = operation.names[0], lease.fence, lease.owner
    while True:
        opened = yield from _ask(Question("open", name, (str(fence), token), ""))
        if opened is None:
            return False
        if opened[0] == "STALE":
            schedule.stale(client, "open")
            client.redlock.observe_fence(operation.names, int(opened[1]))
            return False
        value = int(opened[2]) if len(opened) > 2 and opened[2] else 0
        yield int(options.think_ms * MS * client.world.chance.random())
        if options.looks:
            lease.ensure_valid()
        # The gap between the check of the deadline and the effect, which no client can avoid.
        yield 1
        arguments = (str(fence), token, str(opened[1]), str(value + 1), _REMEMBERED)
        written = yield from _ask(Question("write", name, arguments, operation.identity))
        if written is None:
            return False
        if written[0] != "STALE":
            return True
        schedule.stale(client, "write")
        if int(written[1]) != fence:
            client.redlock.observe_fence(operation.names, int(written[1]))
            return False


def _ask(question: Question) -> Requests[Any]:
    """Ask the store, again if there is no answer; None if there was none at all."""
    for _ in range(_STORE_TRIES):
        reply = yield question
        if reply is not None:
            return reply
    return None
