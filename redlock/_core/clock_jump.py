"""Detection of wall clocks that jump: a jump is reported and changes no vote.

Key expiry in Redis runs on the wall clock, so a jump can end a lock early; the fence makes that harmless.

Invariants:
1. A jump takes no vote from a node: in trials, every rule that excluded nodes after jumps excluded healthy nodes too.
2. Pure arithmetic. A node's TIME, read between the client's `sent` and `done`, bounds the offset of the node's clock
   to an interval.
3. A jump is a pair of consecutive intervals that are further apart than clocks drift in between. So neither a long
   round trip nor slow drift over hours counts as a jump.
"""

from __future__ import annotations

_PPM = 1_000
"""Twice the 500 ppm to which NTP limits a clock's rate."""
_ROUNDING_MS = 2
_RECENT_MS = 1_000
"""The drift in this time is lost in the rounding."""


class ClockJumpDetector:
    """The offset of one node's wall clock from the client's steady clock, as far as replies bound the offset."""

    def __init__(self) -> None:
        self.jumps = 0
        """How many jumps were detected."""
        self._low_ms = 0
        self._high_ms = 0
        self._seen_ms: int | None = None

    def observe(self, time_ms: int, sent_ms: int, done_ms: int) -> int:
        """Use the time in a reply; returns by how many milliseconds the clock jumped, 0 without a jump."""
        low, high = time_ms - done_ms - 1, time_ms + 1 - sent_ms
        if self._seen_ms is None:
            self._low_ms, self._high_ms, self._seen_ms = low, high, done_ms
            return 0
        since_ms = done_ms - self._seen_ms
        if low <= self._low_ms and self._high_ms <= high and since_ms < _RECENT_MS:
            # Nearly every reply of a busy client: more is known than it tells.
            return 0
        slack = _ROUNDING_MS + since_ms * _PPM // 1_000_000
        jump = 0
        if low > self._high_ms + slack:
            jump = low - self._high_ms
        elif high < self._low_ms - slack:
            jump = high - self._low_ms
        if jump:
            self.jumps += 1
            self._low_ms, self._high_ms = low, high
        else:
            # Both intervals hold, so the offset is in their intersection, give or take the drift.
            self._low_ms, self._high_ms = max(low, self._low_ms - slack), min(high, self._high_ms + slack)
        self._seen_ms = done_ms
        return jump
