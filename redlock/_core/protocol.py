"""The algorithm: acquire, extend and release, each as a generator that yields rounds and receives elections.

Rules of this file:
1. It reads no clock and no random numbers and does no I/O. The driver carries a round out, on all nodes at
   once, and sends back an election: the votes, with the clock before and after. So one text runs under the
   sync driver, under others, and under a simulator.
2. One attempt, one owner token, never used again (Redlock's P5: a late release of attempt n must not be able
   to delete the lock of attempt n + 1).
3. What was begun is cancelled when it is lost, on *all* nodes but those that said no: a reply may have been lost
   where a key was set. A node that said no has set nothing.

Source of the algorithm: https://redis.io/docs/latest/develop/clients/patterns/distributed-locks/, with a
fencing token by write-back to a quorum, as in ABD registers.
"""

from __future__ import annotations

import enum
from collections.abc import Generator
from typing import TypeAlias, TypeVar

from redlock._core.commands import Acquire, Confirm, Extend, Inspect, Release, Repair, Round, Wait
from redlock._core.votes import Grant, Refusal, RoundResult, deadline_ms

T = TypeVar("T")
Steps: TypeAlias = Generator[Round, RoundResult, T]


class Outcome(enum.Enum):
    """What a release did."""

    RELEASED = "released"
    """A quorum of nodes still had the key and deleted it."""
    EXPIRED = "expired"
    """A quorum of nodes no longer had the key: the holder overran."""
    UNKNOWN = "unknown"
    """Too few nodes told. What is left of the lock runs out with its TTL."""
    STILL_HELD = "kept"
    """An outer block of the same context still holds it."""
    PENDING = "begun"
    """Nobody waited for what the nodes say."""


def acquire(attempt: Acquire) -> Steps[Grant | Refusal]:
    """One attempt: one round when the nodes' fences agree, two when they must be made to agree."""
    first = yield Round(attempt)
    if not first.won or first.disagreement is not None:
        # A waiter must not wake itself; but who saw this attempt as the winner sleeps until somebody wakes him.
        if first.may_look_won:
            yield from cancel(attempt, attempt.ttl_ms)
        elif first.not_denied:
            yield from cancel(attempt, 0, first.not_denied)
        return Refusal(first)
    fence, last, rounds = first.agreed_fence, first, 1
    if fence is None:
        # Two attempts could both see the same maximum. What nobody can do twice is to make a quorum's fences
        # *become* a number: any two quorums share a node, and there it becomes that number only once.
        fence = first.largest_fence + 1
        last, rounds = (yield Round(Confirm(attempt.names, attempt.token, fence))), 2
    deadline = deadline_ms(attempt.ttl_ms, first.sent_ms)
    # Between the proposal and the send a process can be stopped for any time. Where a node has lost its fences
    # meanwhile, and its quarantine is over, an old proposal would be a token that was given before.
    by = deadline if attempt.decide_by_ms is None else min(deadline, attempt.decide_by_ms)
    if not last.won or last.done_ms >= by:
        yield from cancel(attempt, attempt.ttl_ms)
        return Refusal(last, expired=last.won)
    return Grant(attempt.names, attempt.token, fence, deadline, attempt.ttl_ms, rounds, last)


def cancel(attempt: Acquire, wake_ms: int, to: tuple[int, ...] | None = None) -> Steps[None]:
    """Take back whatever the attempt may have set, anywhere or on these nodes; nobody waits for the answers."""
    yield Round(Release(attempt.names, attempt.token, wake_ms), Wait.SENT, to)


def extend(grant: Grant, ttl_ms: int, wait: Wait = Wait.DECIDED) -> Steps[Grant | Refusal]:
    """A later deadline for a lease that is still ours on a quorum, or the reason why not.

    A failed extension deletes nothing, creates nothing and shortens nothing: the old deadline stands. An
    extension that is sent after the old deadline is no extension, even if the keys are still there.
    """
    round_result = yield Round(Extend(grant.names, grant.token, ttl_ms), wait)
    deadline = deadline_ms(ttl_ms, round_result.sent_ms)
    if not round_result.won:
        return Refusal(round_result)
    if round_result.sent_ms >= grant.deadline_ms or round_result.done_ms >= deadline:
        return Refusal(round_result, expired=True)
    if round_result.missing:
        # Repair inside the extension would bring a lost lease back at its next try: two of three nodes lose the
        # key, another client locks and releases there, and the retry would find three keys "still ours".
        yield Round(Repair(grant.names, grant.token, ttl_ms, grant.fence), Wait.SENT, round_result.missing)
    return grant._replace(deadline_ms=max(deadline, grant.deadline_ms), ttl_ms=ttl_ms, round_result=round_result)


def release(grant: Grant) -> Steps[Outcome]:
    """Delete our key on every node and wake a waiter; the outcome says whether the key was still there."""
    round_result = yield Round(Release(grant.names, grant.token, grant.ttl_ms), Wait.COUNTED)
    if round_result.won:
        return Outcome.RELEASED
    return Outcome.EXPIRED if round_result.denied >= round_result.quorum else Outcome.UNKNOWN


def inspect(name: str) -> Steps[RoundResult]:
    """What every node that answers has at this name; asked twice where too few answer, over other connections then."""
    round_result = yield Round(Inspect((name,)), Wait.ALL)
    return round_result if round_result.reachable else (yield Round(Inspect((name,)), Wait.ALL))
