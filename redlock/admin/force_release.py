"""Taking a lock away from its holder, by somebody who knows why.

The old holder can't be told. It finds out at its next extension, for a quorum of nodes no longer has its key, and a
lease that is lost never comes back. Until then it and the next holder both believe that they hold the lock: what
keeps the data right meanwhile is the fence, and that is why it is raised before anything is deleted.

Rules of this file:
1. Only the lease that was shown is taken away: nodes compare its owner token, so whoever came after it is never hit.
2. The fence is raised on a quorum of nodes before the first key is deleted; where it can't be, nothing is deleted.
3. A wake-up is left, as by a release.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from redlock import _validation
from redlock._clock import wall_us
from redlock._core import protocol
from redlock._core.commands import Confirm, Release, Round, Wait
from redlock._core.observed_fences import FENCE_AHEAD_MS
from redlock._core.votes import Kind, Refusal, masked_token
from redlock._locking import failures
from redlock.errors import LockContended, NotHeld

if TYPE_CHECKING:
    from redlock._core.protocol import Steps
    from redlock._core.votes import RoundResult
    from redlock.client import Redlock

RISK = (
    "This takes it away: the fence is raised, then the lock is deleted and a waiter is woken. The old holder finds\n"
    "out at its next extension, within a third of its TTL if it renews; until then it and the next holder both\n"
    "believe that they hold the lock. What checks the fencing token is safe; what can't check it can happen twice."
)


class Target(NamedTuple):
    """A lease that can be taken away.

    Attributes:
        resource: What it is on.
        token: Its owner token; secret.
        holder: Who has it, as may be shown.
        votes: How many nodes name it.
        nodes: How many nodes there are.
        remaining: Seconds until the lock is free if the holder does nothing more; None if that can't be told.
        fence: The largest fencing token on any node.
        valid: Whether it can be a lease: a quorum of nodes names it, or would if the silent ones did.
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
        left = left if self.valid else ", which is no quorum: no lease, but what is left of one, or another client's"
        return f"{self.resource!r} is held by {self.holder} on {self.votes} of {self.nodes} nodes{left}."


def target(client: Redlock, name: str) -> Target | None:
    """Whom most nodes name at this resource; None if no node names anybody.

    Raises:
        QuorumUnavailable: Too few nodes answered.
    """
    resource = _validation.resource(name)
    round_result = _inspect(client, resource)
    token = round_result.holder
    if token is None:
        return None
    # A token that is no token would be refused as too far ahead, and with it every larger one.
    latest = wall_us() + FENCE_AHEAD_MS * 1_000
    fence = max((vote.fence for vote in round_result.votes if vote.fence <= latest), default=0)
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
    """Raise the fence, then delete the lease's keys; how many nodes are known to be without it then.

    Raises:
        NotHeld: It was given back, or ran out, before; nothing was deleted.
        LockContended: Somebody else has the lock by now; nothing was deleted.
        QuorumUnavailable: The fence could not be raised on a quorum of nodes, and nothing was deleted; or too few
            nodes answered to say what came of it.
        ConfigurationError: Other clients work on these nodes under other terms; nothing was deleted.
    """
    with client.context.pool.connections() as links:
        if lease.valid:
            _refuse(client, lease, links.run(_raise(lease, client.context.proposal((lease.resource,), wall_us()))))
        links.run(_delete(lease, client.ttl_ms))
    after = _inspect(client, lease.resource)
    return sum(vote.kind is not Kind.SILENT and vote.holder != lease.token for vote in after.votes)


def _raise(lease: Target, fence: int) -> Steps[RoundResult]:
    # What an acquire does in its second round: where the key is still this one, and on no node twice, the fence
    # becomes this number. So nobody is ever given it as a token, and who comes next gets a larger one.
    return (yield Round(Confirm((lease.resource,), lease.token, max(fence, lease.fence + 1)), Wait.ALL))


def _delete(lease: Target, wake_ms: int) -> Steps[RoundResult]:
    return (yield Round(Release((lease.resource,), lease.token, wake_ms), Wait.ALL))


def _refuse(client: Redlock, lease: Target, raised: RoundResult) -> None:
    """Raise unless a quorum of nodes has raised its fence."""
    nodes, codec = client.context.pool.nodes, client.context.pool.codec
    failures.refuse_disagreement(nodes, codec.fingerprint, Refusal(raised))
    if raised.won:
        return
    if raised.denied < raised.quorum:
        raise failures.unavailable(nodes, lease.resource, raised)
    holders = [vote.holder for vote in raised.votes if vote.holder not in {"", lease.token}]
    if holders:
        raise LockContended(lease.resource, masked_token(holders[0]))
    raise NotHeld(f"lock {lease.resource!r} is no longer held by {lease.holder}; nothing was changed", lease.resource)


def _inspect(client: Redlock, resource: str) -> RoundResult:
    with client.context.pool.connections() as links:
        round_result = links.run(protocol.inspect(resource))
    if not round_result.reachable:
        raise failures.unavailable(client.context.pool.nodes, resource, round_result)
    return round_result
