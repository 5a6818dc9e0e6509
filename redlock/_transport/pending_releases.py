"""Releases that no caller waits for, on one set of links: what is held back, and what became of each.

Invariants:
1. A release is held back only where its thread is in the habit of coming back within a millisecond, and for 2 ms or
   64 releases at most. It goes out with the next round, in one piece and before it.
2. The outcome of each is told exactly once, in the order in which they began, 80 ms later at most.
"""

from __future__ import annotations

import itertools
from collections import deque
from typing import TYPE_CHECKING, NamedTuple

from redlock._clock import now_ms
from redlock._transport.connections import ConnectionSet

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from redlock._core.protocol import Outcome, Steps
    from redlock._core.vote_tally import VoteTally
    from redlock._transport.node import Node

RELEASE_MS = 80
"""A hard time limit leaves a Celery child 100 ms between SIGTERM and SIGKILL (billiard/pool.py)."""
_AT_ONCE_MS = 1
_MOST_HELD_BACK = 64
_LONGEST_HELD_BACK_MS = 2


class PendingRelease(NamedTuple):
    """A release that nobody waits for.

    Attributes:
        ballot: Its one round.
        steps: The generator.
        done: What to call with what became of it; must be quick and never raise.
    """

    tally: VoteTally
    steps: Steps[Outcome]
    done: Callable[[Outcome], None]


class PendingReleases(ConnectionSet):
    """The releases under way on a set of links."""

    def __init__(self, nodes: Sequence[Node], fingerprint: str) -> None:
        super().__init__(nodes, fingerprint)
        self._begun: deque[PendingRelease] = deque()
        self._begun_ms: int | None = None
        self._comes_back = False
        self._holds_back = self._held_since_ms = 0

    @property
    def is_settled(self) -> bool:
        """Whether nothing is under way that nobody waits for."""
        return not self._begun

    def _flush(self) -> None:
        if self._holds_back:
            now = now_ms()
            for begun in itertools.islice(reversed(self._begun), self._holds_back):
                # The nodes have their time from now on, however long this thread was stopped meanwhile.
                begun.tally.sent_ms = now
            self._holds_back, self._comes_back = 0, False
            for link in self._links:
                link.flush()

    def _hold_back(self, sent_ms: int, *, hold: bool) -> None:
        if self._begun_ms is not None:
            self._comes_back, self._begun_ms = sent_ms - self._begun_ms <= _AT_ONCE_MS, None
        if hold:
            self._held_since_ms = self._held_since_ms if self._holds_back else sent_ms
            self._holds_back += 1
        elif self._holds_back:
            # Most went out with this round; a node that it did not ask has still to hear what was held back.
            self._holds_back = 0
            for link in self._links:
                link.flush()

    def _is_time_to_flush(self, now: int) -> bool:
        return self._holds_back >= _MOST_HELD_BACK or now - self._held_since_ms > _LONGEST_HELD_BACK_MS

    def _tell(self, over: int = 0) -> None:
        """Tell what became of the releases that nobody waits for; this many of them are over as they are."""
        now = now_ms()
        while self._begun:
            tally, steps, done = self._begun[0]
            if not (over or tally.is_over or now - tally.sent_ms > RELEASE_MS):
                return
            over = max(0, over - 1)
            self._begun.popleft()
            try:
                steps.send(tally.close(now))
            except StopIteration as stop:
                done(stop.value)
