"""Converts a refused round into an error: the lock is taken, no quorum answered, or the clients disagree.

Invariants: the three causes are never mixed up. Each error names its nodes. No error shows the secret of an owner
token.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from redlock._core.votes import Kind, masked_token
from redlock.errors import ConfigurationError, LockContended, QuorumUnavailable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from redlock._core.votes import Refusal, RoundResult
    from redlock._transport.node import Node


def reasons(nodes: Sequence[Node], round_result: RoundResult) -> dict[str, str]:
    """The reason of each node without a vote, by node label."""
    pairs = zip(nodes, round_result.votes, strict=True)
    return {node.label: vote.reason for node, vote in pairs if vote.kind is Kind.SILENT and not vote.unanswered}


def unavailable(nodes: Sequence[Node], resource: str, round_result: RoundResult) -> QuorumUnavailable:
    """The error for a round without a quorum of votes."""
    return QuorumUnavailable(resource, round_result.quorum, len(round_result.votes), reasons(nodes, round_result))


def error(nodes: Sequence[Node], resource: str, refusal: Refusal) -> LockContended | QuorumUnavailable:
    """The error for a refused acquisition."""
    round_result = refusal.round_result
    if refusal.no_quorum:
        return unavailable(nodes, resource, round_result)
    left_ms = round_result.free_in_ms
    holder = masked_token(round_result.holder) if round_result.holder else None
    return LockContended(resource, holder, None if left_ms is None else left_ms / 1000)


def refuse_duplicates(nodes: Sequence[Node], refusal: Refusal) -> None:
    """Raise if so many addresses lead to the same servers that no quorum of servers is left."""
    round_result = refusal.round_result
    twice = [(node.label, vote.same_as) for node, vote in zip(nodes, round_result.votes, strict=True) if vote.same_as]
    if len(nodes) - len(twice) < round_result.quorum:
        node, other = twice[0]
        raise ConfigurationError(
            f"nodes {other} and {node} are the same server, and {len(nodes) - len(twice)} of {len(nodes)} nodes are no "
            "quorum; each lock node must be a server of its own, or one failure costs two votes"
        )


def refuse_disagreement(nodes: Sequence[Node], fingerprint: str, refusal: Refusal) -> None:
    """Raise if a node refused because its other clients have another configuration fingerprint."""
    place = refusal.round_result.disagreement
    if place is not None:
        raise ConfigurationError(
            f"other clients of node {nodes[place].label} work with {refusal.round_result.votes[place].fingerprint}, "
            f"this one with {fingerprint}; all clients must agree, or two of them could hold one lock"
        )
