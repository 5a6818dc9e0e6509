"""What the tests on real servers share: waiting for conditions, slow links, forks, a sixth Redis.

Rules: nothing here sleeps for a fixed time in place of a condition, and nothing outlives its `with` block.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
import warnings
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, TypeVar

from redis import Redis

from redlock import ConfigurationError
from redlock._transport.connection import NodeConnection
from redlock.testing.redis_server import Server, free_port

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    import pytest

    from redlock import Lock, Redlock
    from redlock._core.vote_tally import VoteTally

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
    count, send, flush = [0], NodeConnection.send, NodeConnection.flush

    def counted(connection: NodeConnection, words: bytes, tally: VoteTally) -> bool:
        count[0] += 1
        return send(connection, words, tally)

    def flushed(connection: NodeConnection) -> None:
        count[0] += bool(connection._held_back)
        flush(connection)

    monkeypatch.setattr(NodeConnection, "send", counted)
    monkeypatch.setattr(NodeConnection, "flush", flushed)
    return lambda: count[0]
