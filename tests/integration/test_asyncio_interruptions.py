"""A signal handler raises at any instruction of the asyncio lock: the client works on as before."""

from __future__ import annotations

import asyncio
import gc
import itertools
import socket
from collections.abc import Awaitable, Callable, Generator, Iterator, Sequence
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest

from redlock._clock import now_ms
from redlock._core.commands import Inspect, Round, Wait
from redlock._core.votes import RoundResult
from redlock._transport.asyncio import Execution, LoopConnections
from redlock._transport.codec import Codec
from redlock._transport.exchange import Exchange
from redlock._transport.node import Node
from redlock.asyncio import Lock, Redlock
from redlock.asyncio._renewal import LoopRenewal
from redlock.errors import NotHeld, RedlockError
from redlock.testing.redis_server import Cluster
from tests.integration.asyncio_tools import client_of, until
from tests.integration.tracer import Interrupted, Place, Tracer, instructions

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
        self._kept: list[Interrupted] = []
        """An exception that is kept keeps the objects of its frames alive."""

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
        self.cycle()
        self.prepare()
        # As in each `with` statement: after an exception on the last step into a block, the block has no end. After an
        # exception on the first step out of the block, the block stays open.
        doors = {Lock.__aenter__.__code__, Lock._acquire.__code__, Lock.__aexit__.__code__}
        found = [place for place in dict.fromkeys(instructions(self.cycle)) if place.code not in doors]
        return [place for place in found if set(STRUCK) & set(Path(place.code.co_filename).parts)]

    def strike(self, place: Place) -> str:
        """Interrupt a cycle; returns the fault, if any."""
        self.prepare()
        self._reported.clear()
        tracer = Tracer(place)
        try:
            tracer.run(self.cycle)
        except Interrupted as error:
            self._kept = [error]
        except asyncio.TimeoutError:
            return f"{place}: the call has no end"
        try:
            self._run(self._is_as_good_as_new(), 60)
        except (AssertionError, asyncio.TimeoutError, RedlockError) as error:
            return f"{place}: {error!r}"
        # No code awaits the extension of an interrupted caller, and then the lease is released.
        expected = (Interrupted, NotHeld)
        others = [one for one in self._reported if not isinstance(one.get("exception"), expected)]
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
        assert (parts.window._inside, parts.window.attempts) == (set(), {}), "no attempt is at the nodes"
        if parts.renewal._schedule.next_ms() is not None:
            # A lease of an earlier strike, because the exception of that strike was dropped.
            gc.collect()
        assert parts.renewal._schedule.next_ms() is None, "a lease without an owner is renewed"
        while not all(one.handle for one in connections.state.all):
            # Dropped connections are dialled again.
            await self._cycle()

    def close(self) -> None:
        self._loop.run_until_complete(self._client.aclose())
        self._loop.close()


class Overdue:
    """A round that gets no reply; its end at its deadline is interrupted.

    Args:
        fails: Whether an error follows the round.
    """

    def __init__(self, *, fails: bool) -> None:
        self._fails = fails

    def _steps(self) -> Generator[Round, RoundResult, None]:
        yield Round(Inspect(("a",)), Wait.ALL)
        if self._fails:
            raise RedlockError("no quorum")

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
            done, _ = await asyncio.wait({connections.start(self._steps(), now_ms() + 10).future}, timeout=20)
            assert done, "the caller waits for ever"
            error = done.pop().exception()
            assert isinstance(error, (RedlockError, Interrupted)) or (error is None and not self._fails)
            assert not connections.executions, "the round goes on"
            connections.abandon()


class Renewed:
    """A lease that is renewed often; its renewal is interrupted."""

    ttl_ms, resource, is_held, _is_renewed = 3_000, "r", True, True

    def __init__(self) -> None:
        self.renewals = 0
        self._loop = asyncio.new_event_loop()
        self._loop.set_exception_handler(lambda _, __: None)
        self._connections_of_loop = LoopConnections([Node("redis://h:1", 10)], Codec(1, "", 10_000), self._loop)
        schedule: Any = LoopRenewal(self._connections_of_loop)
        self.schedule = schedule
        # The first renewal is late, so each run has the instructions of a late one: the machine can stand still.
        self.schedule.add(self, now_ms() - 5_000)

    def run(self) -> None:
        renewed_often = until(lambda: self.renewals >= 3, "renewals go on", within=20, every=0.002)
        self._loop.run_until_complete(renewed_often)

    def close(self) -> None:
        self.schedule.close()
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

    def _end_renewal(self) -> int | None:
        """No code wants to hear of its end."""
        return None


def guarded(places: Sequence[Place], *callbacks: Callable[..., object]) -> list[Place]:
    """These places, except the very start of these callbacks of the loop, where no code can see an exception."""
    starts = set()
    for callback in callbacks:
        # The first two instructions enter the function and its `try`.
        starts |= {*[place for place in places if place.code is callback.__code__][:2]}
    return [place for place in dict.fromkeys(places) if place not in starts]


@pytest.mark.parametrize("fails", [False, True])
def test_an_interrupted_deadline_ends_its_round(fails: bool) -> None:
    overdue = Overdue(fails=fails)
    places = guarded(instructions(overdue.run, within=Execution._overdue), Execution._overdue)
    own_code = {getattr(function, "__code__", None) for function in vars(Execution).values()}
    own = [place for place in places if place.code in own_code]
    for place in own:
        tracer = Tracer(place)
        # A strike in the call that begins the round reaches its caller.
        with suppress(Interrupted):
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


def test_an_interrupted_start_of_a_renewal_stops_no_other() -> None:
    def places() -> list[Place]:
        with closing(Renewed()) as first, closing(Renewed()) as second:
            return instructions(lambda: first.schedule.add(second, now_ms()))

    for place in dict.fromkeys(places()):
        with closing(Renewed()) as first, closing(Renewed()) as second:
            tracer = Tracer(place)
            with suppress(Interrupted):
                # Due before the first lease, so the timer is replaced.
                tracer.run(lambda: first.schedule.add(second, now_ms()))
            first.run()


def test_after_its_end_a_renewal_that_is_still_due_does_nothing() -> None:
    with closing(Renewed()) as renewed:
        renewed.schedule.add(renewed, now_ms())
        renewed.schedule.close()
        renewed.schedule._work()
        assert renewed.renewals == 0


def test_an_interrupted_renewal_leaves_one_timer() -> None:
    with closing(Renewed()) as renewed:
        timer = renewed.schedule._timer
        assert timer is not None
        renewed.schedule._recover()
        assert timer.cancelled()


def test_a_late_renewal_is_not_put_off_by_new_leases() -> None:
    with closing(Renewed()) as renewed, closing(Renewed()) as other:
        # As after the loop was blocked.
        renewed.schedule.add(other, now_ms() - 5_000)
        timer = renewed.schedule._timer
        renewed.schedule.add(other, now_ms() + 1_000)
        assert renewed.schedule._timer is timer


@pytest.fixture(params=[with_connections, without_connections])
def stricken(nodes: Cluster, request: pytest.FixtureRequest) -> Iterator[Stricken]:
    with closing(Stricken(nodes, request.param)) as client:
        yield client


# A strike in a coroutine that is just being closed is only reported.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("step", STEPS)
def test_after_any_interruption_the_client_works_on(stricken: Stricken, step: int) -> None:
    wrong = [fault for place in stricken.places()[::step] if (fault := stricken.strike(place))]
    assert not wrong, f"{len(wrong)}: " + "\n".join(wrong)
