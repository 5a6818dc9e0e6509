"""The demo's worst case: a worker is frozen inside its section for twice the TTL, and goes on unaware.

Rules: a worker counts as frozen inside only if its section is still open, and still its own, when all of its processes
stand; what was frozen is let go again however the run ends.
"""

from __future__ import annotations

import signal
import time
from typing import TYPE_CHECKING

from redlock import QuorumUnavailable
from redlock._core.votes import masked_token

if TYPE_CHECKING:
    from types import TracebackType

    from redis import Redis
    from typing_extensions import Self

    from redlock import Redlock
    from workers.cluster import Program, Running

_SETTLE_SECONDS = 0.05
"""A write that was already on its way when the worker was stopped has arrived by then."""


class Freeze:
    """Freezes the worker that is inside a counter's section, once, and lets it go on after a while.

    Args:
        cluster: Whose workers they are.
        client: Knows who holds the lock.
        redis: The store.
        name: The counter.
        seconds: For how long.
    """

    def __init__(self, cluster: Running, client: Redlock, redis: Redis, name: str, seconds: float) -> None:
        self._programs = {program.name: program for program in cluster.programs}
        self._client, self._redis, self._name = client, redis, name
        self.seconds = seconds
        self._frozen: Program | None = None
        self._until = 0.0
        self.struck = ""
        """The worker that was frozen; empty before."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._let_go()

    def look(self) -> str:
        """Freeze, or let go, if it is time to; to be called again and again. What was done, in words, or nothing."""
        if not self.struck:
            return self._strike()
        if self._frozen is not None and time.monotonic() >= self._until:
            self._let_go()
            return f"{self.struck} goes on: its lease is long over, and it does not know"
        return ""

    def _strike(self) -> str:
        worker = self._inside()
        program = self._programs.get(worker)
        if program is None:
            return ""
        program.signal(signal.SIGSTOP)
        self._frozen, self._until = program, time.monotonic() + self.seconds
        time.sleep(_SETTLE_SECONDS)
        if self._inside() != worker:
            self._let_go()
            return ""
        self.struck = worker
        return f"{worker} is frozen inside its section, for {self.seconds:g} s: twice as long as its lease lasts"

    def _inside(self) -> str:
        """The worker that has read the counter and not written it yet, and holds the lock; empty if none has."""
        try:
            holding = self._client.holder(f"counter:{self._name}")
        except QuorumUnavailable:
            return ""
        owner, section = self._redis.hmget(f"store:{self._name}", "owner", "open")
        if holding is None or section is None or masked_token(str(owner)) != holding.holder:
            return ""
        return holding.holder.partition("@")[2].partition("@")[0]

    def _let_go(self) -> None:
        if self._frozen is not None:
            self._frozen.signal(signal.SIGCONT)
            self._frozen = None
