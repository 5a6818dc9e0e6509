"""The lock algorithm as generators that yield rounds and receive round results.

Source: https://redis.io/docs/latest/develop/clients/patterns/distributed-locks/, with a fencing token that is written
back to a quorum, as in ABD registers.

Invariants:
1. No clock, no randomness and no I/O: a driver executes each round on all nodes in parallel and sends back the votes
   and the times. So the same code runs under every driver and under the simulator.
2. Each attempt has its own owner token: a late release of attempt n must not delete the lock of attempt n + 1.
3. A lost attempt is cancelled on all nodes except those that denied: a node whose reply was lost may have set the key.
   A node that denied has set nothing.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Generator
from typing import TypeAlias, TypeVar

from redlock._core.commands import Acquire, Confirm, Extend, Inspect, Release, Repair, Round, Wait
from redlock._core.votes import Grant, Kind, Refusal, RoundResult, deadline_ms

T = TypeVar("T")
Steps: TypeAlias = Generator[Round, RoundResult, T]


class Outcome(enum.Enum):
    """The result of a release."""

    RELEASED = "released"
    """A quorum of nodes still had the key and deleted it."""
    EXPIRED = "expired"
    """A quorum of nodes no longer had the key: the lease expired before the release."""
    UNKNOWN = "unknown"
    """Too few nodes answered. Any keys that are left expire with their TTL."""
    STILL_HELD = "kept"
    """An outer block of the same context still holds the lock."""
    PENDING = "begun"
    """The release is asynchronous, and the nodes have not answered yet."""


def run(steps: Steps[T], ask: Callable[[Round], RoundResult], result: RoundResult | None = None) -> T:
    """Run a generator to its end.

    Args:
        steps: The generator.
        ask: Executes a round.
        result: The result of the round for which the generator waits; None if the generator has not begun.
    """
    try:
        while True:
            result = ask(next(steps) if result is None else steps.send(result))
    except StopIteration as stop:
        value: T = stop.value
        return value


def single(round_: Round) -> Steps[RoundResult]:
    """Yield a single round, and return its result."""
    return (yield round_)


def acquire(attempt: Acquire) -> Steps[Grant | Refusal]:
    """An acquire attempt: a single round if the fences of a quorum agree, else a second round to make them agree."""
    first = yield Round(attempt)
    if not first.won or first.disagreement is not None:
        # A waiter must not wake itself. But a waiter that saw this attempt as the winner sleeps until a wake-up.
        if first.may_look_won:
            yield from cancel(attempt, attempt.ttl_ms)
        elif first.not_denied:
            yield from cancel(attempt, 0, first.not_denied)
        return Refusal(first)
    fence, last, won, rounds = first.agreed_fence, first, True, 1
    if fence is None:
        # Two attempts can both see the same maximum. But only one attempt can make the fences of a quorum *become* a
        # number: any two quorums share a node, and that node's fence becomes the number only once. The quorum that
        # granted has the newest token, so a minority that denies does not choose the next token.
        fence = max(vote.fence for vote in first.votes if vote.kind is Kind.GRANTED) + 1
        last = yield Round(Confirm(attempt.names, attempt.token, fence))
        won, rounds = last.won, 2
    deadline = deadline_ms(attempt.ttl_ms, first.sent_ms)
    # A process can be stopped for any time between the proposal and the send. If a node loses its fences meanwhile
    # and its quarantine ends, an old proposal can equal a token that was issued before.
    by = deadline if attempt.decide_by_ms is None else min(deadline, attempt.decide_by_ms)
    if not won or last.done_ms >= by:
        yield from cancel(attempt, attempt.ttl_ms)
        return Refusal(last, expired=won)
    return Grant(attempt.names, attempt.token, fence, deadline, attempt.ttl_ms, rounds, last)


def cancel(attempt: Acquire, wake_ms: int, to: tuple[int, ...] | None = None) -> Steps[None]:
    """Delete the keys that the attempt may have set, on all nodes or on these. Does not wait for the replies."""
    yield Round(Release(attempt.names, attempt.token, wake_ms), Wait.SENT, to)


def extend(grant: Grant, ttl_ms: int, wait: Wait = Wait.DECIDED) -> Steps[Grant | Refusal]:
    """The grant with a later deadline if a quorum still holds the lease, or the refusal.

    A failed extension deletes, creates and shortens nothing: the old deadline stands. An extension that is sent after
    the old deadline fails, even if the keys are still there.
    """
    round_result = yield Round(Extend(grant.names, grant.token, ttl_ms), wait)
    deadline = deadline_ms(ttl_ms, round_result.sent_ms)
    if not round_result.won:
        return Refusal(round_result)
    if round_result.sent_ms >= grant.deadline_ms or round_result.done_ms >= deadline:
        return Refusal(round_result, expired=True)
    if round_result.missing:
        # Repair inside the extension could revive a lost lease. Two of three nodes lose the key, and another client
        # locks and releases there. A retry after the repair would find its token on three nodes.
        yield Round(Repair(grant.names, grant.token, ttl_ms, grant.fence), Wait.SENT, round_result.missing)
    return grant._replace(deadline_ms=max(deadline, grant.deadline_ms), ttl_ms=ttl_ms, round_result=round_result)


def release(grant: Grant) -> Steps[Outcome]:
    """Delete the key on every node and wake a waiter; the outcome says whether the key was still there."""
    round_result = yield Round(Release(grant.names, grant.token, grant.ttl_ms), Wait.COUNTED)
    if round_result.won:
        return Outcome.RELEASED
    return Outcome.EXPIRED if round_result.denied >= round_result.quorum else Outcome.UNKNOWN


def inspect(name: str) -> Steps[RoundResult]:
    """Read the holder on every node that answers. If too few answer, a second round uses new connections."""
    round_result = yield Round(Inspect((name,)), Wait.ALL)
    return round_result if round_result.reachable else (yield Round(Inspect((name,)), Wait.ALL))
