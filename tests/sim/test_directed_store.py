"""Those of the schedules that broke earlier drafts in which the store has the last word, step by step.

Rules: as in `test_directed`. The lock does not prevent number 5: its test shows the schedule, and that the store stays
right.
"""

from __future__ import annotations

import pytest

from redlock._core import protocol
from redlock._core.votes import Kind
from tests.sim.manual_rounds import A, B, C, D, E, ManualRounds, held


@pytest.mark.parametrize("apart_ms", [0, 10])
def test_5_the_store_stays_right_after_a_short_quarantine(apart_ms: int) -> None:
    hand = ManualRounds()
    c1 = held(hand.run(protocol.acquire(hand.attempt("c1")), reach={A, B, C}))
    (_, section, *_) = hand.open(c1)
    node = hand.nodes[C]
    node.stop()
    node.restart("none")
    node.offset_ms -= 3_600_000
    assert hand.tell(hand.attempt("c2"), [C])[C].kind is Kind.SILENT
    node.offset_ms += 3_600_000
    hand.wait(apart_ms)
    c2 = held(hand.run(protocol.acquire(hand.attempt("c2")), reach={C, D, E}))
    assert hand.now_ms() < c1.deadline_ms, "both believe"
    # C forgot the fence too, so only wall clocks that read differently tell the two tokens apart.
    assert (c2.fence > c1.fence) == (apart_ms > 0)
    opened = hand.open(c2)
    written = hand.write(c1, section, 1, "op-1")[0]
    if apart_ms:
        assert (opened[0], written) == ("OPEN", "STALE")
        assert hand.write(c2, opened[1], 1, "op-2")[0] == "WRITTEN"
        assert hand.open(c1)[0] == "STALE"
    else:
        # The same number from another owner is no way in.
        assert (opened[0], written) == ("STALE", "WRITTEN")
    assert hand.store.field("s", "value") == "1"


def test_10_two_operations_under_one_lease_lose_no_update() -> None:
    hand = ManualRounds()
    grant = held(hand.run(protocol.acquire(hand.attempt("c1"))))
    (_, first, *_), (_, second, *_) = hand.open(grant), hand.open(grant)
    assert hand.write(grant, second, 1, "op-2") == ["WRITTEN", f"{grant.fence}:1"]
    # The late write of the first operation carries a value from before the write of the second operation.
    assert hand.write(grant, first, 1, "op-1") == ["STALE", grant.fence]
    verdict, again, value = hand.open(grant)
    assert (verdict, value) == ("OPEN", "1")
    assert hand.write(grant, again, 2, "op-1")[0] == "WRITTEN"
    assert hand.store.field("s", "value") == "2"


def test_14_tokens_that_went_backwards_heal_at_the_store() -> None:
    hand = ManualRounds()
    ahead, behind = 9_000, -9_000
    c1 = held(hand.run(protocol.acquire(hand.attempt("c1", wall_ms=ahead))))
    assert hand.write(c1, hand.open(c1)[1], 1, "op-1")[0] == "WRITTEN"
    for node in hand.nodes:
        node.flush()
        node.declare()
    attempt = hand.attempt("c2", wall_ms=behind)
    c2 = held(hand.run(protocol.acquire(attempt)))
    assert c2.fence < c1.fence
    verdict, seen = hand.open(c2)
    assert (verdict, seen) == ("STALE", c1.fence)
    hand.run(protocol.release(c2))
    again = held(hand.run(protocol.acquire(hand.attempt("c2")._replace(proposed=seen + 1))))
    verdict, section, value = hand.open(again)
    assert (verdict, value) == ("OPEN", "1")
    assert hand.write(again, section, 2, "op-2")[0] == "WRITTEN"
