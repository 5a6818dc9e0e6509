"""Lock nodes for tests that can be killed, frozen, cut off, emptied and restarted, and made as new for the next test.

The fixtures `redlock_nodes` and `redlock_client` of the pytest plugin are made of this; it needs no pytest itself.

Rules of this file:
1. A node's address stays the same whatever happens to it, so that a client made once serves a whole test run.
2. As new means: running, reachable, empty, voting at once, and agreed on no terms yet.
3. A node is cut off by moving its socket away and ending its connections. No proxy stands in between: a
   connection must not outlive the server behind it.
"""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING

from redis import Redis

from redlock._transport import codec
from redlock.testing.redis_server import Server

if TYPE_CHECKING:
    from collections.abc import Iterator

_PATIENCE_SECONDS = 5.0


class LockNode(Server):
    """A redis-server on a unix socket: `kill`, `start`, `freeze` and `thaw` as any server of this package, and more."""

    @property
    def _way(self) -> Path:
        return Path(self._socket)

    @property
    def _aside(self) -> Path:
        return self._way.with_suffix(".cut")

    @contextlib.contextmanager
    def _redis(self) -> Iterator[Redis]:
        path = self._way if self._way.exists() else self._aside
        with Redis(unix_socket_path=str(path), socket_timeout=_PATIENCE_SECONDS, decode_responses=True) as redis:
            yield redis

    def empty(self) -> None:
        """FLUSHALL: it has forgotten its locks and fences, notices that, and abstains for `max_ttl`."""
        with self._redis() as redis:
            redis.flushall()

    def restart(self, *, memory: bool = False) -> None:
        """Kill it and start it again; whether it has its memory or not, it abstains for `max_ttl`.

        Args:
            memory: Whether it comes back with everything that it knew, as a node with perfect persistence would.
        """
        self.thaw()
        if memory:
            with self._redis() as redis:
                redis.save()
        self.kill()
        self.start()
        # What it was restored from must not come back at a later start.
        (self.directory / "dump.rdb").unlink(missing_ok=True)

    def cut(self) -> None:
        """Cut it off: all connections end and new ones are refused, while it runs on and keeps its memory.

        `freeze` is the other kind of bad link, on which nobody answers.
        """
        with contextlib.suppress(FileNotFoundError):
            self._way.rename(self._aside)
        with self._redis() as redis:
            redis.client_kill_filter(_type="normal", skipme=True)

    def mend(self) -> None:
        """Undo `cut`."""
        if not self._way.exists():
            self._aside.rename(self._way)

    def reset(self, prefix: str = "") -> None:
        """Make it as new: running, reachable, empty, and voting at once for clients with this prefix."""
        if self._process is None or self._process.poll() is not None:
            self.kill()
            self.start()
        self.thaw()
        self.mend()
        with self._redis() as redis:
            run_id = redis.info("server")["run_id"]
            # In one step: a client of an earlier test that is still at work must not write a record in between.
            with redis.pipeline(transaction=True) as both:
                both.flushall()
                both.eval(codec.Script.load("declare").source.decode(), 1, prefix + codec.RECORD, run_id)
                both.execute()


class LockNodes(tuple[LockNode, ...]):
    """Several independent lock nodes: `nodes[0].kill()`, `for node in nodes[:2]: node.freeze()`."""

    __slots__ = ()

    @property
    def urls(self) -> list[str]:
        """Their addresses, as `Redlock` and `app.conf.redlock_nodes` take them; the same after every `reset`."""
        return [node.url for node in self]

    def reset(self, prefix: str = "") -> None:
        """Make all of them as new for clients with this prefix. A lease taken before is lost."""
        for node in self:
            node.reset(prefix)


@contextlib.contextmanager
def lock_nodes(count: int = 5, prefix: str = "") -> Iterator[LockNodes]:
    """Lock nodes for as long as the `with` block lasts, voting from the start.

    Args:
        count: How many, 1 or more; five tolerate two failures.
        prefix: That of the clients, for whom they vote.

    Raises:
        ConfigurationError: There is no redis-server, or one did not start.
    """
    nodes = LockNodes(LockNode() for _ in range(count))
    try:
        nodes.reset(prefix)
        yield nodes
    finally:
        for node in nodes:
            node.stop()
