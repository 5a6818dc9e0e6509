"""What a lost election means to the caller: contended, no quorum, or clients that disagree.

Rules: the three are never mixed up, and each names the nodes it is about; no secret of an owner token gets out.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from redlock._core.votes import Kind, masked_token
from redlock.errors import ConfigurationError, LockContended, QuorumUnavailable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from redlock._core.votes import Refusal, RoundResult
    from redlock._transport.node import Node


def reasons(nodes: Sequence[Node], election: RoundResult) -> dict[str, str]:
    """For each node that gave no vote, by its label, why."""
    pairs = zip(nodes, election.votes, strict=True)
    return {node.label: vote.reason for node, vote in pairs if vote.kind is Kind.SILENT and not vote.unanswered}


def unavailable(nodes: Sequence[Node], resource: str, election: RoundResult) -> QuorumUnavailable:
    """Too few nodes voted."""
    return QuorumUnavailable(resource, election.quorum, len(election.votes), reasons(nodes, election))


def error(nodes: Sequence[Node], resource: str, refusal: Refusal) -> LockContended | QuorumUnavailable:
    """A lost election as the error to raise."""
    election = refusal.election
    if refusal.no_quorum:
        return unavailable(nodes, resource, election)
    left_ms = election.free_in_ms
    holder = masked_token(election.holder) if election.holder else None
    return LockContended(resource, holder, None if left_ms is None else left_ms / 1000)


def refuse_duplicates(nodes: Sequence[Node], refusal: Refusal) -> None:
    """Raise if so many addresses lead to the same servers that no quorum of servers is left.

    Raises:
        ConfigurationError: They do; the message names two of the addresses.
    """
    election = refusal.election
    twice = [(node.label, vote.same_as) for node, vote in zip(nodes, election.votes, strict=True) if vote.same_as]
    if len(nodes) - len(twice) < election.quorum:
        node, other = twice[0]
        raise ConfigurationError(
            f"nodes {other} and {node} are the same server, and {len(nodes) - len(twice)} of {len(nodes)} nodes are no "
            "quorum; each lock node must be a server of its own, or one failure costs two votes"
        )


def refuse_disagreement(nodes: Sequence[Node], fingerprint: str, refusal: Refusal) -> None:
    """Raise if a node refused because other clients work there under other terms.

    Raises:
        ConfigurationError: One did; the message names the node and both terms.
    """
    place = refusal.disagreement
    if place is not None:
        raise ConfigurationError(
            f"other clients of node {nodes[place].label} work with {refusal.election.votes[place].fingerprint}, "
            f"this one with {fingerprint}; all clients must agree, or two of them could hold one lock"
        )
