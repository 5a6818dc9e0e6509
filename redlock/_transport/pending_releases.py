"""Asynchronous releases on a connection set: commands that are held back, and the outcome of each release.

Invariants:
1. A release is held back only if its thread usually sends its next round within a millisecond, and only for 2 ms or 64
   releases. The release goes out in one piece with the next round, and before it.
2. The outcome of each release is reported exactly once, in the order of the releases, at most 80 ms later.
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
    """An asynchronous release whose outcome is unknown.

    Attributes:
        tally: The votes of its round.
        steps: The generator.
        done: The function to call with the outcome; must be quick and never raise.
    """

    tally: VoteTally
    steps: Steps[Outcome]
    done: Callable[[Outcome], None]


class PendingReleases(ConnectionSet):
    """The asynchronous releases of a connection set."""

    def __init__(self, nodes: Sequence[Node], fingerprint: str) -> None:
        super().__init__(nodes, fingerprint)
        self._pending: deque[PendingRelease] = deque()
        self._last_release_ms: int | None = None
        self._returns_at_once = False
        self._held_back_count = self._held_since_ms = 0

    @property
    def is_settled(self) -> bool:
        """Whether the outcome of every asynchronous release is known."""
        return not self._pending

    def _flush(self) -> None:
        if self._held_back_count:
            now = now_ms()
            for pending in itertools.islice(reversed(self._pending), self._held_back_count):
                # The time for the replies counts from now on, however long this thread was stopped meanwhile.
                pending.tally.sent_ms = now
            self._held_back_count, self._returns_at_once = 0, False
            for connection in self._connections:
                connection.flush()

    def _note_held_back(self, sent_ms: int, *, hold: bool) -> None:
        if self._last_release_ms is not None:
            self._returns_at_once, self._last_release_ms = sent_ms - self._last_release_ms <= _AT_ONCE_MS, None
        if hold:
            self._held_since_ms = self._held_since_ms if self._held_back_count else sent_ms
            self._held_back_count += 1
        elif self._held_back_count:
            # Most connections sent them with this round; connections without a command of the round send them now.
            self._held_back_count = 0
            for connection in self._connections:
                connection.flush()

    def _is_time_to_flush(self, now: int) -> bool:
        return self._held_back_count >= _MOST_HELD_BACK or now - self._held_since_ms > _LONGEST_HELD_BACK_MS

    def _report_outcomes(self, over: int = 0) -> None:
        """Report the outcomes that are known. The first `over` releases end with the votes that they have."""
        now = now_ms()
        while self._pending:
            tally, steps, done = self._pending[0]
            if not (over or tally.is_over or now - tally.sent_ms > RELEASE_MS):
                return
            over = max(0, over - 1)
            self._pending.popleft()
            try:
                steps.send(tally.close(now))
            except StopIteration as stop:
                done(stop.value)
