"""Votes, round results, grants and refusals as frozen values, and the arithmetic on them.

Invariants:
1. No clock, no randomness and no I/O: time is an argument.
2. Times are integer milliseconds with the suffix `_ms`. Clock readings are floored, so an interval counts as one
   millisecond longer, and drift is rounded up: every rounding shortens the lease.
3. A vote has three values: a missing answer is not a denial.
"""

from __future__ import annotations

import enum
import re
from typing import TYPE_CHECKING, Any, NamedTuple

from redlock._escaping import bounded_label, escape

if TYPE_CHECKING:
    from redlock._core.commands import Names

_OWN_TOKEN = re.compile(r"([0-9a-f]{32}):(.+)", re.DOTALL)
_SECRET = ("holder", "owner", "token")

FENCE_LIMIT = 2**52
"""Tokens stay below this: Lua counts in doubles, where 2**53 + 1 equals 2**53."""

FENCE_TTL_MS = 24 * 3600 * 1000
"""Fence keys outlive the lock by a day, and not for ever: one key per name ever used would never go."""


def masked_token(token: str) -> str:
    """An owner token as logs and errors may show it: the label, and eight digits of the secret.

    A value of another program has no known secret part, and can be a short secret itself. So only a quarter of it is
    shown, at most its first eight characters.
    """
    ours = _OWN_TOKEN.match(token)
    if ours and ours[1] not in ours[2]:
        return f"{bounded_label(ours[2])} ({ours[1][:8]})"
    return f"{escape(token[: min(8, len(token) // 4)])}..."


def masked_repr(value: Any) -> str:  # noqa: ANN401 - any named tuple
    """The `repr` of a named tuple without the secrets of owner tokens: error reports can show local variables."""
    parts = ((name, getattr(value, name)) for name in value._fields)
    shown = ((name, masked_token(part) if part and name in _SECRET else part) for name, part in parts)
    return f"{type(value).__name__}({', '.join(f'{name}={part!r}' for name, part in shown)})"


class Kind(enum.Enum):
    """The three values of a vote."""

    GRANTED = "G"
    DENIED = "D"
    SILENT = "S"


class Vote(NamedTuple):
    """The answer of a node to a round.

    Attributes:
        kind: GRANTED, DENIED or SILENT.
        fence: With GRANTED, the node's fence; with DENIED, the largest fence that the node reported, 0 if none.
        holder: With DENIED, the owner token in the key; "" if the key is absent, or reserved for a woken waiter.
        remaining_ms: With DENIED, how long the key will last, None if for ever or unknown; with SILENT, how
            long the node will abstain, None if unknown.
        reason: With SILENT, why there is no vote.
        unanswered: With SILENT, True if the answer may still come: the round ended before.
        fingerprint: With SILENT, the configuration fingerprint of the node's clients, if it is not this client's.
        time_ms: The node's wall clock, 0 if unknown.
        timed_out: With SILENT, True if the node did not answer in time. The node may have granted all the same.
        same_as: With SILENT, the label of another address of the same server whose vote counts instead.
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

    def __repr__(self) -> str:
        return masked_repr(self)


UNANSWERED = Vote(Kind.SILENT, reason="not waited for", unanswered=True)


def silent(reason: str) -> Vote:
    """The vote of a node that has not voted and will not vote."""
    return Vote(Kind.SILENT, reason=reason)


def timed_out(reason: str) -> Vote:
    """The vote of a node that did not answer in time."""
    return Vote(Kind.SILENT, reason=reason, timed_out=True)


def quorum_of(nodes: int) -> int:
    """The size of a quorum of this many nodes: any two quorums share a node."""
    return nodes // 2 + 1


class RoundResult(NamedTuple):
    """The votes of a round, with the clock before the first send and after the last reply that was needed.

    Attributes:
        votes: The vote of each node, in the nodes' order.
        sent_ms: The clock before the first send.
        done_ms: The clock at the end of the round.
    """

    votes: tuple[Vote, ...]
    sent_ms: int
    done_ms: int

    @property
    def quorum(self) -> int:
        """The number of votes that win."""
        return quorum_of(len(self.votes))

    @property
    def granted(self) -> int:
        """The number of nodes that granted."""
        return [vote.kind for vote in self.votes].count(Kind.GRANTED)

    @property
    def denied(self) -> int:
        """The number of nodes that denied."""
        return [vote.kind for vote in self.votes].count(Kind.DENIED)

    @property
    def unanswered(self) -> int:
        """The number of nodes that may still answer."""
        return sum([vote.unanswered for vote in self.votes])

    @property
    def won(self) -> bool:
        """Whether a quorum granted."""
        # As `granted >= quorum`, for speed.
        return [vote.kind for vote in self.votes].count(Kind.GRANTED) >= quorum_of(len(self.votes))

    @property
    def may_look_won(self) -> bool:
        """Whether other clients may believe that this attempt won: nodes without a known vote may have granted."""
        votes = [vote.kind is Kind.GRANTED or vote.unanswered or vote.timed_out for vote in self.votes]
        return sum(votes) >= self.quorum

    @property
    def reachable(self) -> bool:
        """Whether a quorum of nodes voted or may still vote."""
        return sum([vote.kind is not Kind.SILENT or vote.unanswered for vote in self.votes]) >= self.quorum

    @property
    def answered(self) -> int:
        """The number of nodes that answered: they voted, abstained for some time, or rejected the client."""
        return sum(vote.kind is not Kind.SILENT or vote.time_ms > 0 for vote in self.votes)

    @property
    def disagreement(self) -> int | None:
        """The place of a node whose other clients have another configuration fingerprint, if any."""
        return next(iter([place for place, vote in enumerate(self.votes) if vote.fingerprint]), None)

    @property
    def missing(self) -> tuple[int, ...]:
        """The places of the nodes that voted and do not have the lock."""
        return tuple(place for place, vote in enumerate(self.votes) if vote.kind is Kind.DENIED and not vote.holder)

    @property
    def not_denied(self) -> tuple[int, ...]:
        """The places of the nodes on which an attempt may have set something."""
        return tuple([place for place, vote in enumerate(self.votes) if vote.kind is not Kind.DENIED])

    @property
    def largest_fence(self) -> int:
        """The largest token that any node reported."""
        return max([vote.fence for vote in self.votes])

    @property
    def backed_fence(self) -> int:
        """The largest token that too many nodes reported or exceeded for a faulty minority to invent the token."""
        return sorted([vote.fence for vote in self.votes])[self.quorum - 1]

    @property
    def agreed_fence(self) -> int | None:
        """The fence that a quorum reported, if no node reported a larger fence; else None."""
        fences = [vote.fence for vote in self.votes if vote.kind is Kind.GRANTED]
        largest = max(fences, default=0)
        return largest if fences.count(largest) >= self.quorum else None

    @property
    def holder(self) -> str | None:
        """The owner token that most denying nodes reported, if any."""
        holders = [vote.holder for vote in self.votes if vote.kind is Kind.DENIED and vote.holder]
        return max(holders, key=holders.count, default=None)

    @property
    def held_by_a_quorum(self) -> bool:
        """Whether a holder seems to have a quorum, or a quorum is reserved for the woken waiter."""
        taken = [vote.holder for vote in self.votes if vote.kind is Kind.DENIED and (vote.holder or vote.remaining_ms)]
        most = max((taken.count(holder) for holder in taken), default=0)
        # Where all denying nodes report the same holder, nodes that have not answered yet probably do too.
        alike = len(set(taken)) == 1 and not self.granted
        return most + (self.unanswered if alike else 0) >= self.quorum

    @property
    def is_only_reserved(self) -> bool:
        """Whether no node reports a holder: the lock is free and reserved for the woken waiter."""
        denied = [vote for vote in self.votes if vote.kind is Kind.DENIED]
        return bool(denied) and not any(vote.holder for vote in denied)

    @property
    def free_in_ms(self) -> int | None:
        """The time until a quorum of nodes is free if no holder acts; None if unknown."""
        free_now = [0 for vote in self.votes if vote.kind is Kind.GRANTED]
        denied = [vote.remaining_ms for vote in self.votes if vote.kind is Kind.DENIED]
        held = [left_ms for left_ms in denied if left_ms is not None]
        times = free_now + sorted(held)
        return times[self.quorum - 1] if len(times) >= self.quorum else None

    @property
    def votes_text(self) -> str:
        """The votes as letters in the nodes' order, for logs: `GGD.S`; a dot is a node that was not waited for."""
        return "".join("." if vote.unanswered else vote.kind.value for vote in self.votes)


class Grant(NamedTuple):
    """The result of a successful attempt or extension.

    Attributes:
        names: The locked resources.
        token: The owner token in the keys; secret.
        fence: The fencing token.
        deadline_ms: The reading of the holder's clock from which the lease is no longer valid.
        ttl_ms: The TTL of the keys.
        rounds: The number of rounds: 1, or 2 where the nodes' fences disagreed.
        round_result: The votes of the last round.
    """

    names: Names
    token: str
    fence: int
    deadline_ms: int
    ttl_ms: int
    rounds: int
    round_result: RoundResult

    def __repr__(self) -> str:
        # The repr of a tuple would show the token in an error report with local variables.
        return (
            f"Grant({self.names!r}, {masked_token(self.token)!r}, fence={self.fence}, deadline_ms={self.deadline_ms})"
        )


class Refusal(NamedTuple):
    """The result of a failed attempt or extension.

    Attributes:
        round_result: The votes of the lost round.
        expired: True if a quorum granted, but so late that no time of the lease was left.
    """

    round_result: RoundResult
    expired: bool = False

    @property
    def no_quorum(self) -> bool:
        """Whether too few nodes voted, so that the holder is unknown."""
        return not self.expired and not self.round_result.reachable


def drift_ms(ttl_ms: int) -> int:
    """The drift allowance for the clocks over a lease: 1 % and 2 ms, rounded up.

    Source: the Redlock text's CLOCK_DRIFT, with the factor of the Ruby original and the 2 ms of node-redlock
    for Redis' expiry precision.
    """
    return -(-ttl_ms // 100) + 2


def deadline_ms(ttl_ms: int, sent_ms: int) -> int:
    """The first clock reading at which a lease that was requested at `sent_ms` is no longer valid.

    A millisecond early, because the reading that is compared with the deadline is floored too.
    """
    return sent_ms + ttl_ms - drift_ms(ttl_ms) - 1


def quarantine_ms(max_ttl_ms: int) -> int:
    """How long a node that lost its memory abstains: until every lease that the node may have forgotten is over."""
    return max_ttl_ms + drift_ms(max_ttl_ms)
