"""Schedules on the shipped protocol and scripts for what chance meets too seldom: clients with other settings."""

from __future__ import annotations

import pytest

from redlock import ConfigurationError
from redlock._core import protocol
from redlock._core.votes import Kind, quarantine_ms
from redlock._transport.codec import Codec
from tests.sim.manual_rounds import A, B, C, ManualRounds, held

BOTH = ("a", "b")


def test_a_lease_longer_than_max_ttl_is_not_asked_for() -> None:
    """Three emptied nodes vote again after `max_ttl`, and would give the lock to another client."""
    hand = ManualRounds(max_ttl_ms=1_000)
    c1 = held(hand.run(protocol.acquire(hand.attempt("c1", 1_000))))
    with pytest.raises(ConfigurationError, match="max_ttl"):
        hand.run(protocol.extend(c1, 30_000))
    with pytest.raises(ConfigurationError, match="max_ttl"):
        hand.run(protocol.acquire(hand.attempt("c2", 1_001)))
    for place in (A, B, C):
        hand.nodes[place].flush()
        hand.tell(hand.attempt("c2", 1_000), [place])
    hand.wait(quarantine_ms(1_000))
    held(hand.run(protocol.acquire(hand.attempt("c2", 1_000))))
    assert hand.now_ms() > c1.deadline_ms


def test_a_smaller_max_ttl_does_not_shorten_a_quarantine() -> None:
    """The hasty client comes first, and the lease that the node has forgotten is another's."""
    hand = ManualRounds(max_ttl_ms=60_000)
    hasty = Codec(5, "", 1_000)
    node = hand.nodes[C]
    node.flush()
    assert hand.tell(hand.attempt("hasty", 1_000), [C], hasty)[C].remaining_ms == quarantine_ms(1_000)
    hand.tell(hand.attempt("right"), [C])
    for waited_ms in (quarantine_ms(1_000), quarantine_ms(60_000) - quarantine_ms(1_000) - 1):
        hand.wait(waited_ms)
        for codec in (hasty, hand.codec):
            assert hand.tell(hand.attempt("early", 1_000), [C], codec)[C].kind is Kind.SILENT
    hand.wait(1)
    assert hand.tell(hand.attempt("right"), [C])[C].kind is Kind.GRANTED


def test_a_node_takes_over_no_settings_before_its_first_vote() -> None:
    hand = ManualRounds(max_ttl_ms=1_000)
    other = Codec(5, "", 2_000)
    node = hand.nodes[C]
    node.flush()
    hand.tell(hand.attempt("other", 1_000), [C], other)
    assert node.fingerprint() == ""
    hand.wait(quarantine_ms(2_000))
    assert hand.tell(hand.attempt("right", 1_000), [C])[C].kind is Kind.GRANTED
    assert node.fingerprint() == hand.codec.fingerprint
    assert hand.tell(hand.attempt("other", 1_000), [C], other)[C].fingerprint == hand.codec.fingerprint
