"""Random walks through the protocol without merged states, to check the merges of the exhaustive search.

Rules of this file:
1. Every message, reply, expiry, cancel and decision is a step of its own, and may be lost. The generators of
   `redlock._core.protocol.acquire` run live.
2. The search must have every view of nodes and tokens that a walk has: `seen` is the view of a walk, and `view` the
   view of a state. A walk is no proof, but finds a wrong merge.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from redlock._core import protocol
from redlock._core.commands import Acquire, Confirm, Round
from redlock._core.protocol import Steps
from redlock._core.votes import UNANSWERED, Grant, Refusal, RoundResult, Vote, quorum_of
from tests.sim import exhaustive_nodes as nodes
from tests.sim import exhaustive_states as at
from tests.sim.exhaustive_nodes import Node

if TYPE_CHECKING:
    from tests.sim.exhaustive_rules import Config

View: TypeAlias = tuple[tuple[int, ...], tuple[int, ...]]
"""The nodes' fences and the tokens that were granted, or could be at once; each sorted."""


class Message(NamedTuple):
    """A command on its way, or its reply."""

    attempt: int
    place: int
    round: int
    vote: Vote | None = None


class _Attempt:
    """A client that runs the shipped generator and reads the replies in sequence."""

    def __init__(self, name: str, proposed: int, count: int) -> None:
        self.name = name
        self.token = 0
        self.granted = False
        self.written: set[int] = set()
        self.rounds: list[Round] = []
        self.votes: list[Vote] = [UNANSWERED] * count
        self._steps: Steps[Grant | Refusal] = protocol.acquire(Acquire(("r",), name, 1_000, proposed))
        self._go(next(self._steps))

    def _go(self, round_: Round) -> None:
        self.rounds.append(round_)
        self.votes = [UNANSWERED] * len(self.votes)
        if isinstance(round_.command, Confirm):
            self.token = round_.command.fence

    def decide(self) -> bool:
        """End the round with the votes that there are; true if another one begins."""
        try:
            self._go(self._steps.send(RoundResult(tuple(self.votes), 0, 0)))
        except StopIteration as stop:
            if isinstance(stop.value, Grant):
                self.token, self.granted = stop.value.fence, True
            self.votes = []
            return False
        return True


class Walk:
    """A walk, from the beginning until nothing is left to happen."""

    def __init__(self, config: Config, chance: random.Random) -> None:
        self._config, self._chance = config, chance
        self._nodes = [Node()] * config.nodes
        self._attempts: list[_Attempt] = []
        self._under_way: list[Message] = []

    def seen(self) -> View:
        """The views that the search must have too."""
        enough = quorum_of(self._config.nodes)
        tokens = [a.token for a in self._attempts if a.granted or len(a.written) >= enough]
        return tuple(sorted(node.fence for node in self._nodes)), tuple(sorted(tokens))

    def step(self) -> bool:
        """Let anything happen; false if nothing can."""
        choices = []
        if len(self._attempts) < self._config.attempts:
            choices.append(self._begin)
        if self._under_way:
            choices += [self._deliver] * 6
        if any(attempt.votes for attempt in self._attempts):
            choices += [self._decide] * 2
        if not choices:
            return False
        self._chance.choice([*choices, self._expire])()
        return True

    def _begin(self) -> None:
        number = len(self._attempts)
        self._attempts.append(_Attempt(f"c{number}", self._chance.choice(self._config.clocks), self._config.nodes))
        self._send(number)

    def _send(self, number: int) -> None:
        last = len(self._attempts[number].rounds) - 1
        self._under_way += [Message(number, place, last) for place in range(self._config.nodes)]

    def _decide(self) -> None:
        number = self._chance.choice([n for n, attempt in enumerate(self._attempts) if attempt.votes])
        attempt = self._attempts[number]
        won = RoundResult(tuple(attempt.votes), 0, 0).won
        if (won or self._chance.random() < 0.1) and attempt.decide():
            self._send(number)

    def _expire(self) -> None:
        place = self._chance.randrange(self._config.nodes)
        foreign = self._chance.random() < 0.1 and not self._nodes[place].holder
        self._nodes[place] = self._nodes[place]._replace(holder="a plain client" if foreign else "")

    def _deliver(self) -> None:
        message = self._under_way.pop(self._chance.randrange(len(self._under_way)))
        if self._chance.random() < 0.05:
            return
        attempt = self._attempts[message.attempt]
        if message.vote is None:
            self._under_way.append(message._replace(vote=self._carry_out(attempt, message)))
        elif attempt.votes and message.round == len(attempt.rounds) - 1:
            attempt.votes[message.place] = message.vote

    def _carry_out(self, attempt: _Attempt, message: Message) -> Vote:
        command, node = attempt.rounds[message.round].command, self._nodes[message.place]
        if isinstance(command, Acquire):
            new, vote = nodes.acquire(node, attempt.name, command.proposed)
        elif isinstance(command, Confirm):
            new, vote = nodes.confirm(node, attempt.name, command.fence)
            if new.fence != node.fence:
                attempt.written.add(message.place)
        else:
            new, vote = nodes.release(node, attempt.name)
        self._nodes[message.place] = new
        return vote


def view(columns: at.Columns, heads: at.Heads) -> View:
    """The view of a state of the search."""
    granted = [value >> at.TOKEN & at.VALUE for value in heads if value & 7 in {at.GRANTED, at.GRANTED_LATE}]
    return tuple(sorted(column & at.VALUE for column in columns)), tuple(sorted(granted))
