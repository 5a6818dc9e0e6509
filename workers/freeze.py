"""The demo's worst case: freezes a worker inside its section for twice the TTL, then lets the worker go on.

Invariants:
1. A freeze counts only if the section is still open, and still that worker's, after all of its processes stopped.
2. A frozen worker continues at the end of the run, also after an error.
"""

from __future__ import annotations

import signal
import time
from typing import TYPE_CHECKING

from redlock import QuorumUnavailable
from redlock._core.votes import masked_token

if TYPE_CHECKING:
    from redis import Redis

    from redlock import Redlock
    from workers.cluster import Running
    from workers.program import Program

_SETTLE_SECONDS = 0.05
"""The time for a write on its way to arrive after the worker was stopped."""


class Freeze:
    """Freezes the worker inside a counter's section, once, for some seconds."""

    def __init__(self, cluster: Running, client: Redlock, redis: Redis, name: str, seconds: float) -> None:
        self._programs = {program.name: program for program in cluster.programs}
        self._client, self._redis, self._name = client, redis, name
        self.seconds = seconds
        self._frozen: Program | None = None
        self._until = 0.0
        self.worker = ""
        """The name of the frozen worker; empty before the freeze."""

    def advance(self) -> str:
        """Freeze or continue a worker when the time has come. To be called repeatedly.

        Returns:
            A sentence about the action, or an empty text.
        """
        if not self.worker:
            return self._freeze()
        if self._frozen is not None and time.monotonic() >= self._until:
            self.resume()
            return f"{self.worker} goes on: its lease expired long ago, unknown to the worker"
        return ""

    def _freeze(self) -> str:
        worker = self._inside()
        program = self._programs.get(worker)
        if program is None:
            return ""
        program.signal(signal.SIGSTOP)
        self._frozen, self._until = program, time.monotonic() + self.seconds
        time.sleep(_SETTLE_SECONDS)
        # A starved server reads a write that has arrived before it reads the command after next.
        self._redis.ping()
        if self._inside() != worker:
            self.resume()
            return ""
        self.worker = worker
        return f"{worker} is frozen inside its section, for {self.seconds:g} s: twice as long as its lease lasts"

    def _inside(self) -> str:
        """The worker between its read and its write, with the lock held; empty without such a worker."""
        try:
            holding = self._client.holder(f"counter:{self._name}")
        except QuorumUnavailable:
            return ""
        owner, section = self._redis.hmget(f"store:{self._name}", "owner", "open")
        if holding is None or not section or masked_token(str(owner)) != holding.holder:
            return ""
        return holding.holder.partition("@")[2].partition("@")[0]

    def resume(self) -> None:
        """Let the worker go on if it is frozen."""
        if self._frozen is not None:
            self._frozen.signal(signal.SIGCONT)
            self._frozen = None
