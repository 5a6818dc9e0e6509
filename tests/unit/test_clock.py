"""`redlock._clock`: the clock by which a lease ends."""

from __future__ import annotations

import time

import pytest

from redlock import _clock


@pytest.mark.skipif(not hasattr(time, "CLOCK_BOOTTIME"), reason="only Linux has a clock that runs in suspend")
def test_the_clock_runs_while_the_machine_is_suspended(monkeypatch: pytest.MonkeyPatch) -> None:
    """CLOCK_MONOTONIC stands still then, and a lease that is over would look valid."""
    clocks = {time.CLOCK_BOOTTIME: 7_999_999}
    monkeypatch.setattr(time, "clock_gettime_ns", lambda which: clocks[which])
    monkeypatch.setattr(time, "monotonic_ns", lambda: 0)
    assert _clock.now_ms() == 7
