"""States of the exhaustive search as integers, the same for all namings of nodes and attempts.

Rules of this file:
1. A state is one column per node and one head per attempt. A column is the node's fence, the state of its memory, and a
   cell per attempt: the attempt's key and the attempt's knowledge of the node.
2. Nodes are alike, so columns are sorted. Attempts are alike too, so heads are sorted, and where heads are equal
   every order is tried and the smallest state stands for all of them.
3. Only details that can make no difference any more are forgotten (`tidy`).
"""

from __future__ import annotations

import itertools
from typing import TypeAlias

Columns: TypeAlias = tuple[int, ...]
Heads: TypeAlias = tuple[int, ...]
State: TypeAlias = tuple[Columns, Heads]

VALUE = 31
"""A fence or a token takes five bits."""
LARGEST = VALUE
"""Fences and tokens are smaller, or the configuration is too large for these integers."""

# A cell: kind, 3 bits; the fence that was answered; whether the node has lost its memory since, 1 bit; floor.
UNSEEN = 0
"""The acquire has not been carried out there, and may still be."""
OURS, LOST, DENIED = 1, 2, 3
"""Before the decision: granted and the key is still there, granted and the key is gone, denied; with the answer."""
KEY, GONE = 4, 5
"""After it: the key is ours, so that a confirm would be carried out, or it is not."""
COUNTED = 6
"""The fence became the token there, by this attempt, and its quorum counts this node."""
ANSWER, OLD, FLOOR, CELL = 3, 8, 9, 14
CELL_MASK = (1 << CELL) - 1

# A column: fence; memory, 2 bits; the cells.
KEPT, QUARANTINED, VOTES_AGAIN = 0, 1, 2
"""The memory of a node: kept; lost, and the node abstains; lost, and the node votes."""
MEMORY, CELLS = 5, 7

# A head: phase, 3 bits; proposal; token; bound; whether it ends with the quarantine, 1 bit.
IDLE, ASKING, CONFIRMING, GRANTED, GRANTED_LATE, OVER = range(6)
"""GRANTED_LATE: granted, and confirms may still reach further nodes. OVER: as good as crashed, messages under way."""
PROPOSED, TOKEN, BOUND, DOOMED, HEAD = 3, 8, 13, 18, 19
HEAD_MASK = (1 << HEAD) - 1


def head(phase: int, proposed: int = 0, token: int = 0, bound: int = 0, doomed: int = 0) -> int:
    """An attempt's head; its token must be larger than `bound`."""
    return phase | proposed << PROPOSED | token << TOKEN | bound << BOUND | doomed << DOOMED


def cell(column: int, attempt: int) -> int:
    return column >> CELLS + CELL * attempt & CELL_MASK


def put(column: int, attempt: int, new: int) -> int:
    """The column with another cell."""
    shift = CELLS + CELL * attempt
    return column & ~(CELL_MASK << shift) | new << shift


def tidy(columns: Columns, heads: Heads) -> Heads:
    """Forget proposals that no node will see, and confirms that no node will carry out."""
    out = list(heads)
    for attempt, old in enumerate(heads):
        phase = old & 7
        if phase == IDLE:
            continue
        kinds = {column >> CELLS + CELL * attempt & 7 for column in columns}
        if UNSEEN in kinds:
            continue
        new = old & ~(VALUE << PROPOSED)
        if KEY not in kinds:
            if phase == GRANTED_LATE:
                new = head(GRANTED, token=old >> TOKEN & VALUE)
            elif phase == OVER:
                new = head(OVER)
        out[attempt] = new
    return tuple(out)


class Shape:
    """How states of so many nodes and attempts are packed."""

    def __init__(self, nodes: int, attempts: int) -> None:
        self.nodes, self.attempts = nodes, attempts
        self._width = CELLS + CELL * attempts
        self._orders: dict[Heads, tuple[int, tuple[tuple[int, ...], ...]]] = {}
        self._permuted: dict[tuple[int, ...], dict[int, int]] = {}

    def pack(self, columns: Columns, heads: Heads) -> int:
        """The integer for this state and all states that differ only in names."""
        order = self._orders.get(heads)
        if order is None:
            order = self._orders[heads] = self._order(heads)
        packed, permutations = order
        best = None
        for permutation in permutations:
            known = self._permuted[permutation]
            state = packed
            for column in sorted([known.get(column) or self._permute(permutation, column) for column in columns]):
                state = state << self._width | column
            if best is None or state < best:
                best = state
        assert best is not None
        return best

    def unpack(self, state: int) -> State:
        """A state that this integer stands for."""
        columns, mask = [], (1 << self._width) - 1
        for _ in range(self.nodes):
            columns.append(state & mask)
            state >>= self._width
        return tuple(columns), tuple(state >> HEAD * attempt & HEAD_MASK for attempt in range(self.attempts))

    def _order(self, heads: Heads) -> tuple[int, tuple[tuple[int, ...], ...]]:
        wanted = tuple(sorted(heads))
        permutations = tuple(
            permutation
            for permutation in itertools.permutations(range(self.attempts))
            if tuple(heads[old] for old in permutation) == wanted
        )
        idle = sum(value == 0 for value in heads)
        if idle > 1:
            # Attempts that have not begun have nothing anywhere: their order makes no difference.
            permutations = tuple(p for p in permutations if list(p[:idle]) == sorted(p[:idle]))
        for permutation in permutations:
            self._permuted.setdefault(permutation, {})
        return sum(value << HEAD * attempt for attempt, value in enumerate(wanted)), permutations

    def _permute(self, permutation: tuple[int, ...], column: int) -> int:
        new = column & (1 << CELLS) - 1
        for attempt, old in enumerate(permutation):
            new |= cell(column, old) << CELLS + CELL * attempt
        self._permuted[permutation][column] = new
        return new
