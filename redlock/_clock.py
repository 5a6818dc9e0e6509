"""The steady clock and the wall clock.

Invariants:
1. Elapsed time comes from a clock that neither jumps nor stops while the machine sleeps (CLOCK_BOOTTIME). Python's
   `time.monotonic()` is CLOCK_MONOTONIC on Linux, which stops in suspend.
2. The wall clock proposes fencing tokens, and dates reports for people. A wrong proposal costs a second round and never
   safety.
3. The acquire loop and the steps of a lease read no other clock, see `_chance`.
"""

from __future__ import annotations

import time

_BOOTTIME: int | None = getattr(time, "CLOCK_BOOTTIME", None)

if _BOOTTIME is None:

    def now_ms() -> int:
        """Milliseconds, floored, on a clock that does not jump; macOS has none that runs in suspend."""
        return time.monotonic_ns() // 1_000_000
else:
    _boottime: int = _BOOTTIME

    def now_ms() -> int:
        """Milliseconds, floored, on a clock that neither jumps nor stops in suspend."""
        return time.clock_gettime_ns(_boottime) // 1_000_000


def monotonic() -> float:
    """Seconds on the clock by which the system ends waits; it may stop in suspend."""
    return time.monotonic()


def wall_us() -> int:
    """Microseconds since 1970 on the wall clock."""
    return time.time_ns() // 1_000
