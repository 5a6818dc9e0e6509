"""One round under way: what was asked, and what has been said so far.

Rules of this file:
1. No clock, no socket: the driver says when it was sent and when it is over.
2. Every answer finds its ballot, because the connection that it comes on keeps them in order. One that comes after
   the ballot was closed counts for nothing.
3. The votes are counted as they come: a driver asks after each of them whether the round is over.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from redlock._core.commands import Acquire, Command, Wait
from redlock._core.observed_fences import FENCE_AHEAD_MS
from redlock._core.votes import UNANSWERED, Kind, RoundResult, Vote, counted, decided, quorum_of, silent

if TYPE_CHECKING:
    from redlock._core.commands import Round


_NO_LIMIT = 2**63
_GRANTED, _DENIED = Kind.GRANTED, Kind.DENIED


class VoteTally:
    """The votes of one round, one per node, while they come in.

    Args:
        round_: What is asked.
        nodes: How many nodes there are.
        sent_ms: Clock before the first byte is sent.
    """

    __slots__ = (
        "_denied",
        "_granted",
        "_open",
        "_quorum",
        "closed",
        "command",
        "most_fence",
        "sent_ms",
        "votes",
        "wait",
    )

    def __init__(self, round_: Round, nodes: int, sent_ms: int) -> None:
        self.command: Command = round_.command
        self.wait = round_.wait
        self.sent_ms = sent_ms
        self.most_fence = _NO_LIMIT
        """A larger token than this is looked at before it counts."""
        if type(round_.command) is Acquire:
            self.most_fence = round_.command.proposed + FENCE_AHEAD_MS * 1_000
        self.votes: list[Vote] = [UNANSWERED] * nodes
        self.closed = False
        """Whether what still comes counts for nothing."""
        self._granted = self._denied = 0
        self._open = nodes
        self._quorum = quorum_of(nodes)

    def cast(self, place: int, vote: Vote) -> None:
        """A node's vote, or what is known of one that has given none yet."""
        votes, kind = self.votes, vote.kind
        if votes[place].unanswered:
            self._open -= 1
        votes[place] = vote
        if kind is _GRANTED:
            self._granted += 1
        elif kind is _DENIED:
            self._denied += 1
        elif vote.unanswered:
            self._open += 1

    def record_silence(self, place: int, reason: str) -> None:
        """No answer will come from this node any more."""
        if not self.closed and self.votes[place].unanswered:
            self.cast(place, silent(reason))

    @property
    def is_over(self) -> bool:
        """Whether nothing that could still be said is waited for."""
        wait = self.wait
        if wait is Wait.DECIDED:
            return decided(self._granted, self._open, self._quorum)
        if wait is Wait.COUNTED:
            return counted(self._granted, self._denied, self._open, self._quorum)
        return wait is Wait.SENT or self._open == 0

    @property
    def is_lost(self) -> bool:
        """Whether no quorum said yes, and somebody may still answer."""
        return self._granted < self._quorum and self._open > 0

    def close(self, done_ms: int) -> RoundResult:
        """The round as it stands; what comes later is late."""
        self.closed = True
        return RoundResult(tuple(self.votes), self.sent_ms, done_ms)
