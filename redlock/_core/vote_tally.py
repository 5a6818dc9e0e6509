"""The votes of a round while they arrive, and the rule that decides the round.

Invariants:
1. No clock and no socket: the driver gives the times.
2. Every reply finds the tally of its round, because a connection keeps its tallies in order. A vote that arrives after
   the tally was closed does not count.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from redlock._core.commands import Acquire, Command, Wait
from redlock._core.votes import UNANSWERED, Kind, RoundResult, Vote, quorum_of, silent

if TYPE_CHECKING:
    from collections.abc import Callable

    from redlock._core.commands import Round


_NO_LIMIT = 2**63
_GRANTED, _DENIED = Kind.GRANTED, Kind.DENIED


def is_decided(granted: int, unanswered: int, quorum: int) -> bool:
    """Whether no further answer can change the result of the round, `RoundResult.won`.

    With an even number of nodes a tie is a decision too. node-redlock waits for `votes == quorum` on either side and
    hangs (index.ts `_attemptOperation`).
    """
    return granted >= quorum or granted + unanswered < quorum


def is_counted(granted: int, denied: int, unanswered: int, quorum: int) -> bool:
    """Whether a quorum has granted, a quorum has denied, or every node has answered."""
    return granted >= quorum or denied >= quorum or unanswered == 0


class VoteTally:
    """The votes of a round so far, one per node.

    Args:
        round_: The round.
        nodes: The number of nodes.
        sent_ms: The clock before the first byte is sent.
    """

    __slots__ = (
        "_denied",
        "_granted",
        "_open",
        "_quorum",
        "closed",
        "command",
        "doubted",
        "most_fence",
        "on_news",
        "repeated",
        "sent_ms",
        "votes",
        "wait",
    )

    def __init__(self, round_: Round, nodes: int, sent_ms: int) -> None:
        self.command: Command = round_.command
        self.wait = round_.wait
        self.sent_ms = sent_ms
        self.on_news: Callable[[VoteTally], object] | None = None
        """The driver calls this function after each vote, and after the loss of a connection."""
        self.most_fence = _NO_LIMIT
        """A grant with a larger token than this is kept back in `doubted`."""
        if type(round_.command) is Acquire:
            self.most_fence = round_.command.proposed
        self.doubted: dict[int, Vote] = {}
        """Grants that count only if no quorum grants without them, by place."""
        self.votes: list[Vote] = [UNANSWERED] * nodes
        self.closed = False
        """Whether later votes are ignored."""
        self.repeated: tuple[int, ...] = ()
        """The places of the nodes that lacked the script: they get a command a second time, and never a third."""
        self._granted = self._denied = 0
        self._open = nodes
        self._quorum = quorum_of(nodes)

    def cast(self, place: int, vote: Vote) -> None:
        """Record a node's vote, or the present state of a node that has not voted yet."""
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
        """Record that this node will not answer."""
        if not self.closed and self.votes[place].unanswered:
            self.cast(place, silent(reason))

    @property
    def is_doubt_over(self) -> bool:
        """Whether no other node can answer, or a quorum reports the same token: a minority can't have invented it."""
        fences = [vote.fence for vote in self.doubted.values()]
        return bool(fences) and (self._open <= len(fences) or max(map(fences.count, fences)) >= self._quorum)

    @property
    def is_won(self) -> bool:
        """Whether a quorum has granted."""
        return self._granted >= self._quorum

    @property
    def is_over(self) -> bool:
        """Whether the round waits for no further vote."""
        wait = self.wait
        if wait is Wait.DECIDED:
            return is_decided(self._granted, self._open, self._quorum)
        if wait is Wait.COUNTED:
            return is_counted(self._granted, self._denied, self._open, self._quorum)
        return wait is Wait.SENT or self._open == 0

    @property
    def is_lost(self) -> bool:
        """Of a round that is over: whether no quorum has granted, and some node may still answer."""
        return self._granted < self._quorum and self._open > 0

    def close(self, done_ms: int) -> RoundResult:
        """The result of the round with the votes so far; later votes are ignored."""
        self.closed = True
        return RoundResult(tuple(self.votes), self.sent_ms, done_ms)


def unasked(round_: Round, nodes: int, now_ms: int, reason: str) -> RoundResult:
    """The result of a round that was not sent: no node has a vote, for this reason."""
    tally = VoteTally(round_, nodes, now_ms)
    for place in range(nodes):
        tally.record_silence(place, reason)
    return tally.close(now_ms)
