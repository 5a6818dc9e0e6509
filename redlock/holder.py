"""The holder of a resource, as the nodes report it."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from redlock._core import protocol
from redlock._core.votes import masked_token
from redlock._locking import failures

if TYPE_CHECKING:
    from collections.abc import Sequence

    from redlock._core.votes import RoundResult
    from redlock._locking.context import LockContext
    from redlock._transport.node import Node

__all__ = ["LockHolder"]


class LockHolder(NamedTuple):
    """The holder of a resource.

    Attributes:
        resource: The name that is locked.
        holder: The owner label, and eight digits of the owner token.
        remaining: Seconds until the lock is free if the holder does nothing more; None if unknown.
        nodes: The number of nodes that report this holder.
        fence: The largest fencing token that a node reports.
    """

    resource: str
    holder: str
    remaining: float | None
    nodes: int
    fence: int


def find_holder(context: LockContext, resource: str) -> LockHolder | None:
    """See `Redlock.holder`."""
    return holder_of(context.nodes, resource, context.pool.run(protocol.inspect(resource)))


def holder_of(nodes: Sequence[Node], resource: str, result: RoundResult) -> LockHolder | None:
    """The holder by the votes of a round. Raises `QuorumUnavailable` if too few nodes answered."""
    if not result.reachable:
        raise failures.unavailable(nodes, resource, result)
    holder = result.holder
    if holder is None or result.denied < result.quorum:
        return None
    count = sum(vote.holder == holder for vote in result.votes)
    left_ms = result.free_in_ms
    remaining = None if left_ms is None else left_ms / 1000
    return LockHolder(resource, masked_token(holder), remaining, count, result.largest_fence)
