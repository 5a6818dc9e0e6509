"""Loss of memory, quarantine, and the beginning of attempts in the exhaustive search.

Rules of this file:
1. At most one node loses its memory, once. The node comes back without keys and with any fence up to the old fence, as
   from an older snapshot.
2. The quarantine has no length here. All attempts that were in flight at the loss end with the quarantine: `max_ttl`
   bounds their leases and their votes.
3. A clock that is right shows, after the quarantine, more than any fence from before the loss.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from tests.sim import exhaustive_states as at
from tests.sim.exhaustive_states import Columns, Heads, cell, head, put

if TYPE_CHECKING:
    from tests.sim.exhaustive_rules import Config, Rules

_REMEMBERED = 7 | 1 << at.OLD


def starts(config: Config, rules: Rules, columns: Columns) -> Iterator[tuple[int, int, int]]:
    """The possible proposals of an attempt that begins now; its phase; whether the attempt ends with the quarantine.

    A clock that shows too little belongs to an attempt that has ended: its messages arrive late.
    """
    memory = max(column >> at.MEMORY & 3 for column in columns)
    by_clock = config.promise == "clocks" and rules.quarantine
    for clock in config.clocks:
        if by_clock and memory == at.VOTES_AGAIN:
            yield clock, at.OVER, 0
        else:
            yield clock, at.ASKING, int(by_clock and memory == at.QUARANTINED and rules.prompt)
    if by_clock and memory != at.KEPT:
        for clock in config.later:
            yield clock, at.ASKING, 0


def with_floors(columns: Columns, heads: Heads, attempt: int) -> Columns:
    """The columns at the beginning of an attempt: each cell has the largest token with a quorum that the node
    remembers."""
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
    """A node's column and all heads after a loss of all memory except this fence.

    Args:
        column: The node's.
        heads: All.
        fence: The fence that the node remembers.
        quarantine: Whether the node abstains.
        marks: Whether the node's earlier replies must be distinguished from its later replies.
    """
    new = (at.QUARANTINED if quarantine else at.VOTES_AGAIN) << at.MEMORY | fence
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
    """The end of the quarantine, and of all attempts that end then; their messages stay under way."""
    out = list(columns)
    out[place] ^= (at.QUARANTINED ^ at.VOTES_AGAIN) << at.MEMORY
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
