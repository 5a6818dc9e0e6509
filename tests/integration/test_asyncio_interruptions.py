"""A signal handler raises at any instruction of the asyncio transport: each reply still belongs to its command."""

from __future__ import annotations

import asyncio
import itertools
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.integration.asyncio_tools import client_of, until
from tests.integration.tracer import Interrupted, Place, Tracer, instructions

if TYPE_CHECKING:
    from collections.abc import Iterator

    from redlock.asyncio import Redlock
    from redlock.testing.redis_server import Cluster

FILES = {"asyncio.py", "connected_nodes.py", "connection.py", "connections.py", "loop_sockets.py", "reply_reader.py"}


class Stricken:
    """A client and its event loop, for interrupted calls."""

    def __init__(self, nodes: Cluster) -> None:
        self.loop = asyncio.new_event_loop()
        self.reported: list[dict[str, Any]] = []
        self.loop.set_exception_handler(lambda _, context: self.reported.append(context))
        self.client: Redlock = client_of(nodes.urls)
        self._numbers = itertools.count()

    def cycle(self) -> None:
        """Take, extend and release a lock that was never used."""
        self.loop.run_until_complete(asyncio.wait_for(self._cycle(), 20))

    async def _cycle(self) -> None:
        async with self.client.lock(f"struck:{next(self._numbers)}") as lease:
            await lease.extend(9.0)

    def places(self) -> list[Place]:
        """The instructions of the transport in a cycle, each once."""
        self.cycle()
        found = dict.fromkeys(instructions(self.cycle))
        return [place for place in found if Path(place.code.co_filename).name in FILES]

    def strike(self, place: Place) -> str:
        """Interrupt a cycle; returns the fault, if any."""
        tracer = Tracer(place)
        try:
            tracer.run(self.cycle)
        except Interrupted:
            pass
        except asyncio.TimeoutError:
            return f"{place}: the call has no end"
        try:
            self.loop.run_until_complete(asyncio.wait_for(self._is_as_good_as_new(), 60))
        except Exception as error:  # noqa: BLE001 - the faults of all places are shown together
            return f"{place}: {error!r}"
        return ""

    async def _is_as_good_as_new(self) -> None:
        connections = self.client._context.parts().connections
        await self._cycle()
        await until(
            lambda: not connections.executions and not any(one.pending for one in connections.state.all),
            "a reply to each command",
            within=9.0,
        )
        while not all(one.handle for one in connections.state.all):
            # Dropped connections are dialled again.
            await self._cycle()

    def end(self) -> None:
        """Close the client and the loop."""
        self.loop.run_until_complete(self.client.aclose())
        self.loop.close()


@pytest.fixture
def stricken(nodes: Cluster) -> Iterator[Stricken]:
    """A client to strike."""
    client = Stricken(nodes)
    yield client
    client.end()


# A strike in a coroutine that is just being closed is only reported.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("step", [15, pytest.param(1, marks=pytest.mark.long(ci=True))])
def test_after_any_interruption_each_reply_has_its_command(stricken: Stricken, step: int) -> None:
    wrong = [fault for place in stricken.places()[::step] if (fault := stricken.strike(place))]
    assert not wrong, f"{len(wrong)}: " + "\n".join(wrong)
