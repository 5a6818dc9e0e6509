"""What a node's loss of memory, its quarantine, and an attempt's beginning do to a state of the exhaustive search.

Rules of this file:
1. At most one node loses its memory, once. It comes back with no keys and with any fence up to what it had: none, or
   that of an older snapshot.
2. The quarantine has no length here. It ends for every attempt that was in flight at the loss: by then neither a
   lease of theirs is left nor a vote that they could still count, for both are bounded by `max_ttl`.
3. A clock that is right shows, after the quarantine, more than any fence from before the loss.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.sim import exhaustive_states as at
from tests.sim.exhaustive_states import Columns, Heads, cell, head, put

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.sim.exhaustive_rules import Config, Rules

_REMEMBERED = 7 | 1 << at.OLD


def starts(config: Config, rules: Rules, columns: Columns) -> Iterator[tuple[int, int, int]]:
    """What an attempt that begins now may propose; its phase; whether it ends with the quarantine.

    A clock that shows less than it must is one of an attempt that has ended: its messages arrive late.
    """
    memory = max(column >> at.MEMORY & 3 for column in columns)
    by_clock = config.promise == "clocks" and rules.quarantine
    for clock in config.clocks:
        if by_clock and memory == at.BACK:
            yield clock, at.OVER, 0
        else:
            yield clock, at.ASKING, int(by_clock and memory == at.QUARANTINED and rules.prompt)
    if by_clock and memory != at.STILL_HELD:
        for clock in config.later:
            yield clock, at.ASKING, 0


def with_floors(columns: Columns, heads: Heads, attempt: int) -> Columns:
    """The columns at an attempt's beginning: each cell with the largest token whose quorum that node remembers."""
    granted = [
        (other, value >> at.TOKEN & at.VALUE)
        for other, value in enumerate(heads)
        if value & 7 in {at.GRANTED, at.GRANTED_LATE}
    ]
    out = []
    for column in columns:
        tokens = [token for other, token in granted if cell(column, other) & _REMEMBERED == at.COUNTED]
        out.append(put(column, attempt, max(tokens, default=0) << at.FLOOR))
    return tuple(out)


def taken(column: int, attempt: int, attempts: int) -> int:
    """The column when an attempt has taken the key: another's has expired."""
    for other in range(attempts):
        theirs = cell(column, other)
        if other != attempt and theirs & 7 == at.OURS:
            column = put(column, other, theirs & ~7 | at.LOST)
        elif other != attempt and theirs & 7 == at.KEY:
            column = put(column, other, at.GONE)
    return column


def lose(column: int, heads: Heads, fence: int, *, quarantine: bool, marks: bool) -> tuple[int, Heads]:
    """A node's column and all heads when it has lost its memory but for this fence.

    Args:
        column: The node's.
        heads: All.
        fence: What it remembers.
        quarantine: Whether it abstains.
        marks: Whether what it has answered so far is to be told apart from what it answers later.
    """
    new = (at.QUARANTINED if quarantine else at.BACK) << at.MEMORY | fence
    for attempt in range(len(heads)):
        theirs = cell(column, attempt)
        kind = theirs & 7
        if kind == at.UNSEEN:
            theirs = at.UNSEEN
        elif kind == at.KEY:
            theirs = at.GONE
        elif kind != at.GONE:
            kind = at.LOST if kind == at.OURS else kind
            theirs = theirs & ~7 | kind | marks << at.OLD
        new = put(new, attempt, theirs)
    if quarantine:
        heads = tuple(h | 1 << at.DOOMED if h & 7 in {at.ASKING, at.CONFIRMING} else h for h in heads)
    return new, heads


def back(columns: Columns, heads: Heads, place: int) -> tuple[Columns, Heads]:
    """The end of the quarantine, and of all attempts that end with it; their messages stay under way."""
    out = list(columns)
    out[place] ^= (at.QUARANTINED ^ at.BACK) << at.MEMORY
    ended = list(heads)
    for attempt, value in enumerate(heads):
        if not value >> at.DOOMED & 1:
            continue
        ended[attempt] = head(at.OVER, value >> at.PROPOSED & at.VALUE, value >> at.TOKEN & at.VALUE)
        for node, column in enumerate(out):
            kind = cell(column, attempt) & 7
            out[node] = put(column, attempt, kind if kind in {at.UNSEEN, at.KEY} else at.GONE)
    return tuple(out), tuple(ended)


def share(columns: Columns, one: int, other: int) -> bool:
    """Whether two grants count a node that has kept its memory between them."""
    return any(
        cell(column, one) & 7 == at.COUNTED and cell(column, one) & _REMEMBERED == cell(column, other) & _REMEMBERED
        for column in columns
    )
