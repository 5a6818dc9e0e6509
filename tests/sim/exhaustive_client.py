"""A client's half of an attempt in the exhaustive search: `protocol.acquire`, replayed from its round results.

Rules of this file:
1. No rule of the protocol is written here a second time: which votes give a token, which number is confirmed, and
   when that is enough, the generator says.
2. The result of the first round is forgotten once the number to confirm is known. In the replay of the second round any
   first result with the same number does: the protocol reads only its number and its times.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, NamedTuple

from redlock._core.commands import Acquire, Confirm
from redlock._core.vote_tally import is_decided
from redlock._core.votes import UNANSWERED, Grant, Kind, RoundResult, Vote, quorum_of
from tests.sim import exhaustive_states as at

if TYPE_CHECKING:
    from tests.sim.exhaustive_rules import Rules

ATTEMPT = Acquire(("r",), "ours", 1_000, 1)


class Choice(NamedTuple):
    """The decisions of a client on some of its replies.

    Attributes:
        heard: The votes, for people.
        cells: Its cells afterwards.
        head: Its head afterwards.
        bound: The bound that the token must exceed.
    """

    heard: str
    cells: tuple[int, ...]
    head: int
    bound: int


class Client:
    """The client's half of an attempt: the generator, replayed from its round results."""

    def __init__(self, rules: Rules, nodes: int) -> None:
        self._acquire = rules.client
        self._quorum = quorum_of(nodes)
        self._first: dict[int, RoundResult] = {}
        self._enough: dict[tuple[int, tuple[bool, ...]], bool] = {}

    def first(self, votes: tuple[Vote, ...]) -> tuple[bool, int] | None:
        """Whether these votes give a token at once, or which number is to be confirmed; None if they are lost."""
        round_result = RoundResult(votes, 0, 0)
        steps = self._acquire(ATTEMPT)
        next(steps)
        try:
            following = steps.send(round_result)
        except StopIteration as stop:
            return (True, stop.value.fence) if isinstance(stop.value, Grant) else None
        if not isinstance(following.command, Confirm):
            return None
        assert is_decided(round_result.granted, round_result.unanswered, self._quorum)
        self._first[following.command.fence] = round_result
        return False, following.command.fence

    def second(self, fence: int, said: tuple[bool, ...]) -> bool:
        """Whether these nodes' confirms give the token."""
        known = self._enough.get((fence, said))
        if known is None:
            steps = self._acquire(ATTEMPT)
            next(steps)
            steps.send(self._first[fence])
            votes = tuple(Vote(Kind.GRANTED, fence) if yes else UNANSWERED for yes in said)
            try:
                steps.send(RoundResult(votes, 0, 0))
                known = False
            except StopIteration as stop:
                known = isinstance(stop.value, Grant) and stop.value.fence == fence
            self._enough[fence, said] = known
        return known

    def choices(self, cells: tuple[int, ...], head: int, *, pairs: bool) -> list[Choice]:
        """The possible decisions on any of the existing replies, each outcome once."""
        answered = [place for place, cell in enumerate(cells) if cell & 7]
        found: dict[tuple[tuple[int, ...], int, int], Choice] = {}
        for count in range(self._quorum, len(answered) + 1):
            for heard in itertools.combinations(answered, count):
                choice = self._choice(cells, head, heard, pairs=pairs)
                if choice is not None:
                    found.setdefault(choice[1:], choice)
        return list(found.values())

    def _choice(self, cells: tuple[int, ...], head: int, heard: tuple[int, ...], *, pairs: bool) -> Choice | None:
        votes = tuple(_vote(cell) if place in heard else UNANSWERED for place, cell in enumerate(cells))
        outcome = self.first(votes)
        if outcome is None:
            return None
        at_once, number = outcome
        assert number < at.LARGEST, "the configuration is too large"
        bound = head >> at.BOUND & at.VALUE
        relied = [place for place in heard if votes[place].kind is Kind.GRANTED]
        if pairs:
            bound = max(cells[place] >> at.FLOOR for place in relied)
        # If a variant takes a number that no quorum reported, all nodes that granted are its quorum.
        same = [place for place in relied if votes[place].fence == number]
        counted = same if len(same) >= self._quorum else relied
        after = []
        for place, cell in enumerate(cells):
            kind = cell & 7
            if kind == at.UNSEEN:
                after.append(at.UNSEEN)
            elif at_once and pairs and place in counted:
                after.append(at.COUNTED | cell & 1 << at.OLD)
            else:
                after.append(at.KEY if kind == at.OURS and not at_once else at.GONE)
        proposed = head >> at.PROPOSED & at.VALUE
        if at_once:
            new = at.head(at.GRANTED, proposed, number)
        else:
            new = at.head(at.CONFIRMING, proposed, number, bound, head >> at.DOOMED & 1)
        return Choice(" ".join(_shown(vote) for vote in votes), tuple(after), new, bound)


def _vote(cell: int) -> Vote:
    kind, fence = cell & 7, cell >> at.ANSWER & at.VALUE
    return Vote(Kind.DENIED, fence, "another's") if kind == at.DENIED else Vote(Kind.GRANTED, fence)


def _shown(vote: Vote) -> str:
    return "." if vote.unanswered else f"{vote.kind.value}{vote.fence}"
