"""Lock nodes for tests: each can be killed, frozen, cut off, emptied, restarted, and reset for the next test.

The fixtures `redlock_nodes` and `redlock_client` of the pytest plugin use this module, which works without pytest.

Invariants:
1. A node always keeps its address, so a client that is made once serves a whole test run.
2. After a reset a node runs, is reachable and empty, votes at once, and has no configuration fingerprint yet.
3. To cut off a node, its socket is moved away and its connections end. There is no proxy, because a connection must
   not outlive its server.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as NoAnswer
from redis.retry import Retry

from redlock import _validation
from redlock._transport import codec
from redlock.errors import ConfigurationError
from redlock.testing.redis_server import Server, running

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

__all__ = ["LockNode", "LockNodes", "lock_nodes"]

_TIMEOUT_SECONDS = 5.0


class LockNode(Server):
    """A redis-server on a unix socket, with the methods of `Server` and further faults.

    A method that needs a running server raises `ConfigurationError` if there is none, or if the server is frozen.
    On Linux a server ends with the thread that started it, also if that was by `restart` or `reset`.
    """

    @property
    def _cut_path(self) -> Path:
        return self._socket.with_suffix(".cut")

    @contextlib.contextmanager
    def _redis(self) -> Iterator[Redis]:
        _ = self.pid
        path = self._socket if self._socket.exists() else self._cut_path
        with Redis(
            unix_socket_path=str(path),
            socket_timeout=_TIMEOUT_SECONDS,
            decode_responses=True,
            retry=Retry(NoBackoff(), 0),
        ) as redis:
            try:
                yield redis
            except NoAnswer:
                raise ConfigurationError(
                    f"the server {self.url} does not answer; if it is frozen, call `thaw`"
                ) from None

    def empty(self) -> None:
        """FLUSHALL: the node loses its locks and fences, notices the loss, and abstains for `max_ttl`."""
        with self._redis() as redis:
            redis.flushall()

    def restart(self, *, memory: bool = False) -> None:
        """Kill the node, if running, and start the node. The node abstains for `max_ttl`, with or without its memory.

        On Linux the server ends with the calling thread, as after `start`.

        Args:
            memory: Whether the node keeps all data, as with perfect persistence. The node must run for this.
        """
        if memory or self.is_running:
            self.thaw()
        if memory:
            with self._redis() as redis:
                redis.save()
        self.kill()
        self.start()
        # A later start must not restore this snapshot.
        (self.directory / "dump.rdb").unlink(missing_ok=True)

    def stop(self) -> None:
        """As `kill`: the node keeps its address and its directory, which the end of `lock_nodes` removes."""
        self.kill()

    def cut(self) -> None:
        """End all connections and refuse new connections. The node runs on and keeps its memory.

        With `freeze`, connections stay open and the node answers nothing.
        """
        with self._redis() as redis:
            redis.ping()  # first, so that nothing is done to a node without an answer
            with contextlib.suppress(FileNotFoundError):
                self._socket.rename(self._cut_path)
            redis.client_kill_filter(_type="normal", skipme=True)

    def reconnect(self) -> None:
        """Undo `cut`."""
        if not self._socket.exists():
            self._cut_path.rename(self._socket)

    def reset(self, prefix: str = "") -> None:
        """Make the node as new: running, reachable, empty, and voting at once for clients with this prefix."""
        prefix = _validation.prefix(prefix)
        try:
            self._renew(prefix)
        except (RedisConnectionError, ConfigurationError):
            # The server was ending, by a signal or with the thread that started it.
            self.kill()
            self._renew(prefix)

    def _renew(self, prefix: str) -> None:
        if not self.is_running:
            self.start()
        self.thaw()
        self.reconnect()
        with self._redis() as redis:
            run_id = redis.info("server")["run_id"]
            # In one step: a client of an earlier test may still run, and must not write a record in between.
            with redis.pipeline(transaction=True) as pipeline:
                pipeline.flushall()
                pipeline.eval(codec.Script.load("declare").source.decode(), 1, prefix + codec.RECORD, run_id)
                pipeline.execute()


class LockNodes(tuple[LockNode, ...]):
    """Several independent lock nodes: `nodes[0].kill()`, `for node in nodes[:2]: node.freeze()`."""

    __slots__ = ()

    @property
    def urls(self) -> list[str]:
        """The addresses, as `Redlock` and `app.conf.redlock_nodes` take them. They never change."""
        return [node.url for node in self]

    def reset(self, prefix: str = "") -> None:
        """Make all nodes as new for clients with this prefix. A lease that was acquired before is lost."""
        for node in self:
            node.reset(prefix)


@contextlib.contextmanager
def lock_nodes(count: int = 5, prefix: str = "") -> Iterator[LockNodes]:
    """Run lock nodes during the `with` block. The nodes vote from the start.

    Args:
        count: Number of nodes, 1 or more; five nodes tolerate two failures.
        prefix: The prefix of the clients for which the nodes vote.

    Raises:
        ConfigurationError: There is no redis-server, a server did not start, or the number of nodes is less than 1.
    """
    count = _validation.count("the number of nodes", count, least=1)
    nodes = LockNodes(LockNode() for _ in range(count))
    with running(nodes, prefix):
        yield nodes
