"""What the scenarios work with: nodes with a link before each, a server for the data, and clients of one peer.

Rules: every scenario of every peer has fresh servers and fresh processes; whatever is asked has a time-out, and what
is late or raises is told as `Refused`; nothing is awaited for a fixed time where a condition can be awaited.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from typing import TYPE_CHECKING, Any, NamedTuple

from redis import Redis
from redis.exceptions import RedisError

from benchmarks.bench import lock_nodes, sixth_server
from benchmarks.environment import NODE, PEERS, ROOT, Kind, prepare
from benchmarks.process import PeerFailed, Process, Program
from tests.proxy import proxies

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from typing_extensions import Self

    from redlock.testing.redis_server import Cluster, Server
    from tests.proxy import Proxy

LOCKS = tuple(kind for kind in PEERS if kind.name in {"ours", "redlock-py", "redlock-ng", "pottery", "node-redlock"})
NAME = "it"
NODE_TIMEOUT_MS = 100
"""What node-redlock's Redis clients are given, so that it has what the other peers have."""
_START = 30.0


class Refused(Exception):
    """A peer raised, hung or ended; the message is its own."""


class Player:
    """One client of a lock.

    Args:
        kind: Of which library.
        program: How it is started.
        log: Where its standard error goes.
    """

    def __init__(self, kind: Kind, program: Program, log: Path) -> None:
        self.kind = kind
        self.key = NAME
        self._process = Process(program, log)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()

    def ask(self, do: str, within: float = _START, **said: object) -> dict[str, Any]:
        """Tell it to do something, and wait for the answer.

        Raises:
            Refused: It raised, or is not ready within this time in seconds.
        """
        self.tell(do, **said)
        return self.hear(within)

    def tell(self, do: str, **said: object) -> None:
        """Tell it to do something."""
        self._process.tell(do, **said)

    def hear(self, within: float) -> dict[str, Any]:
        """Its answer."""
        try:
            answer = self._process.hear(within)
        except PeerFailed as why:
            raise Refused(str(why)) from None
        if "error" in answer:
            raise Refused(answer["error"])
        return answer

    def take(self, within: float, name: str = NAME) -> dict[str, Any]:
        """Take the lock; since when and at what time."""
        return self.ask("take", within, name=name)

    def signal(self, number: int) -> None:
        """Send it a signal."""
        os.kill(self._process.pid, number)

    @contextlib.contextmanager
    def frozen(self) -> Iterator[None]:
        """SIGSTOP at the beginning of the block, SIGCONT at its end."""
        self.signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self.signal(signal.SIGCONT)

    def kill(self) -> None:
        """SIGKILL."""
        self._process.kill()


class WorkerFixture(NamedTuple):
    """Where one scenario of one peer happens.

    Attributes:
        kind: The peer.
        nodes: Five of them.
        links: The way to each, for clients that go through them.
        store: The server that owns the data.
        out: Where logs go.
    """

    kind: Kind
    nodes: Cluster
    links: Sequence[Proxy]
    store: Server
    out: Path

    @contextlib.contextmanager
    def player(self, ttl: float, *, linked: bool = False, node_timeout_ms: int = NODE_TIMEOUT_MS) -> Iterator[Player]:
        """A client of the lock that has not dialled yet; `linked`: through the links.

        `node_timeout_ms` is for node-redlock alone; 0 leaves it without.
        """
        with Player(self.kind, _program(self.kind, node_timeout_ms), self.out / "survival.log") as player:
            urls = [link.url for link in self.links] if linked else self.nodes.urls
            player.key = player.ask("connect", urls=urls, ttl=ttl)["prefix"] + NAME
            yield player

    def values(self, key: str) -> list[str | None]:
        """What each node that is up has at a key."""
        found: list[str | None] = []
        for server in self.nodes.servers:
            with Redis.from_url(server.url, decode_responses=True, socket_timeout=2) as redis:
                try:
                    value = redis.get(key)
                except RedisError:
                    value = None
                found.append(value)
        return found

    def put(self, key: str, value: str | None, places: Sequence[int]) -> None:
        """Have some nodes hold this at a key, or nothing."""
        for place in places:
            with Redis.from_url(self.nodes[place].url) as redis:
                redis.delete(key) if value is None else redis.set(key, value)

    def count(self, key: str) -> int:
        """How many nodes have this key."""
        return sum(value is not None for value in self.values(key))


@contextlib.contextmanager
def stage(kind: Kind, out: Path) -> Iterator[WorkerFixture]:
    """Fresh servers for one scenario."""
    with lock_nodes() as nodes, sixth_server() as store, proxies(nodes.servers) as ways:
        yield WorkerFixture(kind, nodes, ways, store, out)


def passed(condition: Callable[[], bool], within: float, every: float = 0.01) -> bool:
    """Whether this becomes true within so many seconds."""
    until = time.monotonic() + within
    while not condition():
        if time.monotonic() > until:
            return False
        time.sleep(every)
    return True


def sleep_until(moment: float) -> None:
    """Let time pass: where a lease is to run out, time is the condition."""
    time.sleep(max(0.0, moment - time.monotonic()))


def _program(kind: Kind, node_timeout_ms: int) -> Program:
    program = prepare(kind)
    if kind is NODE:
        script = str(ROOT / "benchmarks" / "survival" / "player.cjs")
        limit = {"SURVIVAL_NODE_TIMEOUT_MS": str(node_timeout_ms)}
        return Program((program.command[0], script), program.directory, program.environment | limit)
    command = (program.command[0], "-m", "benchmarks.survival.contender", kind.module)
    return Program(command, program.directory, program.environment)
