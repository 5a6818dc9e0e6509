"""A TCP proxy before a server, which can be slow, cut one way, half-open, gone, or answer what the server did not.

Invariants:
1. What is held is not lost: when the proxy is mended it arrives, late, as after TCP's own retransmission; even if
   the sender has closed the connection meanwhile.
2. A connection never outlives the server behind it. Nothing outlives the `with` block.
3. Chance is seeded.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
import struct
import threading
import time
from typing import TYPE_CHECKING

from redlock import _compat

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Iterator, Sequence
    from typing import Any

    from redlock.testing.redis_server import Server

    Passing = Callable[[bytes, asyncio.StreamWriter], Coroutine[Any, Any, None]]
    """How a piece of what the server answers is passed on to the client."""


async def as_it_is(data: bytes, writer: asyncio.StreamWriter) -> None:
    """The answer."""
    writer.write(data)
    await writer.drain()


async def a_byte_each_10_ms(data: bytes, writer: asyncio.StreamWriter) -> None:
    """The answer, slowly."""
    for place in range(len(data)):
        writer.write(data[place : place + 1])
        await asyncio.sleep(0.01)


async def a_reset_in_the_middle(data: bytes, writer: asyncio.StreamWriter) -> None:
    """Half of the answer, and RST."""
    writer.write(data[: len(data) // 2])
    end: socket.socket = writer.get_extra_info("socket")
    end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    raise ConnectionResetError


async def half_and_no_more(data: bytes, writer: asyncio.StreamWriter) -> None:
    """Half of the answer, and the end of what the server says; it goes on listening."""
    writer.write(data[: len(data) // 2])
    writer.write_eof()
    await asyncio.Event().wait()


async def endless_garbage(_: bytes, writer: asyncio.StreamWriter) -> None:
    """One line without an end."""
    while True:
        writer.write(b"+" + b"x" * 65_535)
        await writer.drain()


def says(data: bytes) -> Passing:
    """These bytes in place of each piece of an answer."""

    async def say(_: bytes, writer: asyncio.StreamWriter) -> None:
        await as_it_is(data, writer)

    return say


class Proxy:
    """The way to one server, for clients that use `url` instead of its own.

    Attributes:
        delay: Seconds that what a client sends takes; pieces follow each other closely.
        jitter: The longest time in seconds that a piece takes beside that, either way; drawn anew for each.
        passing: How answers are passed on.
        lets_through: Which pieces of what a client sends reach the server.
        commands: How many commands were sent this way.
    """

    def __init__(self, server: Server, seed: int = 0, delay: float = 0.0) -> None:
        self.delay, self.jitter = delay, 0.0
        self.passing: Passing = as_it_is
        self.lets_through: Callable[[bytes], bool] = bool
        self.commands = 0
        self.url = ""
        self._server = server
        self._chance = random.Random(seed)
        self._ways = {"to": asyncio.Event(), "from": asyncio.Event()}
        for way in self._ways.values():
            way.set()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._carrying: set[asyncio.Task[None]] = set()
        self._forgotten: set[asyncio.Task[None]] = set()
        self._refuses = False

    def lead_to(self, server: Server) -> None:
        """Be the way to this server from the next connection on."""
        self._server = server

    def hold(self, *ways: str) -> None:
        """Hold back what goes `to` the server, comes `from` it, or both: half-open, and neither side is told."""
        self._in_the_loop(*(self._ways[way].clear for way in ways))

    def drop(self) -> None:
        """End all connections and refuse new ones."""
        self._refuses = True
        self._in_the_loop(*(task.cancel for task in list(self._carrying)))

    def drop_connections(self) -> None:
        """Lose all that goes over the connections there are, as a firewall that forgot them; new ones work."""
        self._in_the_loop(lambda: self._forgotten.update(self._carrying))

    def mend(self) -> None:
        """Carry everything again, what was held first."""
        self.delay = self.jitter = 0.0
        self.passing, self._refuses = as_it_is, False
        self._in_the_loop(*(way.set for way in self._ways.values()))

    def _in_the_loop(self, *calls: Callable[[], object]) -> None:
        assert self._loop is not None
        done = threading.Event()

        def call_all() -> None:
            for call in calls:
                call()
            done.set()

        self._loop.call_soon_threadsafe(call_all)
        assert done.wait(10), "the thread of the proxies is stuck"

    async def listen(self) -> asyncio.Server:
        """Begin to carry."""
        self._loop = asyncio.get_running_loop()
        server = await asyncio.start_server(self._carry, "127.0.0.1", 0)
        self.url = f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        return server

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # Cancelled when the proxy ends, be it twice; asyncio would call a cancelled handler an error of ours.
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
                asyncio.ensure_future(self._pump(reader, far, "to", task)),
                asyncio.ensure_future(self._pump(far_reader, writer, "from", task)),
            ]
            # A sender that has closed is done; what it sent still arrives.
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        except (OSError, asyncio.CancelledError):
            pass
        finally:
            # Before anything is waited for: a task that is cancelled once more does not come back from there.
            for end in (writer, far):
                if end is not None:
                    end.close()
            for way in ways:
                way.cancel()
            self._carrying.discard(task)
            self._forgotten.discard(task)
            await asyncio.gather(*ways, return_exceptions=True)

    async def _dial(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if self._server.port is None:
            return await asyncio.open_unix_connection(self._server.url.partition("://")[2])
        return await asyncio.open_connection("127.0.0.1", self._server.port)

    async def _pump(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, way: str, task: asyncio.Task[None]
    ) -> None:
        on_the_way: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()
        arrivals = asyncio.ensure_future(self._arrive(on_the_way, writer, way))
        counting = _compat.Reader()
        due = 0.0
        try:
            with contextlib.suppress(ConnectionError):
                while data := await reader.read(65_536):
                    if task in self._forgotten or (way == "to" and not self.lets_through(data)):
                        continue
                    if way == "to":
                        counting.feed(data)
                        while counting.gets() is not False:
                            self.commands += 1
                    takes = self._chance.uniform(0, self.jitter) + (self.delay if way == "to" else 0.0)
                    due = max(due, time.monotonic() + takes)
                    on_the_way.put_nowait((due, data))
            if task in self._forgotten:
                await asyncio.Event().wait()
            await asyncio.wait(
                [arrivals, join := asyncio.ensure_future(on_the_way.join())], return_when="FIRST_COMPLETED"
            )
            join.cancel()
        finally:
            arrivals.cancel()
            await asyncio.gather(arrivals, return_exceptions=True)

    async def _arrive(
        self, on_the_way: asyncio.Queue[tuple[float, bytes]], writer: asyncio.StreamWriter, way: str
    ) -> None:
        with contextlib.suppress(ConnectionError):
            while True:
                due, data = await on_the_way.get()
                await asyncio.sleep(due - time.monotonic())
                await self._ways[way].wait()
                await (as_it_is if way == "to" else self.passing)(data, writer)
                on_the_way.task_done()
        writer.close()


@contextlib.contextmanager
def served(*begin: Callable[[], Awaitable[asyncio.Server]]) -> Iterator[None]:
    """Servers, each begun by one of these, in one thread for as long as the `with` block lasts."""
    loop, stop, up = asyncio.new_event_loop(), asyncio.Event(), threading.Event()

    async def serve() -> None:
        listening = [await one() for one in begin]
        up.set()
        await stop.wait()
        for server in listening:
            for listener in server.sockets:
                loop.remove_reader(listener.fileno())
        # What was accepted just now becomes a task some turns of the loop later: before that its server can't be closed
        # (asyncio forgets the connection), nor can the task be cancelled (it would not close the connection).
        for _ in range(10):
            await asyncio.sleep(0)
        for server in listening:
            server.close()
        while rest := asyncio.all_tasks() - {asyncio.current_task()}:
            for task in rest:
                task.cancel()
            await asyncio.wait(rest)
        # A closed transport lets go of its socket in the turn after.
        await asyncio.sleep(0)

    def run() -> None:
        loop.run_until_complete(serve())
        loop.close()

    thread = threading.Thread(target=run, name="servers of the test")
    thread.start()
    try:
        assert up.wait(10), "the servers did not come up"
        yield
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join()


@contextlib.contextmanager
def proxies(servers: Sequence[Server], delay: float = 0.0, *, seed: int = 0) -> Iterator[list[Proxy]]:
    """A proxy before each of these servers, all carried by one thread."""
    found = [Proxy(server, seed + place, delay) for place, server in enumerate(servers)]
    with served(*(proxy.listen for proxy in found)):
        yield found
