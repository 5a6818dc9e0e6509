"""Which nodes and which votes count: rejected configurations, addresses of the same server, doubted tokens.

Invariants:
1. No I/O and no clock: pure functions of the connections, and one that records duplicates on them.
2. The reply of a single node is no reason to stop a client: a minority of nodes can be wrong or hostile.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from redlock._core.observed_fences import FENCE_AHEAD_MS
from redlock._core.votes import Kind, silent

if TYPE_CHECKING:
    from collections.abc import Sequence

    from redlock._core.vote_tally import VoteTally
    from redlock._core.votes import Vote
    from redlock._transport.connection import NodeConnection


def rejecting(connections: Sequence[NodeConnection]) -> int:
    """The number of nodes that reject this client's configuration."""
    return sum(one.refusal is not None for one in connections)


def is_barred(connections: Sequence[NodeConnection]) -> bool:
    """Whether nodes reject this client's configuration, and no larger number of nodes accepts it.

    A command of such a client could store its configuration on a node that has just lost its memory. If fewer nodes
    reject than accept the configuration, the rejecting nodes have no vote and do not stop the client.
    """
    count = rejecting(connections)
    return count > 0 and sum(one.may_agree for one in connections) <= count


def is_refused(connections: Sequence[NodeConnection], quorum: int) -> bool:
    """Whether the client is barred, and no node that is down now could change that."""
    final = rejecting(connections) >= quorum or all(one.handle is not None for one in connections)
    return final and is_barred(connections)


def not_asked(connection: NodeConnection, *, refused: bool) -> Vote:
    """The vote of a node to which a barred client sends nothing."""
    if connection.refusal is None:
        return silent(connection.reason or "not asked: another node rejects this client's configuration")
    return connection.refusal if refused else connection.refusal._replace(fingerprint="")


def find_duplicates(connections: Sequence[NodeConnection], now_ms: int) -> None:
    """Find addresses that lead to the same server, because an address is wrong or a server is an impostor.

    The wrong address is unknown, so all of them get the commands, and together they cast one vote of a kind.
    """
    places: dict[str, list[NodeConnection]] = {}
    for one in connections:
        if one.handle is not None:
            places.setdefault(one.run_id, []).append(one)
    for one in connections:
        duplicates = tuple(other for other in places.get(one.run_id, ()) if other is not one)
        if one.handle is not None and duplicates != one.duplicates:
            one.duplicates = duplicates
            if duplicates and duplicates[0].place < one.place:
                one.node.is_same_as(duplicates[0].node.label, now_ms)


def counted_once(connection: NodeConnection, tally: VoteTally, vote: Vote) -> Vote:
    """The vote of a server with several addresses; no vote if another address has brought the same vote."""
    for duplicate in connection.duplicates:
        if tally.votes[duplicate.place].kind is vote.kind and not tally.votes[duplicate.place].unanswered:
            return silent(f"the same server as {duplicate.node.label}")._replace(same_as=duplicate.node.label)
    return vote


def count(connections: Sequence[NodeConnection], connection: NodeConnection, tally: VoteTally, vote: Vote) -> None:
    """Count a vote, or keep back a grant with a larger token than the proposal."""
    is_doubted = vote.fence > tally.most_fence
    if is_doubted and vote.fence > (vote.time_ms + FENCE_AHEAD_MS) * 1_000:
        vote = silent("reported a fencing token that is more than an hour ahead of its own clock")
    if is_doubted and vote.kind is Kind.GRANTED:
        tally.doubted[connection.place] = vote
    else:
        tally.cast(connection.place, counted_once(connection, tally, vote))
    if tally.is_doubt_over:
        count_doubted(connections, tally)


def count_doubted(connections: Sequence[NodeConnection], tally: VoteTally) -> None:
    """Count the grants that were kept back, the smallest tokens first, until a quorum has granted.

    So no minority chooses the token. The other nodes could refuse a larger token than that of a false node, and every
    attempt would fail. No clock can tell the false token, because a node can report a false time as well.
    """
    for place, vote in sorted(tally.doubted.items(), key=lambda doubted: doubted[1].fence):
        if tally.is_won:
            return
        if tally.votes[place].unanswered:
            tally.cast(place, counted_once(connections[place], tally, vote))
