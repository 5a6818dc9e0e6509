"""Schedules on the shipped protocol and scripts for what chance meets too seldom: other settings, sets of names."""

from __future__ import annotations

import pytest

from redlock import ConfigurationError
from redlock._core import protocol
from redlock._core.commands import Confirm, Release, Repair
from redlock._core.votes import Kind, quarantine_ms
from redlock._transport import codec as wire
from redlock._transport.codec import Codec
from tests.sim.manual_rounds import ALL, A, B, C, ManualRounds, held
from tests.sim.nodes import EPOCH_MS

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


def test_a_restart_forgets_the_settings() -> None:
    hand = ManualRounds()
    node = hand.nodes[C]
    hand.tell(hand.attempt("c1"), [C])
    node.stop()
    node.restart("all")
    hand.tell(hand.attempt("c1"), [C])
    assert node.fingerprint() == ""


def test_a_confirm_looks_at_every_name_of_a_set() -> None:
    for spoil in ("gone", "another's", "fence"):
        hand = ManualRounds()
        attempt = hand.attempt("c1", names=BOTH)
        hand.tell(attempt, [A])
        node, token = hand.nodes[A], attempt.proposed + 5
        if spoil == "fence":
            node.set(wire.fence_key("b"), str(token))
        else:
            node.delete("b")
        if spoil == "another's":
            node.set("b", "somebody")
        assert hand.tell(Confirm(BOTH, attempt.token, token), [A])[A].kind is Kind.DENIED, spoil
        assert node.get(wire.fence_key("a")) == str(attempt.proposed), "nothing is written"


def test_a_repair_looks_at_every_name_of_a_set() -> None:
    hand = ManualRounds()
    grant = held(hand.run(protocol.acquire(hand.attempt("c1", names=BOTH)), reach={A, B, C}))
    node = hand.nodes[A]
    node.delete("a")
    node.set("b", "somebody")
    assert hand.tell(Repair(BOTH, grant.token, 5_000, grant.fence), [A])[A].holder == "somebody"
    assert (node.get("a"), node.get("b")) == (None, "somebody")


def test_a_repair_never_lowers_a_fence() -> None:
    hand = ManualRounds()
    grant = held(hand.run(protocol.acquire(hand.attempt("c1", names=BOTH)), reach={A, B, C}))
    node, higher = hand.nodes[A], EPOCH_MS * 1_000 + 777
    for name in BOTH:
        node.delete(name)
        node.set(wire.fence_key(name), str(higher))
    assert hand.tell(Repair(BOTH, grant.token, 5_000, grant.fence), [A])[A].kind is Kind.GRANTED
    assert [node.get(name) for name in BOTH] == [grant.token] * 2
    assert [node.get(wire.fence_key(name)) for name in BOTH] == [str(higher)] * 2


def test_a_release_wakes_the_waiters_of_every_name_of_a_set() -> None:
    hand = ManualRounds()
    grant = held(hand.run(protocol.acquire(hand.attempt("c1", names=BOTH))))
    hand.tell(Release(BOTH, grant.token, 5_000), ALL)
    assert [hand.wake_ups(name) for name in BOTH] == [ALL, ALL]
