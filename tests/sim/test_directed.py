"""The schedules that broke earlier drafts, each step by step, on the shipped protocol and scripts.

The tests are in the order of the schedules, one test per schedule. Numbers 5, 10 and 14, in which the store
has the last word, are in `test_directed_store`.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from redlock import ConfigurationError
from redlock._core import protocol
from redlock._core.clock_jump import ClockJumpDetector
from redlock._core.commands import Confirm, Extend, Repair, Round, Wait
from redlock._core.votes import FENCE_LIMIT, Kind, RoundResult, drift_ms, quarantine_ms, silent, timed_out
from redlock._transport import codec
from redlock._transport.codec import Codec
from tests.sim import options as drawn
from tests.sim.manual_rounds import ALL, A, B, C, D, E, ManualRounds, held, lost
from tests.sim.nodes import EPOCH_MS
from tests.sim.schedule import Schedule
from tests.sim.source import Source
from tests.sim.world import MS, here

HOUR_MS = 3_600_000


def rounds(hand: ManualRounds, kind: type[object]) -> list[Round]:
    return [one for one in hand.asked if isinstance(one.command, kind)]


def test_1_an_extension_after_the_release_creates_no_lock() -> None:
    hand = ManualRounds()
    grant = held(hand.run(protocol.acquire(hand.attempt("c1"))))
    assert hand.run(protocol.release(grant)) is protocol.Outcome.RELEASED
    votes = hand.tell(Extend(grant.names, grant.token, grant.ttl_ms), ALL)
    assert {vote.kind for vote in votes.values()} == {Kind.DENIED}
    assert hand.keys() == {}


def test_2_a_lost_lease_does_not_come_back() -> None:
    hand = ManualRounds(nodes=3)
    c1 = held(hand.run(protocol.acquire(hand.attempt("c1"))))
    for place in (B, C):
        hand.nodes[place].delete("a")
    c2 = held(hand.run(protocol.acquire(hand.attempt("c2")), reach={B, C}))
    hand.run(protocol.release(c2), reach={B, C})
    for _ in range(2):
        assert lost(hand.run(protocol.extend(c1, 5_000, Wait.ALL))).round_result.granted == 1
    assert rounds(hand, Repair) == []
    assert hand.keys() == {A: c1.token}


def test_2_a_held_lease_is_repaired_where_its_key_is_missing() -> None:
    hand = ManualRounds()
    grant = held(hand.run(protocol.acquire(hand.attempt("c1"))))
    hand.nodes[D].delete("a")
    held(hand.run(protocol.extend(grant, 5_000, Wait.ALL)))
    (repair,) = rounds(hand, Repair)
    assert repair.to == (D,)
    assert hand.keys() == dict.fromkeys(ALL, grant.token)


def test_2_an_extension_does_not_lengthen_what_is_another_s() -> None:
    hand = ManualRounds()
    c1 = held(hand.run(protocol.acquire(hand.attempt("c1"))))
    for node in hand.nodes:
        node.delete("a")
    c2 = held(hand.run(protocol.acquire(hand.attempt("c2", ttl_ms=1_000))))
    refused = lost(hand.run(protocol.extend(c1, 5_000, Wait.ALL)))
    assert {vote.holder for vote in refused.round_result.votes} == {c2.token}
    hand.wait(1_001)
    assert hand.keys() == {}, "it was given no more time than its holder asked for"


def test_2_an_extension_that_fails_deletes_nothing() -> None:
    hand = ManualRounds()
    grant = held(hand.run(protocol.acquire(hand.attempt("c1", names=("a", "b")))))
    for place in (A, B, C):
        hand.nodes[place].delete("b")
    assert lost(hand.run(protocol.extend(grant, 5_000, Wait.ALL))).round_result.granted == 2
    assert hand.keys("a") == dict.fromkeys(ALL, grant.token)


def test_3_a_shorter_max_ttl_gets_no_lease_from_an_emptied_node() -> None:
    hand = ManualRounds(max_ttl_ms=60_000)
    c1 = held(hand.run(protocol.acquire(hand.attempt("c1", 60_000)), reach={A, B, C}))
    hasty = Codec(5, "", 5_000)
    hand.nodes[C].stop()
    hand.nodes[C].restart("none")
    hand.tell(hand.attempt("c2"), [C], hasty)
    hand.wait(quarantine_ms(5_000) + 1)
    assert hand.tell(hand.attempt("c2"), [C], hasty)[C].kind is Kind.GRANTED, "its record is long over for this client"
    hand.nodes[C].delete("a")
    # D and E hold no lock either, but they know the fingerprint of the other clients.
    hand.tell(Extend(("a",), "somebody", 60_000), [D, E])
    refused = lost(hand.run(protocol.acquire(hand.attempt("c2")), reach={C, D, E}, codec=hasty))
    assert refused.round_result.disagreement is not None
    assert hand.now_ms() < c1.deadline_ms


def test_3_a_lease_longer_than_max_ttl_is_not_asked_for() -> None:
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


def test_4_a_record_from_the_future_silences_no_node() -> None:
    hand = ManualRounds()
    node = hand.nodes[C]
    node.offset_ms += HOUR_MS
    node.flush()
    assert hand.tell(hand.attempt("c1"), [C])[C].kind is Kind.SILENT
    node.offset_ms -= HOUR_MS
    vote = hand.tell(hand.attempt("c1"), [C])[C]
    assert vote.remaining_ms == quarantine_ms(10_000)
    hand.wait(quarantine_ms(10_000) - 1)
    assert hand.tell(hand.attempt("c1"), [C])[C].kind is Kind.SILENT
    hand.wait(1)
    assert hand.tell(hand.attempt("c1"), [C])[C].kind is Kind.GRANTED


def test_6_an_extension_never_shortens() -> None:
    hand = ManualRounds(max_ttl_ms=10_000)
    c1 = held(hand.run(protocol.acquire(hand.attempt("c1", 10_000))))
    # The round fails half-way: two of five answer.
    lost(hand.run(protocol.extend(c1, 1_000, Wait.ALL), reach={A, B}))
    for until_ms in (1_200, c1.deadline_ms - 1):
        hand.wait(until_ms - hand.now_ms())
        assert lost(hand.run(protocol.acquire(hand.attempt("c2")))).round_result.denied == 5
        assert hand.keys() == dict.fromkeys(ALL, c1.token)


@pytest.mark.parametrize("proposed", [(EPOCH_MS + HOUR_MS) * 1_000 + 1, FENCE_LIMIT, 2**53, 2**60])
def test_7_a_token_an_hour_ahead_is_refused_without_a_write(proposed: int) -> None:
    hand = ManualRounds()
    attempt = hand.attempt("c1")._replace(proposed=proposed)
    refused = lost(hand.run(protocol.acquire(attempt)))
    assert refused.round_result.granted == 0
    assert "more than an hour ahead" in refused.round_result.votes[0].reason
    assert hand.keys() == {}
    last = held(hand.run(protocol.acquire(attempt._replace(proposed=(EPOCH_MS + HOUR_MS) * 1_000))))
    assert last.fence == (EPOCH_MS + HOUR_MS) * 1_000
    hand.run(protocol.release(last))
    # A token that is one more would be too far ahead, until time has passed.
    lost(hand.run(protocol.acquire(hand.attempt("c2"))))
    hand.wait(1)
    assert held(hand.run(protocol.acquire(hand.attempt("c2")))).fence == last.fence + 1


def test_7_a_node_with_an_implausible_token_has_no_vote() -> None:
    hand = ManualRounds()
    for place in (A, B):
        hand.nodes[place].set(codec.fence_key("a"), str(FENCE_LIMIT - 5))
    c1 = held(hand.run(protocol.acquire(hand.attempt("c1"))))
    assert set(hand.keys()) == {C, D, E}
    assert c1.fence < FENCE_LIMIT // 2
    held(hand.run(protocol.extend(c1, 5_000, Wait.ALL)))
    hand.run(protocol.release(c1))
    c2 = held(hand.run(protocol.acquire(hand.attempt("c2", names=("a", "b")))))
    assert set(hand.keys("b")) == {C, D, E}, "neither there nor for a set that it belongs to"
    hand.run(protocol.release(c2))
    hand.nodes[C].set(codec.fence_key("a"), str(FENCE_LIMIT - 5))
    assert lost(hand.run(protocol.acquire(hand.attempt("c3")))).no_quorum
    held(hand.run(protocol.acquire(hand.attempt("c4", names=("b",)))))


def test_7_a_confirm_of_an_implausible_token_is_refused() -> None:
    hand = ManualRounds()
    attempt = hand.attempt("c1")
    hand.tell(attempt, ALL)
    for vote in hand.tell(Confirm(("a",), attempt.token, FENCE_LIMIT - 5), ALL).values():
        assert vote.kind is Kind.SILENT
        assert "more than an hour ahead" in vote.reason
    for vote in hand.tell(Repair(("a",), attempt.token, 1_000, FENCE_LIMIT - 5), ALL).values():
        assert vote.kind is Kind.SILENT


def test_8_a_lost_election_does_not_wake_its_own_client() -> None:
    hand = ManualRounds()
    held(hand.run(protocol.acquire(hand.attempt("c1")), reach={A, B, C}))
    refused = lost(hand.run(protocol.acquire(hand.attempt("c2"))))
    assert refused.round_result.granted == 2
    assert hand.wake_ups() == set()
    assert set(hand.keys()) == {A, B, C}


def test_9_a_release_is_heard_on_nodes_that_never_had_the_key() -> None:
    hand = ManualRounds()
    c1 = held(hand.run(protocol.acquire(hand.attempt("c1")), reach={A, B, C}))
    hand.run(protocol.release(c1))
    assert hand.wake_ups() == ALL


def test_11_slow_drift_is_no_jump() -> None:
    detector = ClockJumpDetector()
    for second in range(0, 3 * 3_600, 10):
        now_ms = second * 1_000
        assert detector.observe(now_ms + now_ms * 50 // 1_000_000, now_ms, now_ms + 1) == 0, f"after {second} s"


def test_12_a_jump_that_breaks_a_short_lease_is_seen() -> None:
    detector = ClockJumpDetector()
    detector.observe(0, 0, 1)
    seen = detector.observe(1_300, 1_000, 1_001)
    assert abs(seen - 300) < drift_ms(1_000)


def test_13_a_wake_up_is_passed_on_by_who_stops_waiting() -> None:
    hand = ManualRounds()
    c1 = held(hand.run(protocol.acquire(hand.attempt("c1"))))
    hand.run(protocol.release(c1))
    node = hand.nodes[A]
    key = codec.wake_key("a")
    node.delete(key)
    assert hand.wake_ups() == {B, C, D, E}, "somebody took it on A"
    assert node.run_words(hand.lua.wake, 1, (key, "5000")) == [1]
    assert node.run_words(hand.lua.wake, 1, (key, "5000")) == [0], "at most one lies on a node"
    assert hand.wake_ups() == ALL
    hand.wait(5_001)
    assert A not in hand.wake_ups(), "and it expires"


def test_15_one_frozen_node_keeps_nobody_waiting_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = drawn.draw(0)._replace(
        nodes=5, clients=4, operations=24, ttl_ms=5_000, max_ttl_ms=5_000, timeout_ms=100, acquire_timeout_ms=60_000,
        think_ms=1, renew=False, sets=False, delay_us=5_000, tail=0.0, store_loss=0.0, nemesis=0.0, faults=(),
        fault_count=0, pieces=0.0, stalls=0.0, stranger_ttl_ms=0, extends=False, uneven_fences=False,
    )  # fmt: skip
    monkeypatch.setattr(drawn, "draw", lambda seed: plain._replace(seed=seed))
    source, waited = Source(), Counter[tuple[int, str, int]]()
    connection_set = source.package.module("_transport.threads").ConnectionSet
    ask = connection_set.ask

    def timed(connections: Any, round_: Round) -> RoundResult:  # noqa: ANN401 - of the simulated package
        result: RoundResult = ask(connections, round_)
        if type(round_.command).__name__ == "Acquire" and result.done_ms - result.sent_ms + 1 >= plain.timeout_ms:
            waited[seed, here().machine.name, id(connections)] += 1
        return result

    monkeypatch.setattr(connection_set, "ask", timed)
    for seed in range(100):
        schedule = Schedule(seed, source)
        # Frozen when all clients are connected, and too shortly for a client to dial again.
        schedule.world.at(30 * MS, setattr, schedule.nodes[E], "frozen_until", 10**12)
        schedule.world.run(900 * MS)
        schedule.world.close()
        if len(waited) > 2:
            break
    assert waited, "nobody has met the frozen node"
    assert max(waited.values()) == 1


def test_16_an_attempt_that_looked_won_leaves_a_wake_up() -> None:
    hand = ManualRounds()
    steps = protocol.acquire(hand.attempt("c1"))
    attempt = next(steps)
    said = hand.tell(attempt.command, [A, B, C])
    # C's answer is late: C is silent for this client, and names this client as holder to all other clients.
    votes = (said[A], said[B], timed_out("no answer within 100 ms"), silent("down"), silent("down"))
    others = lost(hand.run(protocol.acquire(hand.attempt("c4")), reach={A, B, C}))
    assert others.round_result.held_by_a_quorum, "so c4 sleeps until it is woken"
    cancel = steps.send(RoundResult(votes, hand.now_ms(), hand.now_ms() + 100))
    hand.tell(cancel.command, [A, B, C])
    assert hand.wake_ups() >= {A, B, C}


def test_17_who_is_refused_by_any_node_takes_no_lease() -> None:
    hand = ManualRounds()
    c1 = held(hand.run(protocol.acquire(hand.attempt("c1", 10_000)), reach={A, B, E}))
    few, known = Codec(3, "", 10_000), (B, C, D)
    for place in (C, D):
        hand.nodes[place].flush()
    lost(hand.run(protocol.acquire(hand.attempt("c2")), codec=few, among=known))
    hand.wait(5_000)
    c1 = held(hand.run(protocol.extend(c1, 10_000, Wait.ALL)))
    hand.wait(quarantine_ms(10_000) - 5_000)
    refused = lost(hand.run(protocol.acquire(hand.attempt("c2")), codec=few, among=known))
    assert refused.round_result.granted == 2, "C and D would have been a quorum of three"
    assert refused.round_result.disagreement == known.index(B)
    assert hand.now_ms() < c1.deadline_ms
    assert hand.keys() == {A: c1.token, B: c1.token, E: c1.token}
