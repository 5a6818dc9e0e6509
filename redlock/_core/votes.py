"""The words of Redlock as frozen values, and the arithmetic on them.

Rules of this file:
1. No clock, no randomness, no socket, no Redis: time and chance are arguments.
2. Times are integer milliseconds with the suffix `_ms`. Clock readings are floored, so an interval is taken
   one millisecond longer than it looks, and drift is rounded up: every rounding shortens the lease.
3. A vote has three values. "No answer" is not "no".
"""

from __future__ import annotations

import enum
import re
from typing import TYPE_CHECKING, NamedTuple

from redlock._escaping import bounded_label, escape

if TYPE_CHECKING:
    from redlock._core.commands import Names

_OWN_TOKEN = re.compile(r"([0-9a-f]{32}):(.+)", re.DOTALL)

FENCE_LIMIT = 2**52
"""Tokens stay below this: Lua counts in doubles, where 2**53 + 1 equals 2**53."""

FENCE_TTL_MS = 24 * 3600 * 1000
"""Fence keys outlive the lock by a day, and not for ever: one key per name ever used would never go."""


class Kind(enum.Enum):
    """What a node said to a round."""

    GRANTED = "G"
    DENIED = "D"
    SILENT = "S"


class Vote(NamedTuple):
    """One node's answer to one round.

    Attributes:
        kind: GRANTED, DENIED or SILENT.
        fence: With GRANTED, the node's fence; with DENIED the largest fence that it told, 0 if none.
        holder: With DENIED, the owner token in the key; "" if the key is absent, or reserved for somebody woken.
        remaining_ms: With DENIED, how long the key will stand, None if for ever or unknown; with SILENT, how
            long the node will abstain, None if it said nothing.
        reason: With SILENT, why there is no vote.
        unanswered: With SILENT, True if the answer may still come: the round was over without it.
        fingerprint: With SILENT, what other clients agreed on with this node, if that is why it refused.
        same_as: With SILENT, the label of another address of the same server, if that one's vote counts.
        time_ms: The node's wall clock, 0 if it did not tell.
        timed_out: With SILENT, True if it was asked and did not answer in time: it may have granted all the same.
    """

    kind: Kind
    fence: int = 0
    holder: str = ""
    remaining_ms: int | None = None
    reason: str = ""
    unanswered: bool = False
    fingerprint: str = ""
    time_ms: int = 0
    timed_out: bool = False
    same_as: str = ""


UNANSWERED = Vote(Kind.SILENT, reason="not waited for", unanswered=True)


def silent(reason: str) -> Vote:
    """No vote from this node, and none to come."""
    return Vote(Kind.SILENT, reason=reason)


def timed_out(reason: str) -> Vote:
    """No vote from this node in time."""
    return Vote(Kind.SILENT, reason=reason, timed_out=True)


def quorum_of(nodes: int) -> int:
    """How many of this many nodes make a quorum: any two quorums share a node."""
    return nodes // 2 + 1


def decided(granted: int, unanswered: int, quorum: int) -> bool:
    """True once no further answer can change who won.

    With an even number of nodes a tie is a decision too; node-redlock waits for `votes == quorum` on either
    side and hangs (index.ts `_attemptOperation`).
    """
    return granted >= quorum or granted + unanswered < quorum


def counted(granted: int, denied: int, unanswered: int, quorum: int) -> bool:
    """True once a quorum has said the same, or nobody is left to say anything."""
    return granted >= quorum or denied >= quorum or unanswered == 0


class RoundResult(NamedTuple):
    """The votes of one round, with the clock before the first byte was sent and after the last needed reply.

    Attributes:
        votes: One per node, in the nodes' order.
        sent_ms: Clock before the first send.
        done_ms: Clock when the round was over.
    """

    votes: tuple[Vote, ...]
    sent_ms: int
    done_ms: int

    @property
    def quorum(self) -> int:
        """How many votes win."""
        return quorum_of(len(self.votes))

    @property
    def granted(self) -> int:
        """How many nodes said yes."""
        return [vote.kind for vote in self.votes].count(Kind.GRANTED)

    @property
    def denied(self) -> int:
        """How many nodes said no."""
        return [vote.kind for vote in self.votes].count(Kind.DENIED)

    @property
    def unanswered(self) -> int:
        """How many nodes may still answer."""
        return sum(vote.unanswered for vote in self.votes)

    @property
    def won(self) -> bool:
        """Whether a quorum said yes."""
        return self.granted >= self.quorum

    @property
    def may_look_won(self) -> bool:
        """Whether to others it may look as if this attempt had won, by what nodes granted that did not tell us."""
        return sum(vote.kind is Kind.GRANTED or vote.unanswered or vote.timed_out for vote in self.votes) >= self.quorum

    @property
    def reachable(self) -> bool:
        """Whether a quorum of nodes voted or may still vote."""
        return sum(vote.kind is not Kind.SILENT or vote.unanswered for vote in self.votes) >= self.quorum

    @property
    def answered(self) -> int:
        """How many nodes answered: with a vote, that they abstain for a while, or that they reject the client."""
        return sum(vote.kind is not Kind.SILENT or vote.time_ms > 0 for vote in self.votes)

    @property
    def disagreement(self) -> int | None:
        """The place of a node that refused because other clients work there under other terms, if any."""
        return next((place for place, vote in enumerate(self.votes) if vote.fingerprint), None)

    @property
    def missing(self) -> tuple[int, ...]:
        """The places of the nodes that may vote and said that the lock is not there."""
        return tuple(place for place, vote in enumerate(self.votes) if vote.kind is Kind.DENIED and not vote.holder)

    @property
    def not_denied(self) -> tuple[int, ...]:
        """The places of the nodes on which an attempt may have set something."""
        return tuple(place for place, vote in enumerate(self.votes) if vote.kind is not Kind.DENIED)

    @property
    def largest_fence(self) -> int:
        """The largest token that any node told."""
        return max([vote.fence for vote in self.votes])

    @property
    def backed_fence(self) -> int:
        """The largest token that so many nodes told, or larger ones, that a minority of false nodes can't invent it."""
        return sorted([vote.fence for vote in self.votes])[self.quorum - 1]

    @property
    def agreed_fence(self) -> int | None:
        """The number that a quorum answered, if none answered a larger one; else None."""
        fences = [vote.fence for vote in self.votes if vote.kind is Kind.GRANTED]
        largest = max(fences, default=0)
        return largest if fences.count(largest) >= self.quorum else None

    @property
    def holder(self) -> str | None:
        """The owner token that most of the denying nodes named, if any."""
        holders = [vote.holder for vote in self.votes if vote.kind is Kind.DENIED and vote.holder]
        return max(holders, key=holders.count, default=None)

    @property
    def held_by_a_quorum(self) -> bool:
        """Whether one holder seems to have a quorum, or a quorum is reserved for whom a wake-up reaches."""
        taken = [vote.holder for vote in self.votes if vote.kind is Kind.DENIED and (vote.holder or vote.remaining_ms)]
        most = max((taken.count(holder) for holder in taken), default=0)
        # Who has not answered yet is likely to say the same, where nobody has said anything else.
        alike = len(set(taken)) == 1 and not self.granted
        return most + (self.unanswered if alike else 0) >= self.quorum

    @property
    def is_only_reserved(self) -> bool:
        """Whether no node names a holder: the lock is free, and reserved for a waiter that a release has woken."""
        denied = [vote for vote in self.votes if vote.kind is Kind.DENIED]
        return bool(denied) and not any(vote.holder for vote in denied)

    @property
    def free_in_ms(self) -> int | None:
        """When a quorum of nodes could be free if no holder did anything more; None if it can't be told."""
        free_now = [0 for vote in self.votes if vote.kind is Kind.GRANTED]
        denied = [vote.remaining_ms for vote in self.votes if vote.kind is Kind.DENIED]
        held = [left_ms for left_ms in denied if left_ms is not None]
        times = free_now + sorted(held)
        return times[self.quorum - 1] if len(times) >= self.quorum else None

    @property
    def votes_text(self) -> str:
        """The votes as letters in the nodes' order, for logs: `GGD.S`; a point is an answer not waited for."""
        return "".join("." if vote.unanswered else vote.kind.value for vote in self.votes)


class Grant(NamedTuple):
    """What a won election gives.

    Attributes:
        names: What is locked.
        token: The owner token in the keys; secret.
        fence: The fencing token.
        deadline_ms: The holder must not believe in it from this reading of its clock on.
        ttl_ms: What the keys were given.
        rounds: How many rounds it took: 1, or 2 where the nodes' fences disagreed.
        election: The votes.
    """

    names: Names
    token: str
    fence: int
    deadline_ms: int
    ttl_ms: int
    rounds: int
    round_result: RoundResult

    def __repr__(self) -> str:
        # Not as a tuple's: an error report with local variables must not hold the token.
        return (
            f"Grant({self.names!r}, {masked_token(self.token)!r}, fence={self.fence}, deadline_ms={self.deadline_ms})"
        )


class Refusal(NamedTuple):
    """A lost election, by its votes.

    Attributes:
        election: The round that was lost.
        expired: True if a quorum granted and it took so long that nothing was left.
    """

    round_result: RoundResult
    expired: bool = False

    @property
    def no_quorum(self) -> bool:
        """Too few nodes voted: says nothing about who holds the lock."""
        return not self.expired and not self.round_result.reachable

    @property
    def disagreement(self) -> int | None:
        """The place of a node that refused this client's terms, if one did."""
        return self.round_result.disagreement


def drift_ms(ttl_ms: int) -> int:
    """What clocks may differ by over one lease: 1 % and 2 ms, rounded up.

    Source: the Redlock text's CLOCK_DRIFT, with the factor of the Ruby original and the 2 ms of node-redlock
    for Redis' expiry precision.
    """
    return -(-ttl_ms // 100) + 2


def deadline_ms(ttl_ms: int, sent_ms: int) -> int:
    """The first clock reading at which a lease that was asked for at `sent_ms` must not be believed any more.

    One millisecond early, because the reading that is compared with it is floored too.
    """
    return sent_ms + ttl_ms - drift_ms(ttl_ms) - 1


def quarantine_ms(max_ttl_ms: int) -> int:
    """How long a node that lost its memory abstains: until every lease that it could have forgotten is over."""
    return max_ttl_ms + drift_ms(max_ttl_ms)


def masked_token(token: str) -> str:
    """An owner token as logs and errors may show it: its label, and eight digits of the secret.

    Of another client's token nobody knows which part is the secret: eight characters, and nothing of the rest.
    """
    ours = _OWN_TOKEN.match(token)
    if ours and ours[1] not in ours[2]:
        return f"{bounded_label(ours[2])} ({ours[1][:8]})"
    return f"{escape(token[:8])}..."
