"""Forced release: an operator takes a lock away from its holder.

Until its next renewal the old holder believes that the lock is held; the fence protects the data in this time.

Invariants:
1. Only the lease that was shown is deleted. The nodes compare its owner token, so a later holder keeps the lock.
2. The fence is raised on a quorum of nodes before the first key is deleted. Where that fails, nothing is deleted.
3. A waiter is woken, as by a release.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from redlock import _validation
from redlock._clock import wall_us
from redlock._core import protocol
from redlock._core.commands import Confirm, Release, Round, Wait
from redlock._core.votes import Kind, Refusal, masked_token
from redlock._locking import failures
from redlock._masking import mask
from redlock.errors import LockContended, NotHeld

if TYPE_CHECKING:
    from redlock._core.votes import RoundResult
    from redlock.client import Redlock

RISK = (
    "A forced release raises the fence, then deletes the lock and wakes a waiter. The old holder finds out at its\n"
    "next renewal, within a third of its TTL; until then the old and the next holder both believe that they hold\n"
    "the lock. Effects that check the fencing token are safe; effects without this check can happen twice."
)


class Target(NamedTuple):
    """A lease that can be taken away.

    Attributes:
        resource: The locked resource.
        token: The owner token; secret.
        holder: The holder in a form without the secret.
        votes: Number of nodes that report this lease.
        nodes: Number of all nodes.
        remaining: Seconds until the lock is free if the holder does nothing more; None if unknown.
        fence: The fencing token that a quorum of the nodes with this lease can exceed.
        valid: Whether this can be a lease: the nodes that report it and the silent nodes are a quorum.
    """

    resource: str
    token: str
    holder: str
    votes: int
    nodes: int
    remaining: float | None
    fence: int
    valid: bool

    def __repr__(self) -> str:
        return f"Target({self.resource!r}, {self.holder!r})"

    def describe(self) -> str:
        """The lease in one line, without its secret."""
        left = "" if self.remaining is None else f", for another {self.remaining:.1f} s if it does nothing more"
        left = left if self.valid else ", which is no quorum: the rest of a lease, or a lock of another client"
        # Each alone and in quotes: the sender of a task chooses its id, which must not look like the rest of the line.
        held = f"{mask(repr(self.resource))} is held by {mask(repr(self.holder))}"
        return f"{held} on {self.votes} of {self.nodes} nodes{left}."


def target(client: Redlock, name: str) -> Target | None:
    """Return the lease that most nodes report for this resource, or None if no node reports a holder.

    Raises:
        QuorumUnavailable: Too few nodes answered.
    """
    resource = _validation.resource(name)
    round_result = _inspect(client, resource)
    token = round_result.holder
    if token is None:
        return None
    # Not the largest of all: the other nodes could refuse a larger number than that of a false node.
    fences = sorted(vote.fence for vote in round_result.votes if vote.holder == token)
    fence = fences[min(round_result.quorum, len(fences)) - 1]
    client.observe_fence(resource, fence)
    votes = sum(vote.holder == token for vote in round_result.votes)
    silent = sum(vote.kind is Kind.SILENT for vote in round_result.votes)
    left_ms = round_result.free_in_ms
    return Target(
        resource,
        token,
        masked_token(token),
        votes,
        len(round_result.votes),
        None if left_ms is None else left_ms / 1000,
        fence,
        votes + silent >= round_result.quorum,
    )


def take_away(client: Redlock, lease: Target) -> int:
    """Raise the fence, then delete the lease's keys.

    Returns:
        The number of nodes that are known to be without the lease now.

    Raises:
        NotHeld: The lease was released or has expired, or no node can compare its owner token, because it is the value
            of another program; nothing was deleted.
        LockContended: Another client has acquired the lock; nothing was deleted.
        QuorumUnavailable: The fence could not be raised on a quorum of nodes, and nothing was deleted; or too few
            nodes reported the result.
        ConfigurationError: Other clients use these nodes with another configuration fingerprint; nothing was deleted.
    """
    names = (lease.resource,)
    with client._context.pool.connections() as connections:
        if lease.valid:
            # The second round of an acquire: a node whose key is still this token raises its fence to this number,
            # once. So no client ever gets this number as a token, and the next holder gets a larger number.
            fence = max(client._context.proposal(names, wall_us()), lease.fence + 1)
            _refuse(
                client, lease, connections.run(protocol.single(Round(Confirm(names, lease.token, fence), Wait.ALL)))
            )
        connections.run(protocol.single(Round(Release(names, lease.token, client._ttl_ms), Wait.ALL)))
    after = _inspect(client, lease.resource)
    return sum(vote.kind is not Kind.SILENT and vote.holder != lease.token for vote in after.votes)


def _refuse(client: Redlock, lease: Target, raised: RoundResult) -> None:
    """Raise unless a quorum of nodes has raised its fence."""
    nodes, codec = client._context.nodes, client._context.codec
    failures.refuse_disagreement(nodes, codec.fingerprint, Refusal(raised))
    if raised.won:
        return
    if raised.denied < raised.quorum:
        raise failures.unavailable(nodes, lease.resource, raised)
    holders = [vote.holder for vote in raised.votes if vote.holder not in {"", lease.token}]
    if holders:
        raise LockContended(lease.resource, masked_token(holders[0]))
    # The nodes cut long values, and values that are no text change on the way: see `shown.lua`.
    unlike = sum(vote.holder == lease.token and vote.fence <= lease.fence for vote in raised.votes)
    if unlike >= raised.quorum:
        reason = "has the value of another program, which can't be compared; nothing was changed: delete the key"
        raise NotHeld(f"lock {lease.resource!r} {reason}", lease.resource)
    raise NotHeld(f"lock {lease.resource!r} is no longer held by {lease.holder}; nothing was changed", lease.resource)


def _inspect(client: Redlock, resource: str) -> RoundResult:
    round_result = client._context.pool.run(protocol.inspect(resource))
    if not round_result.reachable:
        raise failures.unavailable(client._context.nodes, resource, round_result)
    return round_result
