"""A signal handler raises at any instruction of the asyncio lock: the client works on as before."""

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
from redlock.asyncio._renewal import LoopRenewal
from redlock.errors import RedlockError
from tests.integration.asyncio_tools import client_of, until
from tests.integration.tracer import Interrupted, Place, Tracer, instructions

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Generator, Iterator, Sequence

    from redlock._core.votes import RoundResult
    from redlock._transport.threads import ConnectionSet
    from redlock.asyncio import Redlock
    from redlock.testing.redis_server import Cluster

STRUCK = ("asyncio", "_locking", "_transport")
"""The parts of the package that are interrupted."""


async def with_connections(_connections: LoopConnections) -> None:
    """A cycle finds all nodes connected."""


async def without_connections(connections: LoopConnections) -> None:
    """A cycle dials all nodes."""
    for one in connections.state.all:
        connections.state.lost(one, "dropped by the test")
    connections.resume()


STEPS = [30, pytest.param(1, marks=pytest.mark.long(ci=True))]


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
        """The instructions of a cycle, each once."""
        self.cycle()
        self.prepare()
        found = dict.fromkeys(instructions(self.cycle))
        return [place for place in found if set(STRUCK) & set(Path(place.code.co_filename).parts)]

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
        parts = self._client._context.parts()
        connections = parts.connections
        await self._cycle()
        await until(
            lambda: not connections.executions and not any(one.pending for one in connections.state.all),
            "a reply to each command",
            within=9.0,
        )
        assert (parts.window.free, parts.window.attempts) == (64, {}), "no attempt is at the nodes"
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


class Renewed:
    """A lease that is renewed often; its renewal is interrupted."""

    _connections: ConnectionSet | None = None
    _step: Execution[Any] | None = None
    ttl_ms, resource, is_held, _is_renewed = 3_000, "r", True, True

    def __init__(self) -> None:
        self.renewals = 0
        self._loop = asyncio.new_event_loop()
        self._loop.set_exception_handler(lambda _, __: None)
        self._connections_of_loop = LoopConnections([Node("redis://h:1", 10)], Codec(1, "", 10_000), self._loop)
        self._schedule = LoopRenewal(self._connections_of_loop)
        self._schedule.add(self, now_ms())

    def run(self) -> None:
        """Renew the lease a few times."""
        renewed_often = until(lambda: self.renewals >= 3, "renewals go on", within=20, every=0.002)
        self._loop.run_until_complete(renewed_often)

    def close(self) -> None:
        """End the loop."""
        self._schedule.close()
        self._connections_of_loop.abandon()
        self._loop.close()

    def _renewal(self, connections: object) -> Generator[Round, RoundResult, int]:
        assert connections is None
        self.renewals += 1
        return now_ms() + 5
        yield

    def _report_loss(self) -> None:
        """Nothing is lost."""

    def _stop_step(self) -> None:
        """Nothing is under way."""


def guarded(places: Sequence[Place], *callbacks: Callable[..., object]) -> list[Place]:
    """These places, except the very start of these callbacks of the loop, where no code can see an exception."""
    starts = set()
    for callback in callbacks:
        # The first two instructions enter the function and its `try`.
        starts |= {*[place for place in places if place.code is callback.__code__][:2]}
    return [place for place in dict.fromkeys(places) if place not in starts]


def test_an_interrupted_deadline_ends_its_round() -> None:
    overdue = Overdue()
    places = guarded(instructions(overdue.run, within=Execution._overdue), Execution._overdue)
    for place in places:
        if place.code is Execution._overdue.__code__:
            tracer = Tracer(place)
            tracer.run(overdue.run)
            assert tracer.struck == place


@pytest.mark.parametrize("step", STEPS)
def test_an_interrupted_renewal_is_made_up_for(step: int) -> None:
    with closing(Renewed()) as renewed:
        places = guarded(instructions(renewed.run), LoopRenewal._work, LoopRenewal._ended)
    of_renewal = [place for place in places if "renewal" in place.code.co_filename]
    for place in of_renewal[::step]:
        with closing(Renewed()) as renewed:
            tracer = Tracer(place)
            tracer.run(renewed.run)
            assert tracer.struck == place


@pytest.fixture(params=[with_connections, without_connections])
def stricken(nodes: Cluster, request: pytest.FixtureRequest) -> Iterator[Stricken]:
    """A client to strike."""
    with closing(Stricken(nodes, request.param)) as client:
        yield client


# A strike in a coroutine that is just being closed is only reported.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("step", STEPS)
def test_after_any_interruption_the_client_works_on(stricken: Stricken, step: int) -> None:
    wrong = [fault for place in stricken.places()[::step] if (fault := stricken.strike(place))]
    assert not wrong, f"{len(wrong)}: " + "\n".join(wrong)
