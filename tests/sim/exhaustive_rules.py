"""The variants of the exhaustive search: the protocol as shipped, and with one rule broken.

Rules of this file:
1. The client is `redlock._core.protocol.acquire` itself, replayed from the round results that the search makes up; a
   variant replaces that generator, or one function of `exhaustive_nodes`, and nothing else.
2. `BROKEN` must each yield a counter-example: else the search is blind. `REDUNDANT` must not: each removes one of two
   equivalent rules, and names both.
3. A variant names the smallest configuration that shows the breach.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import TypeAlias

from redlock._core import protocol
from redlock._core.commands import Acquire, Confirm, Round
from redlock._core.protocol import Steps
from redlock._core.votes import Grant, Kind, Refusal, RoundResult, Vote, deadline_ms
from tests.sim import exhaustive_nodes as nodes
from tests.sim.exhaustive_nodes import Node

Client: TypeAlias = "Callable[[Acquire], Steps[Grant | Refusal]]"
NodePart: TypeAlias = "Callable[[Node, str, int], tuple[Node, Vote]]"


@dataclasses.dataclass(frozen=True)
class Config:
    """The space that is searched.

    Attributes:
        attempts: How many attempts there are; all may overlap, so two clients with two attempts each are four of
            them, with more freedom than they have.
        clocks: The possible readings of a client's wall clock; each attempt proposes a reading.
        later: With `promise="clocks"`, the possible readings after the quarantine. Larger than any fence before.
        promise: "kept": all nodes keep their memory. Else one node loses its memory at any moment. "pairs" checks P2
        without clocks, for any two grants with a common node that kept its memory. "clocks" checks the second half of
        P2 for all grants, while clocks are right to within a quarter of `max_ttl`.
        nodes: How many nodes there are.
        repairs: Whether a granted lease may write its fence to nodes without a key.
    """

    attempts: int = 2
    clocks: tuple[int, ...] = (1, 2, 3)
    later: tuple[int, ...] = ()
    promise: str = "kept"
    nodes: int = 3
    repairs: bool = False


@dataclasses.dataclass(frozen=True)
class Rules:
    """The functions of nodes and clients, as shipped by default.

    Attributes:
        why: The difference, in one line.
        client: One attempt.
        acquire: A node's part of the first round.
        confirm: A node's part of the second.
        repair: A node's part in the repair of an extended lease.
        late_counts: Whether an acquire that is answered after the first round counts as a vote of the second.
        quarantine: Whether a node that lost its memory abstains until all attempts in flight are over.
        prompt: Whether an attempt that proposes no more than one could before the loss is over when the quarantine
            ends: `decide_by_ms` sees to that.
        config: The configuration that shows the breach.
    """

    why: str = "as shipped"
    client: Client = protocol.acquire
    acquire: NodePart = nodes.acquire
    confirm: NodePart = nodes.confirm
    repair: NodePart = nodes.repair
    late_counts: bool = False
    quarantine: bool = True
    prompt: bool = True
    config: Config = dataclasses.field(default_factory=Config)


def _like_shipped(
    fast: Callable[[RoundResult], int | None],
    second: Callable[[RoundResult], int] = lambda first: first.largest_fence + 1,
    enough: Callable[[RoundResult], bool] = lambda last: last.won,
) -> Client:
    """The shipped generator with another token of the first round, of the second, or another quorum there."""

    def acquire(attempt: Acquire) -> Steps[Grant | Refusal]:
        first = yield Round(attempt)
        if not first.won:
            return Refusal(first)
        fence, last = fast(first), first
        if fence is None:
            fence = second(first)
            last = yield Round(Confirm(attempt.names, attempt.token, fence))
            if not enough(last):
                return Refusal(last)
        return Grant(attempt.names, attempt.token, fence, deadline_ms(attempt.ttl_ms, 0), attempt.ttl_ms, 1, last)

    return acquire


def _agreed(first: RoundResult) -> int | None:
    return first.agreed_fence


def _often_enough(first: RoundResult) -> int | None:
    fences = [vote.fence for vote in first.votes if vote.kind is Kind.GRANTED]
    return next((fence for fence in sorted(fences) if fences.count(fence) >= first.quorum), None)


def _acquire_keeps(node: Node, token: str, proposed: int) -> tuple[Node, Vote]:
    """The fence is raised to the proposal, but not above its old number."""
    fence = max(node.fence, proposed)
    if node.holder:
        return node, Vote(Kind.DENIED, fence, node.holder)
    return Node(token, fence), Vote(Kind.GRANTED, fence)


def _acquire_believes(node: Node, token: str, proposed: int) -> tuple[Node, Vote]:
    """The fence becomes the client's proposal, whether larger or smaller."""
    if node.holder:
        return node, Vote(Kind.DENIED, node.fence, node.holder)
    return Node(token, proposed), Vote(Kind.GRANTED, proposed)


def _repair_lowers(node: Node, token: str, fence: int) -> tuple[Node, Vote]:
    return nodes.repair(node._replace(fence=0), token, fence)


def _confirm_any_owner(node: Node, token: str, fence: int) -> tuple[Node, Vote]:
    return nodes.confirm(node._replace(holder=token), token, fence)


def _confirm_not_strict(node: Node, token: str, fence: int) -> tuple[Node, Vote]:
    return nodes.confirm(node._replace(fence=min(node.fence, fence - 1)) if node.fence <= fence else node, token, fence)


def _confirm_unchecked(node: Node, token: str, fence: int) -> tuple[Node, Vote]:
    return _confirm_not_strict(node._replace(holder=token), token, fence)


_THREE = Config(attempts=3, clocks=(1, 2))
_LOSS = Config(clocks=(1, 2), later=(7,), promise="clocks")

SHIPPED = Rules()

BROKEN = {
    "largest-answer": Rules(
        "the token is the largest answer, agreed on or not", _like_shipped(lambda e: e.largest_fence)
    ),
    "no-confirm": Rules(
        "the token is one more than the largest answer, and nobody is told",
        _like_shipped(lambda e: e.agreed_fence or e.largest_fence + 1),
    ),
    "confirm-minority": Rules(
        "one node's yes is enough in the second round", _like_shipped(_agreed, enough=lambda e: e.granted >= 1)
    ),
    "confirm-unchecked": Rules(
        "confirm asks neither for the owner nor for a strictly smaller fence", confirm=_confirm_unchecked
    ),
    "late-counts": Rules("a late answer to the first round is a vote in the second", late_counts=True),
    "acquire-keeps": Rules("acquire raises the fence to the proposal only", acquire=_acquire_keeps),
    "acquire-believes": Rules(
        "acquire makes the fence what is proposed, even if that is less", acquire=_acquire_believes
    ),
    "repair-lowers": Rules(
        "a lease that puts its key back writes its own token, although the fence there is larger",
        repair=_repair_lowers,
        config=Config(attempts=3, clocks=(1,), repairs=True),
    ),
    "old-proposals": Rules(
        "an attempt counts however old its proposal is: one that began at the loss has the emptied node's vote "
        "when the quarantine ends",
        prompt=False,
        config=_LOSS,
    ),
    "no-quarantine": Rules("a node that lost its memory votes at once", quarantine=False, config=_LOSS),
}
"""A counter-example each, or the search is blind."""

REDUNDANT = {
    "agreed-despite-larger": Rules(
        "a number that a quorum answered is the token, although another node answered a larger one: the client might "
        "as well not have heard it",
        _like_shipped(_often_enough),
        config=_THREE,
    ),
    "confirm-any-owner": Rules("confirm does not ask for the owner", confirm=_confirm_any_owner, config=_THREE),
    "confirm-not-strict": Rules("confirm writes over an equal fence", confirm=_confirm_not_strict, config=_THREE),
    "confirm-largest": Rules(
        "confirm writes the largest answer instead of one more, and over an equal fence",
        _like_shipped(_agreed, lambda e: e.largest_fence),
        confirm=_confirm_not_strict,
        config=_THREE,
    ),
    "no-quarantine-pairs": Rules(
        "a node that lost its memory votes at once; promised only where quorums share a node that kept it",
        quarantine=False,
        config=Config(clocks=(1, 2), promise="pairs"),
    ),
}
"""No counter-example: another rule says the same. Both are kept."""

LIMITS = {
    "wrong-clocks": Rules(
        "after the quarantine a clock shows no more than another did before the loss",
        config=Config(clocks=(1, 2), later=(1,), promise="clocks"),
    ),
}
"""Broken assumptions: each gives a counter-example, although all rules are kept."""

VARIANTS = {**BROKEN, **REDUNDANT, **LIMITS}

COMPLETE = {
    "kept-2": Config(clocks=(1, 2, 3, 4), repairs=True),
    "kept-3": Config(attempts=3, clocks=(1, 2, 3)),
    "kept-5-nodes": Config(clocks=(1, 2, 3, 4), nodes=5, repairs=True),
    "pairs-2": Config(clocks=(1, 2, 3), promise="pairs"),
    "pairs-3": Config(attempts=3, clocks=(1,), promise="pairs"),
    "pairs-5-nodes": Config(clocks=(1, 2), promise="pairs", nodes=5),
    "clocks-2": Config(clocks=(1, 2, 3), later=(8, 9), promise="clocks"),
    "clocks-3": Config(attempts=3, clocks=(1,), later=(8,), promise="clocks"),
}
"""The protocol as shipped: searched to the end, by hand."""

QUICK = {
    "kept": Config(clocks=(1, 3)),
    "pairs": Config(clocks=(1,), promise="pairs"),
    "clocks": _LOSS,
}
"""The same on every commit."""
