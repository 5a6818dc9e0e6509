"""What the tests on real servers share: waiting for conditions, slow links, forks, a sixth Redis.

Rules: nothing here sleeps for a fixed time in place of a condition, and nothing outlives its `with` block.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, TypeVar

import hiredis
from redis import Redis

from redlock import ConfigurationError
from redlock.embedded import Server, free_port
from redlock.link import Link

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence

    import pytest

    from redlock import Lock, Redlock

T = TypeVar("T")

ROOT = Path(__file__).parents[2]

CANARY = "canary-b7Qx"
"""A password that must never be seen again."""


def comes_true(condition: Callable[[], T], *, within: float, every: float = 0.005) -> T:
    """The first true value of the condition, or its last one when the time is over.

    `every` is how seldom it looks: where a look is costly, it must not slow down what is waited for.
    """
    until = time.monotonic() + within
    while not (value := condition()) and time.monotonic() < until:
        time.sleep(every)
    return value


def eventually(condition: Callable[[], T], what: str, *, within: float = 30.0, every: float = 0.005) -> T:
    """As `comes_true`; fails where it does not in a time that no healthy machine needs."""
    value = comes_true(condition, within=within, every=every)
    assert value, f"still waiting after {within:g} s for this: {what}"
    return value


def brief_lock(client: Redlock, name: str, **options: Any) -> Lock:  # noqa: ANN401 - whatever a lock takes
    """A lock whose lease runs out soon where nobody renews it."""
    return client.lock(name, ttl=0.3, **options)


def label(server: Server) -> str:
    """How messages name this server."""
    return server.url.partition("://")[2]


def raw(server: Server) -> Redis:
    """A plain client of one server."""
    return Redis.from_url(server.url, decode_responses=True)


def holders(servers: Iterable[Server], name: str) -> list[str | None]:
    """What each of these servers has at a lock's name."""
    found = []
    for server in servers:
        with raw(server) as redis:
            found.append(redis.get(name))
    return found


def is_free(servers: Iterable[Server], name: str) -> bool:
    """Whether none of these servers has anything at a lock's name."""
    return not any(holders(servers, name))


def run_out(servers: Iterable[Server], name: str) -> None:
    """What the end of its TTL does to a lock, at once: the key goes, the fence stays."""
    for server in servers:
        with raw(server) as redis:
            redis.delete(name)


def in_a_fork(work: Callable[[], object]) -> object:
    """What this returns in a forked child; the name of the error if it raises one."""
    answer, ask = os.pipe()
    with warnings.catch_warnings():
        # From Python 3.12 on a fork beside other threads is warned of; a dial thread may be ending just now.
        warnings.simplefilter("ignore", DeprecationWarning)
        pid = os.fork()
    if pid == 0:
        try:
            result = work()
        except BaseException as exc:  # noqa: BLE001 - the parent is told
            result = type(exc).__name__
        os.write(ask, json.dumps(result).encode())
        os._exit(0)
    os.close(ask)
    with os.fdopen(answer, "rb") as told:
        said = told.read()
    os.waitpid(pid, 0)
    return json.loads(said)


def children(pid: int | None = None) -> list[int]:
    """The child processes of a process, by default of this one, zombies included; none where there is no /proc."""
    found: list[int] = []
    with contextlib.suppress(OSError):
        for task in Path(f"/proc/{pid or os.getpid()}/task").iterdir():
            found += map(int, (task / "children").read_text().split())
    return found


@contextlib.contextmanager
def talking(*arguments: str) -> Iterator[tuple[subprocess.Popen[str], IO[str], IO[str]]]:
    """A Python process that is talked with: itself, what it is told, and what it says; killed in the end."""
    process = subprocess.Popen(
        [sys.executable, *arguments], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            yield process, process.stdin, process.stdout
        finally:
            process.kill()


class SlowLink:
    """The way to one node: what a client sends takes `delay` seconds; what the node answers takes none."""

    def __init__(self, server: Server, path: Path, delay: float) -> None:
        self.url = f"unix://{path}"
        self.delay = delay
        self.commands = 0
        """How many commands were sent this way."""
        self.path = path
        self._target = label(server)

    def lead_to(self, server: Server) -> None:
        """From the next connection on, be the way to this one."""
        self._target = label(server)

    async def listen(self) -> asyncio.Server:
        """Begin to carry."""
        return await asyncio.start_unix_server(self.carry, self.path)

    async def carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Carry one connection both ways until either side ends it."""
        async with contextlib.AsyncExitStack() as stack:
            stack.callback(writer.close)
            # Cancelled when the links go down; asyncio would call a cancelled handler an error of ours.
            stack.enter_context(contextlib.suppress(asyncio.CancelledError))
            node_reader, node_writer = await asyncio.open_unix_connection(self._target)
            stack.callback(node_writer.close)
            ways = [
                asyncio.ensure_future(self._carry_commands(reader, node_writer)),
                asyncio.ensure_future(self._carry_answers(node_reader, writer)),
            ]
            try:
                await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for way in ways:
                    way.cancel()
                await asyncio.gather(*ways, return_exceptions=True)

    async def _carry_commands(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        on_the_way: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()
        arrivals = asyncio.ensure_future(self._arrive(on_the_way, writer))
        counting = hiredis.Reader()
        try:
            while data := await reader.read(65_536):
                on_the_way.put_nowait((time.monotonic() + self.delay, data))
                counting.feed(data)
                while counting.gets() is not False:
                    self.commands += 1
            await on_the_way.join()
        finally:
            arrivals.cancel()
            await asyncio.gather(arrivals, return_exceptions=True)

    @staticmethod
    async def _arrive(on_the_way: asyncio.Queue[tuple[float, bytes]], writer: asyncio.StreamWriter) -> None:
        while True:
            due, data = await on_the_way.get()
            await asyncio.sleep(due - time.monotonic())
            writer.write(data)
            await writer.drain()
            on_the_way.task_done()

    @staticmethod
    async def _carry_answers(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65_536):
            writer.write(data)
            await writer.drain()


@contextlib.contextmanager
def served(*begin: Callable[[], Awaitable[asyncio.Server]]) -> Iterator[None]:
    """Servers, each begun by one of these, in one thread for as long as the `with` block lasts."""
    loop, stop, up = asyncio.new_event_loop(), asyncio.Event(), threading.Event()

    async def serve() -> None:
        listening = [await one() for one in begin]
        up.set()
        await stop.wait()
        for server in listening:
            for socket in server.sockets:
                loop.remove_reader(socket.fileno())
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
def slow_links(servers: Sequence[Server], delay: float = 0.0) -> Iterator[list[SlowLink]]:
    """A link to each of these servers, carried by one thread."""
    with tempfile.TemporaryDirectory(prefix="links-") as directory:
        links = [SlowLink(server, Path(directory) / str(place), delay) for place, server in enumerate(servers)]
        with served(*(link.listen for link in links)):
            yield links


@contextlib.contextmanager
def sixth_redis(*options: str) -> Iterator[Server]:
    """Broker, results and store: a server on a TCP port that loses nothing it has confirmed."""
    for left in range(5, -1, -1):
        server = Server(free_port(), ("--appendonly", "yes", "--appendfsync", "always", *options))
        try:
            server.start()
            break
        except ConfigurationError:
            server.stop()
            if not left:
                raise
    try:
        yield server
    finally:
        server.stop()


def sends(monkeypatch: pytest.MonkeyPatch) -> Callable[[], int]:
    """Count the pieces that go out on all connections."""
    count, put = [0], Link._put

    def counted(link: Link, words: bytes) -> bool:
        count[0] += 1
        return put(link, words)

    monkeypatch.setattr(Link, "_put", counted)
    return lambda: count[0]
