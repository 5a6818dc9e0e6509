"""A signal handler raises at any instruction of the asyncio transport: each reply still belongs to its command."""

from __future__ import annotations

import asyncio
import itertools
import socket
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from redlock._clock import now_ms
from redlock._core.commands import Inspect, Round, Wait
from redlock._transport.asyncio import Execution, LoopConnections
from redlock._transport.codec import Codec
from redlock._transport.exchange import Exchange
from redlock._transport.node import Node
from redlock.errors import RedlockError
from tests.integration.asyncio_tools import client_of, until
from tests.integration.tracer import Interrupted, Place, Tracer, instructions

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

    from redlock.asyncio import Redlock
    from redlock.testing.redis_server import Cluster

FILES = {"asyncio.py", "connected_nodes.py", "connection.py", "connections.py", "loop_sockets.py", "reply_reader.py"}


async def with_connections(_connections: LoopConnections) -> None:
    """A cycle finds all nodes connected."""


async def without_connections(connections: LoopConnections) -> None:
    """A cycle dials all nodes."""
    for one in connections.state.all:
        connections.state.lost(one, "dropped by the test")
    connections.settle()


class Stricken:
    """A client and its event loop, for interrupted calls.

    Args:
        nodes: The lock nodes.
        prepare: Called before each cycle that is interrupted.
    """

    def __init__(self, nodes: Cluster, prepare: Callable[[LoopConnections], Awaitable[None]]) -> None:
        self._loop = asyncio.new_event_loop()
        self._reported: list[dict[str, Any]] = []
        self._loop.set_exception_handler(lambda _, context: self._reported.append(context))
        self._client: Redlock = client_of(nodes.urls)
        self._numbers = itertools.count()
        self._prepare = prepare

    def cycle(self) -> None:
        """Take, extend and release a lock that was never used."""
        self._run(self._cycle(), 20)

    def _run(self, awaitable: Awaitable[None], seconds: float) -> None:
        self._loop.run_until_complete(asyncio.wait_for(awaitable, seconds))

    async def _cycle(self) -> None:
        async with self._client.lock(f"struck:{next(self._numbers)}") as lease:
            await lease.extend(9.0)

    def prepare(self) -> None:
        """Bring the connections into the state in which the next cycle is to find them."""
        self._run(self._prepared(), 20)

    async def _prepared(self) -> None:
        await self._prepare(self._client._context.parts().connections)

    def places(self) -> list[Place]:
        """The instructions of the transport in a cycle, each once."""
        self.cycle()
        self.prepare()
        found = dict.fromkeys(instructions(self.cycle))
        return [place for place in found if Path(place.code.co_filename).name in FILES]

    def strike(self, place: Place) -> str:
        """Interrupt a cycle; returns the fault, if any."""
        self.prepare()
        self._reported.clear()
        tracer = Tracer(place)
        try:
            tracer.run(self.cycle)
        except Interrupted:
            pass
        except asyncio.TimeoutError:
            return f"{place}: the call has no end"
        try:
            self._run(self._is_as_good_as_new(), 60)
        except (AssertionError, asyncio.TimeoutError, RedlockError) as error:
            return f"{place}: {error!r}"
        others = [one for one in self._reported if not isinstance(one.get("exception"), Interrupted)]
        return f"{place}: the loop reports {others}" if others else ""

    async def _is_as_good_as_new(self) -> None:
        connections = self._client._context.parts().connections
        await self._cycle()
        await until(
            lambda: not connections.executions and not any(one.pending for one in connections.state.all),
            "a reply to each command",
            within=9.0,
        )
        while not all(one.handle for one in connections.state.all):
            # Dropped connections are dialled again.
            await self._cycle()

    def close(self) -> None:
        """Close the client and the loop."""
        self._loop.run_until_complete(self._client.aclose())
        self._loop.close()


class Overdue:
    """A round that gets no reply; its end at its deadline is interrupted."""

    def run(self) -> None:
        """Execute the round, in a loop of its own."""
        asyncio.run(self._run())

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, __: None)
        node = Node("redis://h:1", 10)
        connections = LoopConnections([node], Codec(1, "", 10_000), loop)
        near, far = socket.socketpair()
        connections.state.connected(connections.state.all[0], Exchange(near), "0" * 40, "")
        with far:
            ask = connections.ask(Round(Inspect(("a",)), Wait.ALL), now_ms() + 10)
            await asyncio.wait({asyncio.ensure_future(ask)}, timeout=20)
            assert not connections.executions, "the round goes on"
            connections.abandon()


def test_an_interrupted_deadline_ends_its_round() -> None:
    overdue = Overdue()
    places = dict.fromkeys(instructions(overdue.run, within=Execution._overdue))
    own = [place for place in places if place.code is Execution._overdue.__code__]
    # At the first two, which enter the function and its `try`, no code can see the exception.
    for place in own[2:]:
        tracer = Tracer(place)
        tracer.run(overdue.run)
        assert tracer.struck == place


@pytest.fixture(params=[with_connections, without_connections])
def stricken(nodes: Cluster, request: pytest.FixtureRequest) -> Iterator[Stricken]:
    """A client to strike."""
    with closing(Stricken(nodes, request.param)) as client:
        yield client


# A strike in a coroutine that is just being closed is only reported.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("step", [30, pytest.param(1, marks=pytest.mark.long(ci=True))])
def test_after_any_interruption_each_reply_has_its_command(stricken: Stricken, step: int) -> None:
    wrong = [fault for place in stricken.places()[::step] if (fault := stricken.strike(place))]
    assert not wrong, f"{len(wrong)}: " + "\n".join(wrong)
