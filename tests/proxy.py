"""A TCP proxy before a server: slow, cut in one direction, half-open, closed, or with replies of its own.

Invariants:
1. Held bytes are not lost. After `restore` they arrive late, as after a retransmission by TCP, even if the sender has
   closed the connection.
2. A connection never outlives its server. Nothing outlives the `with` block.
3. Randomness is seeded.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
import ssl
import struct
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Sequence
from typing import Any
from urllib.parse import unquote

from redlock._transport.reply_reader import ReplyReader
from redlock.testing.redis_server import Server

Passing = Callable[[bytes, asyncio.StreamWriter], Coroutine[Any, Any, None]]
"""Forwards a piece of a reply to the client."""


async def unchanged(data: bytes, writer: asyncio.StreamWriter) -> None:
    """Forward the bytes."""
    writer.write(data)
    await writer.drain()


def dripping(seconds: float) -> Passing:
    """Forward the bytes one at a time, with this pause after each byte: the fault itself."""

    async def forward(data: bytes, writer: asyncio.StreamWriter) -> None:
        for place in range(len(data)):
            writer.write(data[place : place + 1])
            await asyncio.sleep(seconds)

    return forward


byte_by_byte = dripping(0.01)


async def half_a_reply_then_reset(data: bytes, writer: asyncio.StreamWriter) -> None:
    """Forward half of the bytes, then reset the connection."""
    writer.write(data[: len(data) // 2])
    end: socket.socket = writer.get_extra_info("socket")
    end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    raise ConnectionResetError


async def half_a_reply(data: bytes, writer: asyncio.StreamWriter) -> None:
    """Forward half of the bytes and close this direction; the other direction stays open."""
    writer.write(data[: len(data) // 2])
    writer.write_eof()
    await asyncio.Event().wait()


async def endless_garbage(_: bytes, writer: asyncio.StreamWriter) -> None:
    """Send a line without an end."""
    while True:
        writer.write(b"+" + b"x" * 65_535)
        await writer.drain()


def always(data: bytes) -> Passing:
    """Forward these bytes in place of each piece of a reply."""

    async def forward(_: bytes, writer: asyncio.StreamWriter) -> None:
        await unchanged(data, writer)

    return forward


class Proxy:
    """A proxy before one server, for clients that use its `url`.

    Attributes:
        delay: Delay in seconds of bytes to the server; pieces keep their distance.
        jitter: The longest random delay in seconds that each piece has in addition, in both directions.
        passing: The function that forwards replies.
        lets_through: Whether a piece of a request reaches the server.
        commands: Number of commands to the server.
        tls: The TLS of clients; None for connections in the clear.
    """

    def __init__(self, server: Server, seed: int = 0, delay: float = 0.0) -> None:
        self.delay, self.jitter = delay, 0.0
        self.passing: Passing = unchanged
        self.lets_through: Callable[[bytes], bool] = bool
        self.commands = 0
        self.tls: ssl.SSLContext | None = None
        self.url = ""
        self._server = server
        self._chance = random.Random(seed)
        self._ways = {"to": asyncio.Event(), "from": asyncio.Event()}
        for way in self._ways.values():
            way.set()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._forwarding: set[asyncio.Task[None]] = set()
        self._forgotten: set[asyncio.Task[None]] = set()
        self._refuses = False

    def connect_to(self, server: Server) -> None:
        """Forward new connections to this server."""
        self._server = server

    def hold(self, *ways: str) -> None:
        """Hold bytes `to` the server, `from` the server, or both, without a sign to either side."""
        self._in_the_loop(*(self._ways[way].clear for way in ways))

    def drop(self) -> None:
        """Close all connections and refuse new connections."""
        self._refuses = True
        self._in_the_loop(*(task.cancel for task in list(self._forwarding)))

    def drop_connections(self) -> None:
        """Lose all bytes of the present connections, as a firewall that forgot them; new connections work."""
        self._in_the_loop(lambda: self._forgotten.update(self._forwarding))

    def restore(self) -> None:
        """Forward everything again, the held bytes first."""
        self.delay = self.jitter = 0.0
        self.passing, self._refuses = unchanged, False
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
        self._loop = asyncio.get_running_loop()
        server = await asyncio.start_server(self._forward, "127.0.0.1", 0, ssl=self.tls)
        self.url = f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        return server

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # The end of the proxy cancels the handler, and asyncio would report a cancelled handler as an error.
        with contextlib.suppress(asyncio.CancelledError):
            await self._forward_both_ways(reader, writer)

    async def _forward_both_ways(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._forwarding.add(task)
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
            # After a sender has closed, its bytes still arrive.
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
            writer.close()
            far.close()
            await asyncio.gather(writer.wait_closed(), far.wait_closed())
        except (OSError, asyncio.CancelledError):
            pass
        finally:
            # Before any await, because a second cancel would end the task there. A transport that only closes would
            # wait for a client that reads no more.
            for end in (writer, far):
                if end is not None:
                    end.transport.abort()
            for way in ways:
                way.cancel()
            self._forwarding.discard(task)
            self._forgotten.discard(task)
            await asyncio.gather(*ways, return_exceptions=True)

    async def _dial(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if self._server.port is None:
            return await asyncio.open_unix_connection(unquote(self._server.url.partition("://")[2]))
        return await asyncio.open_connection("127.0.0.1", self._server.port)

    async def _pump(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, way: str, task: asyncio.Task[None]
    ) -> None:
        on_the_way: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()
        arrivals = asyncio.ensure_future(self._arrive(on_the_way, writer, way))
        counting = ReplyReader(admin=True)
        due = 0.0
        try:
            with contextlib.suppress(ConnectionError):
                while data := await reader.read(65_536):
                    if task in self._forgotten or (way == "to" and not self.lets_through(data)):
                        continue
                    if way == "to":
                        self.commands += len(counting.read(data))
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
                await (unchanged if way == "to" else self.passing)(data, writer)
                on_the_way.task_done()
        writer.close()


@contextlib.contextmanager
def served(*begin: Callable[[], Awaitable[asyncio.Server]]) -> Iterator[None]:
    """Run servers, each started by one of these functions, in one thread during the `with` block."""
    loop, stop, up = asyncio.new_event_loop(), asyncio.Event(), threading.Event()

    async def serve() -> None:
        listening = [await one() for one in begin]
        up.set()
        await stop.wait()
        for server in listening:
            for listener in server.sockets:
                loop.remove_reader(listener.fileno())
        # A new connection becomes a task some iterations of the loop later. Before that, asyncio would forget the
        # connection of a closed server, and a cancelled task would not close the connection.
        for _ in range(10):
            await asyncio.sleep(0)  # exactly an iteration of the loop
        for server in listening:
            server.close()
        while rest := asyncio.all_tasks() - {asyncio.current_task()}:
            for task in rest:
                task.cancel()
            await asyncio.wait(rest)
        await asyncio.sleep(0)  # a closed transport closes its socket in the next iteration

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
    """Run a proxy before each of these servers, all in one thread."""
    found = [Proxy(server, seed + place, delay) for place, server in enumerate(servers)]
    with served(*(proxy.listen for proxy in found)):
        yield found
