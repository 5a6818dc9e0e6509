"""Links that can be slow, cut one way, half-open or gone: a TCP proxy before each server, all carried by one thread.

Rules of this file:
1. What is held is not lost: when the link is mended it arrives, late, as after TCP's own retransmission; even if
   who sent it has long given up and closed the connection.
2. A connection never outlives the server behind it.
3. Chance is seeded: `delay` is drawn anew for every piece of data, up to the bound that is set.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import threading
from typing import TYPE_CHECKING

from tests.integration.tools import label, served

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from redlock.embedded import Server


class Link:
    """The way to one server, for clients that use `url` instead of its own.

    Attributes:
        delay: The longest time in seconds that a piece of data takes, either way.
    """

    def __init__(self, server: Server, seed: int) -> None:
        self.delay = 0.0
        self.url = ""
        self._server = server
        self._chance = random.Random(seed)
        self._ways = {"to": asyncio.Event(), "from": asyncio.Event()}
        for way in self._ways.values():
            way.set()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._carrying: set[asyncio.Task[None]] = set()
        self._refuses = False

    def hold(self, *ways: str) -> None:
        """Hold back what goes `to` the server, comes `from` it, or both: half-open, nobody is told."""
        self._in_the_loop(*(self._ways[way].clear for way in ways))

    def drop(self) -> None:
        """End all connections and refuse new ones."""
        self._refuses = True
        self._in_the_loop(*(task.cancel for task in list(self._carrying)))

    def mend(self) -> None:
        """Everything is carried again, what was held first."""
        self.delay, self._refuses = 0.0, False
        self._in_the_loop(*(way.set for way in self._ways.values()))

    def _in_the_loop(self, *calls: object) -> None:
        assert self._loop is not None
        done = threading.Event()

        def call_all() -> None:
            for call in calls:
                call()  # type: ignore[operator]  # bound methods, whatever they return
            done.set()

        self._loop.call_soon_threadsafe(call_all)
        assert done.wait(10), "the thread of the links is stuck"

    async def listen(self) -> asyncio.Server:
        """Begin to carry."""
        self._loop = asyncio.get_running_loop()
        server = await asyncio.start_server(self._carry, "127.0.0.1", 0)
        self.url = f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        return server

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # Cancelled when links go down, be it twice; asyncio would call a cancelled handler an error of ours.
        with contextlib.suppress(asyncio.CancelledError):
            await self._carry_both_ways(reader, writer)

    async def _carry_both_ways(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._carrying.add(task)
        far: asyncio.StreamWriter | None = None
        ways: list[asyncio.Future[None]] = []
        try:
            if self._refuses:
                return
            far_reader, far = await self._dial()
            ways = [
                asyncio.ensure_future(self._pump(reader, far, "to")),
                asyncio.ensure_future(self._pump(far_reader, writer, "from")),
            ]
            # Who sent something and closed is over; what he sent still arrives.
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        except (OSError, asyncio.CancelledError):
            pass
        finally:
            # Before anything is waited for: who is cancelled once more does not come back from there.
            for end in (writer, far):
                if end is not None:
                    end.close()
            for way in ways:
                way.cancel()
            self._carrying.discard(task)
            await asyncio.gather(*ways, return_exceptions=True)

    async def _dial(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if self._server.port is None:
            return await asyncio.open_unix_connection(label(self._server))
        return await asyncio.open_connection("127.0.0.1", self._server.port)

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, way: str) -> None:
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(65_536):
                await asyncio.sleep(self._chance.uniform(0, self.delay))
                await self._ways[way].wait()
                writer.write(data)
                await writer.drain()
            await self._ways[way].wait()


@contextlib.contextmanager
def links(servers: Sequence[Server], seed: int = 0) -> Iterator[list[Link]]:
    """A link to each of these servers for as long as the `with` block lasts."""
    found = [Link(server, seed + place) for place, server in enumerate(servers)]
    with served(*(link.listen for link in found)):
        yield found
