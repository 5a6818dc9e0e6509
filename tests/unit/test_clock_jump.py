"""Clock jumps are detected; long round trips and slow drift are not taken for jumps."""

from __future__ import annotations

import random

import pytest

from redlock._core.clock_jump import ClockJumpDetector

HOUR_MS = 3_600_000


def watched(seed: int, *, ppm: int, hours: float = 1.0) -> ClockJumpDetector:
    """A detector that has observed a node with this clock error, over many round-trip times, for this long."""
    chance, detector, now = random.Random(seed), ClockJumpDetector(), 1_000_000
    end = now + int(hours * HOUR_MS)
    while now < end:
        there, back = chance.randrange(60), chance.randrange(60)
        node = 1_700_000_000_000 + (now + there) * (1_000_000 + ppm) // 1_000_000
        detector.observe(node, now, now + there + back)
        now += there + back + chance.choice((1, 20, 500, 5_000, 60_000))
    return detector


def test_an_hour_of_healthy_replies_over_uneven_links_is_no_jump() -> None:
    assert [watched(seed, ppm=0).jumps for seed in range(20)] == [0] * 20


def test_slow_drift_over_hours_is_no_jump() -> None:
    for ppm in (-500, -50, 50, 500):
        assert watched(3, ppm=ppm, hours=3).jumps == 0


def test_a_jump_beyond_the_round_trip_is_seen_both_ways() -> None:
    for jump in (300, -300):
        detector = ClockJumpDetector()
        assert detector.observe(50_000, 1_000, 1_010) == 0
        seen = detector.observe(50_020 + jump, 1_020, 1_030)
        assert abs(seen - jump) <= 25
        assert detector.jumps == 1


def test_a_jump_is_reported_once() -> None:
    detector = ClockJumpDetector()
    detector.observe(50_000, 1_000, 1_001)
    detector.observe(53_600, 1_010, 1_011)
    for tick in range(100):
        assert detector.observe(53_610 + tick * 10, 1_020 + tick * 10, 1_021 + tick * 10) == 0
    assert detector.jumps == 1


def test_a_small_jump_after_a_busy_hour_is_seen() -> None:
    """Replies without new bounds do not change the time of the last good bound."""
    detector = ClockJumpDetector()
    for now in range(1_000, 3_600_000, 400):
        assert detector.observe(50_000 + now, now, now + 1) == 0
    assert detector.observe(50_000 + 3_600_020, 3_600_000, 3_600_001) > 0


@pytest.mark.parametrize(("later_ms", "drift_ms"), [(100, 0), (10_000, 10), (10**9, 10**6)])
def test_a_jump_is_more_than_rounding_and_drift_explain(later_ms: int, drift_ms: int) -> None:
    """Both replies bound the offset to a millisecond on each side; two more are for the rounding of clocks."""
    most = 2 + 2 + drift_ms
    for way in (1, -1):
        for beyond, jumped in ((most, 0), (most + 1, way * (most - 1))):
            detector = ClockJumpDetector()
            detector.observe(50_000, 1_000, 1_000)
            now = 1_000 + later_ms
            assert detector.observe(49_000 + now + way * beyond, now, now) == jumped


@pytest.mark.parametrize("jump", [20, -20])
def test_a_slow_reply_widens_neither_bound(jump: int) -> None:
    """A round trip of seconds bounds the offset badly; the earlier bounds still hold."""
    detector = ClockJumpDetector()
    detector.observe(50_000, 1_000, 1_000)
    assert detector.observe(51_000, 1_001, 3_001) == 0
    assert abs(detector.observe(52_002 + jump, 3_002, 3_002)) > 0


def test_slow_replies_of_a_busy_client_widen_nothing() -> None:
    detector = ClockJumpDetector()
    detector.observe(50_000, 1_000, 1_000)
    for now in range(1_001, 1_901, 100):
        assert detector.observe(49_000 + now + 50, now, now + 100) == 0
    assert detector.observe(49_000 + 1_902 + 5, 1_902, 1_902) == 3
