"""Asynchronous releases on a connection set: commands that are held back, and the outcome of each release.

Invariants:
1. No I/O and no clock; time is an argument.
2. A release is held back only if its thread usually sends its next round within a millisecond, and only for 2 ms or 64
   releases. The release goes out in the same piece as the next round, in front of the round.
3. The outcome of each release is reported exactly once, in the order of the releases, at most 80 ms later.
"""

from __future__ import annotations

import itertools
from collections import deque
from typing import TYPE_CHECKING, NamedTuple

from redlock._transport.connections import RELEASE_MS

if TYPE_CHECKING:
    from collections.abc import Callable

    from redlock._core.protocol import Outcome, Steps
    from redlock._core.vote_tally import VoteTally

_AT_ONCE_MS = 1
_MOST_HELD_BACK = 64
_LONGEST_HELD_BACK_MS = 2
MOST_PENDING = 512
"""The most releases without a reply: their replies fit into the socket's buffer while no thread reads them."""


class PendingRelease(NamedTuple):
    """An asynchronous release that has no known outcome yet. `done` gets the outcome, is quick and never raises."""

    tally: VoteTally
    steps: Steps[Outcome]
    done: Callable[[Outcome], None]


class PendingReleases(deque[PendingRelease]):
    """The asynchronous releases of a connection set that have no known outcome yet, the oldest first."""

    def __init__(self) -> None:
        super().__init__()
        self._last_ms: int | None = None
        self.returns_at_once = False
        """Whether the thread usually sends its next round right after a release, so that a release is held back."""
        self.held_back = 0
        """The number of releases that are held back."""
        self._held_since_ms = 0

    def note_round(self, sent_ms: int, *, hold: bool) -> None:
        """A round or a release is sent together with all releases that were held back, or is held back too."""
        if self._last_ms is not None:
            self.returns_at_once, self._last_ms = sent_ms - self._last_ms <= _AT_ONCE_MS, None
        if not hold:
            self.held_back = 0

    def note_release(self, release: PendingRelease, *, held: bool) -> None:
        """A release is sent or held back."""
        self.append(release)
        self._last_ms = release.tally.sent_ms
        if held:
            self._held_since_ms = self._held_since_ms if self.held_back else release.tally.sent_ms
            self.held_back += 1

    def is_time_to_flush(self, now_ms: int) -> bool:
        """Whether the releases that are held back can wait no longer."""
        return self.held_back > 0 and (
            self.held_back >= _MOST_HELD_BACK or now_ms - self._held_since_ms > _LONGEST_HELD_BACK_MS
        )

    def flush(self, now_ms: int) -> None:
        """Everything that is held back is sent now."""
        if self.held_back:
            for pending in itertools.islice(reversed(self), self.held_back):
                # The time for the replies counts from now on, however long this thread was stopped meanwhile.
                pending.tally.sent_ms = now_ms
            self.held_back, self.returns_at_once = 0, False

    def report(self, now_ms: int, over: int = 0) -> None:
        """Report the outcomes that are known. The first `over` releases end with the votes that they have."""
        while self:
            tally, steps, done = self[0]
            if not (over or tally.is_over or now_ms - tally.sent_ms > RELEASE_MS):
                return
            over = max(0, over - 1)
            self.popleft()
            try:
                steps.send(tally.close(now_ms))
            except StopIteration as stop:
                done(stop.value)
