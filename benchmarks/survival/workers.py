"""The lock nodes with a proxy before each, the server of the data, and the clients of one peer.

Invariants:
1. Each scenario of each peer has fresh servers and processes.
2. Each reply has a timeout. A late reply or an error is `Refused`.
3. A scenario waits for conditions, and for a fixed time only where time is the condition.
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

    from redlock.testing.redis_server import Cluster, Server
    from tests.proxy import Proxy

LOCKS = tuple(kind for kind in PEERS if kind.name in {"ours", "redlock-py", "redlock-ng", "pottery", "node-redlock"})
NAME = "it"
NODE_TIMEOUT_MS = 100
"""The timeout of node-redlock's Redis clients, equal to that of the other peers."""


class Refused(Exception):
    """A peer raised, hung or ended; the message is its own."""


class Player(Process):
    """A client of a lock."""

    key = NAME

    def hear(self, within: float) -> dict[str, Any]:
        """Wait for the reply.

        Raises:
            Refused: The client raised an error, ended or did not reply within this time in seconds.
        """
        try:
            answer = super().hear(within)
        except PeerFailed as why:
            raise Refused(str(why)) from None
        if "error" in answer:
            raise Refused(answer["error"])
        return answer

    def take(self, within: float, name: str = NAME) -> dict[str, Any]:
        """Acquire the lock; the reply has the times before and after."""
        return self.ask("take", within, name=name)

    @contextlib.contextmanager
    def frozen(self) -> Iterator[None]:
        """Freeze the client inside the block."""
        os.kill(self.pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(self.pid, signal.SIGCONT)


class WorkerFixture(NamedTuple):
    """The fixture of a peer's scenario.

    Attributes:
        kind: The peer.
        nodes: Five lock nodes.
        links: A proxy before each node.
        store: The server that owns the data.
        out: Directory of the logs.
    """

    kind: Kind
    nodes: Cluster
    links: Sequence[Proxy]
    store: Server
    out: Path

    @contextlib.contextmanager
    def player(self, ttl: float, *, linked: bool = False, node_timeout_ms: int = NODE_TIMEOUT_MS) -> Iterator[Player]:
        """Start a client of the lock without a connection; with `linked` the client uses the proxies.

        `node_timeout_ms` is for node-redlock only; 0 means no timeout.
        """
        with Player(_program(self.kind, node_timeout_ms), self.out / "survival.log") as player:
            urls = [link.url for link in self.links] if linked else self.nodes.urls
            player.key = player.ask("connect", urls=urls, ttl=ttl)["prefix"] + NAME
            yield player

    def values(self, key: str) -> list[str | None]:
        """The value of a key on each node; None for a missing key or a dead node."""
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
        """Set or delete a key on some nodes."""
        for place in places:
            with Redis.from_url(self.nodes[place].url) as redis:
                redis.delete(key) if value is None else redis.set(key, value)

    def count(self, key: str) -> int:
        """The number of nodes that have this key."""
        return sum(value is not None for value in self.values(key))


@contextlib.contextmanager
def fixture(kind: Kind, out: Path) -> Iterator[WorkerFixture]:
    """Fresh servers for one scenario."""
    with lock_nodes() as nodes, sixth_server() as store, proxies(nodes.servers) as ways:
        yield WorkerFixture(kind, nodes, ways, store, out)


def passed(condition: Callable[[], bool], within: float, every: float = 0.01) -> bool:
    """Whether the condition becomes true within this time in seconds."""
    until = time.monotonic() + within
    while not condition():
        if time.monotonic() > until:
            return False
        time.sleep(every)
    return True


def _program(kind: Kind, node_timeout_ms: int) -> Program:
    program = prepare(kind)
    if kind is NODE:
        script = str(ROOT / "benchmarks" / "survival" / "player.cjs")
        limit = {"SURVIVAL_NODE_TIMEOUT_MS": str(node_timeout_ms)}
        return Program((program.command[0], script), program.directory, program.environment | limit)
    command = (program.command[0], "-m", "benchmarks.survival.contender", kind.module)
    return Program(command, program.directory, program.environment)
