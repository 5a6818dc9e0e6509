"""The exhaustive search: every state, breadth first, and the shortest way to a broken promise.

Invariants:
1. Of the protocol this module knows only `Moves`.
2. States that differ only in the names of nodes and attempts are one state.
3. The path to a broken promise uses the same names from its first step to its last.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, NamedTuple

from tests.sim import exhaustive_states as at
from tests.sim.exhaustive_moves import Moves

if TYPE_CHECKING:
    from tests.sim.exhaustive_rules import Config, Rules


class Found(NamedTuple):
    """The result of a search: `steps` lead to the breach; both are empty without a breach."""

    states: int
    depth: int
    seconds: float
    steps: tuple[str, ...] = ()
    breach: str = ""


class Search:
    """A configuration under one set of rules."""

    def __init__(self, rules: Rules, config: Config) -> None:
        self._moves = Moves(rules, config).of
        self.shape = at.Shape(config.nodes, config.attempts)
        self.seen: set[int] = set()
        self._start = ((0,) * config.nodes, (0,) * config.attempts)

    def run(self, *, keep_ways: bool = True) -> Found:
        """Search to the end, or to the first breach. Without the ways the search takes half the memory and gives no
        steps.
        """
        began = time.monotonic()
        first = self.shape.pack(*self._start)
        came: dict[int, int] = {first: first}
        seen = self.seen = {first}
        frontier, depth = [first], 0
        pack, unpack = self.shape.pack, self.shape.unpack
        while frontier:
            following = []
            for state in frontier:
                for _, _, columns, heads, breach in self._moves(*unpack(state)):
                    if breach:
                        steps = self._steps(came, state) if keep_ways else ()
                        return Found(len(seen), depth + 1, time.monotonic() - began, steps, breach)
                    new = pack(columns, at.tidy(columns, heads))
                    if new not in seen:
                        seen.add(new)
                        following.append(new)
                        if keep_ways:
                            came[new] = state
            frontier = following
            depth += bool(frontier)
        return Found(len(seen), depth, time.monotonic() - began)

    def _steps(self, came: dict[int, int], last: int) -> tuple[str, ...]:
        """The way to a state and its breach, with the same names from the first step to the last."""
        way = [last]
        while came[way[-1]] != way[-1]:
            way.append(came[way[-1]])
        columns, heads = self._start
        steps = []
        for wanted in reversed(way[:-1]):
            for move in self._moves(columns, heads):
                tidied = at.tidy(move.columns, move.heads)
                if self.shape.pack(move.columns, tidied) == wanted:
                    steps.append(move)
                    columns, heads = move.columns, tidied
                    break
        steps.append(next(move for move in self._moves(columns, heads) if move.breach))
        return tuple(move.text.format(*move.names) for move in steps)
