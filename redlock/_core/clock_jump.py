"""The clock watch: a node whose wall clock jumps against ours is reported. It changes no vote.

Key expiry in Redis runs on the wall clock, so a jump can end a lock early. In trials every rule that barred some
jumps barred healthy nodes too; the fence is what makes a jump harmless, this is what makes it seen.

Rules: pure arithmetic. A node's TIME, read between our `sent` and our `done`, bounds its offset to an interval;
a jump is a pair of intervals, one after the other, that are further apart than clocks drift in between. So the
length of a round trip is no jump, and neither is slow drift over hours.
"""

from __future__ import annotations

_PPM = 1_000
"""Twice the 500 ppm to which NTP limits a clock's rate."""
_ROUNDING_MS = 2
_RECENT_MS = 1_000
"""The drift in this time is lost in the rounding."""


class ClockWatch:
    """The offset of one node's wall clock against our steady one, as far as replies bound it."""

    def __init__(self) -> None:
        self.jumps = 0
        """How many have been seen."""
        self._low_ms = 0
        self._high_ms = 0
        self._seen_ms: int | None = None

    @property
    def offset_ms(self) -> int | None:
        """How far the node's wall clock is ahead of our steady one; None if no reply has told it."""
        return None if self._seen_ms is None else (self._low_ms + self._high_ms) // 2

    def see(self, time_ms: int, sent_ms: int, done_ms: int) -> int:
        """Take in a reply; returns by how many milliseconds the clock jumped, 0 if it did not."""
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
            # Both intervals hold, so the offset is in what they share, give or take the drift.
            self._low_ms, self._high_ms = max(low, self._low_ms - slack), min(high, self._high_ms + slack)
        self._seen_ms = done_ms
        return jump
