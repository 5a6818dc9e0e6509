"""The possible steps in a state of the exhaustive search, and the promises that they break.

Invariants:
1. There is no time. Messages are delayed, lost and reordered freely. At any moment a key may expire and a client may
   give up. Only the end of the quarantine waits, for every attempt that was in flight when the memory was lost.
2. An event without effect on any promise is no separate step:
   - A reply is fixed when the node executes the command. The client decides on any part of the existing replies, so the
     others count as late or lost.
   - An attempt begins when the first node executes its acquire, and is granted as early as possible. Both make the
     premise "granted before the other attempt began" as weak as possible.
   - A key expires when another attempt acquires the lock, or when its confirm is not executed. A cancel or release has
     the same effect on a node as expiry.
   - A client that gives up does nothing more, and its messages stay.
   - Any node may reply DENIED at any time, because a plain Redlock client without fences may have the key.
3. `redlock._core.protocol.acquire` makes the decisions of clients; `exhaustive_nodes` executes the commands of nodes.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

from redlock._core.votes import Kind
from tests.sim import exhaustive_loss as loss
from tests.sim import exhaustive_states as at
from tests.sim.exhaustive_client import ATTEMPT, Choice, Client
from tests.sim.exhaustive_nodes import Node
from tests.sim.exhaustive_states import Columns, Heads, State, cell, head, put

if TYPE_CHECKING:
    from tests.sim.exhaustive_rules import Config, Rules

OURS, OTHER = ATTEMPT.token, "another's"


class Move(NamedTuple):
    """A step: its description, the next state, and the broken promise, if any."""

    text: str
    names: tuple[int | str, ...]
    columns: Columns
    heads: Heads
    breach: str = ""


class Moves:
    """The possible steps under one set of rules."""

    def __init__(self, rules: Rules, config: Config) -> None:
        self._rules, self._config = rules, config
        self._pairs = config.promise == "pairs"
        self._client = Client(rules, config.nodes)
        self._choices: dict[tuple[tuple[int, ...], int], list[Choice]] = {}
        self._granted: dict[tuple[int, int, int], tuple[int, int]] = {}

    def of(self, columns: Columns, heads: Heads) -> Iterator[Move]:
        """Every move from this state."""
        idle = next((attempt for attempt, value in enumerate(heads) if value & 7 == at.IDLE), None)
        if idle is not None:
            yield from self._begin(columns, heads, idle)
        for attempt, value in enumerate(heads):
            if value & 7 != at.IDLE:
                yield from self._go_on(columns, heads, attempt)
        if self._config.promise != "kept":
            yield from self._memory(columns, heads)

    def _go_on(self, columns: Columns, heads: Heads, attempt: int) -> Iterator[Move]:
        value = heads[attempt]
        phase, confirms = value & 7, value >> at.TOKEN & at.VALUE and value & 7 != at.GRANTED
        for place, column in enumerate(columns):
            if column >> at.MEMORY & 3 == at.QUARANTINED:
                continue
            if not cell(column, attempt) & 7:
                yield from self._ask(columns, heads, attempt, place)
            if confirms:
                yield from self._confirm(columns, heads, attempt, place)
        if phase == at.ASKING:
            yield from self._decide(columns, heads, attempt)
        elif self._config.repairs and phase in {at.GRANTED, at.GRANTED_LATE}:
            yield from self._repair(columns, heads, attempt)

    def _begin(self, columns: Columns, heads: Heads, attempt: int) -> Iterator[Move]:
        bound = 0
        if self._pairs:
            columns = loss.with_floors(columns, heads, attempt)
        else:
            bound = max(value >> at.TOKEN & at.VALUE for value in heads if value & 7 not in {at.CONFIRMING, at.OVER})
        for proposed, phase, doomed in loss.starts(self._config, self._rules, columns):
            begun = head(phase, proposed, 0, bound if phase == at.ASKING else 0, doomed)
            changed = (*heads[:attempt], begun, *heads[attempt + 1 :])
            for place, column in enumerate(columns):
                if column >> at.MEMORY & 3 != at.QUARANTINED:
                    yield from self._ask(columns, changed, attempt, place)

    def _ask(self, columns: Columns, heads: Heads, attempt: int, place: int) -> Iterator[Move]:
        column, value, state = columns[place], heads[attempt], (columns, heads)
        phase, proposed = value & 7, value >> at.PROPOSED & at.VALUE
        new, fence = self._grant(column, attempt, proposed)
        if phase == at.ASKING:
            floor = cell(column, attempt) & at.VALUE << at.FLOOR
            granted = put(new, attempt, at.OURS | fence << at.ANSWER | floor)
            names = (attempt, proposed, place, fence)
            yield _at(state, place, granted, "attempt {} proposes {}: node {} grants, fence {}", names)
            _, vote = self._rules.acquire(Node(OTHER, column & at.VALUE), OURS, proposed)
            told = [cell(c, attempt) >> at.ANSWER & at.VALUE for c in columns if cell(c, attempt) & 7]
            if vote.fence > max(told, default=0):
                # A smaller one changes nothing: with a quorum of others granted, none is left to outbid.
                denied = put(column, attempt, at.DENIED | vote.fence << at.ANSWER | floor)
                names = (attempt, proposed, place, vote.fence)
                yield _at(state, place, denied, "attempt {} proposes {}: node {} denies, fence {}", names)
            return
        kind = at.KEY if value >> at.TOKEN & at.VALUE and phase != at.GRANTED else at.GONE
        if phase == at.CONFIRMING and self._rules.late_counts:
            kind = at.COUNTED
        text, names = "attempt {} proposes {}: node {} grants late, fence {}", (attempt, proposed, place, fence)
        yield self._voted(_at(state, place, put(new, attempt, kind), text, names), attempt)

    def _grant(self, column: int, attempt: int, proposed: int) -> tuple[int, int]:
        """The column when the node has granted, but for this attempt's cell, and the fence that it answered."""
        known = self._granted.get((column, attempt, proposed))
        if known is None:
            node, vote = self._rules.acquire(Node("", column & at.VALUE), OURS, proposed)
            assert vote.fence < at.LARGEST, "the configuration is too large"
            new = loss.taken(column & ~at.VALUE | node.fence, attempt, self._config.attempts)
            known = self._granted[column, attempt, proposed] = new, vote.fence
        return known

    def _confirm(self, columns: Columns, heads: Heads, attempt: int, place: int) -> Iterator[Move]:
        column, value = columns[place], heads[attempt]
        kind, token = cell(column, attempt) & 7, value >> at.TOKEN & at.VALUE
        asking = value & 7 == at.CONFIRMING
        if kind == at.COUNTED or (kind != at.KEY and not asking):
            return
        holder = OURS if kind == at.KEY else OTHER
        node, vote = self._rules.confirm(Node(holder, column & at.VALUE), OURS, token)
        if vote.kind is Kind.GRANTED:
            new = put(column & ~at.VALUE | node.fence, attempt, at.COUNTED if asking else at.GONE)
            names = (attempt, token, place)
            yield self._voted(_at((columns, heads), place, new, "attempt {} confirms {} on node {}", names), attempt)

    def _voted(self, move: Move, attempt: int) -> Move:
        """The same, with the grant, if that is now enough."""
        value = move.heads[attempt]
        if value & 7 != at.CONFIRMING:
            return move
        token, bound = value >> at.TOKEN & at.VALUE, value >> at.BOUND & at.VALUE
        said = tuple(cell(column, attempt) & 7 == at.COUNTED for column in move.columns)
        if not any(said) or not self._client.second(token, said):
            return move
        columns = move.columns
        if not self._pairs:
            columns = tuple(put(c, attempt, at.GONE) if yes else c for c, yes in zip(columns, said, strict=True))
        granted = head(at.GRANTED_LATE, value >> at.PROPOSED & at.VALUE, token)
        heads = (*move.heads[:attempt], granted, *move.heads[attempt + 1 :])
        breach = self._breach(columns, heads, attempt, bound)
        return Move(move.text + ", and has token {}", (*move.names, token), columns, heads, breach)

    def _decide(self, columns: Columns, heads: Heads, attempt: int) -> Iterator[Move]:
        cells = tuple([cell(column, attempt) for column in columns])
        choices = self._choices.get((cells, heads[attempt]))
        if choices is None:
            choices = self._client.choices(cells, heads[attempt], pairs=self._pairs)
            self._choices[cells, heads[attempt]] = choices
        for heard, after, value, bound in choices:
            new = tuple(put(column, attempt, kind) for column, kind in zip(columns, after, strict=True))
            changed = (*heads[:attempt], value, *heads[attempt + 1 :])
            names = (attempt, heard, value >> at.TOKEN & at.VALUE)
            if value & 7 == at.GRANTED:
                breach = self._breach(new, changed, attempt, bound)
                yield Move("attempt {} hears {}, and has token {}", names, new, changed, breach)
            else:
                yield Move("attempt {} hears {}, and asks to confirm {}", names, new, changed)

    def _repair(self, columns: Columns, heads: Heads, attempt: int) -> Iterator[Move]:
        token = heads[attempt] >> at.TOKEN & at.VALUE
        for place, column in enumerate(columns):
            node, _ = self._rules.repair(Node("", column & at.VALUE), OURS, token)
            if column >> at.MEMORY & 3 != at.QUARANTINED and node.fence != column & at.VALUE:
                new = loss.taken(column & ~at.VALUE | node.fence, attempt, self._config.attempts)
                names = (attempt, place, node.fence)
                yield _at((columns, heads), place, new, "attempt {} repairs node {}, fence {}", names)

    def _memory(self, columns: Columns, heads: Heads) -> Iterator[Move]:
        memory = [column >> at.MEMORY & 3 for column in columns]
        if at.QUARANTINED in memory:
            place = memory.index(at.QUARANTINED)
            yield Move("node {} votes again", (place,), *loss.back(columns, heads, place))
        elif at.VOTES_AGAIN not in memory:
            quarantine = self._rules.quarantine
            for place, column in enumerate(columns):
                for fence in range((column & at.VALUE) + 1):
                    new, doomed = loss.lose(column, heads, fence, quarantine=quarantine, marks=self._pairs)
                    text, names = "node {} restarts and remembers fence {}", (place, fence)
                    yield _at((columns, doomed), place, new, text, names)

    def _breach(self, columns: Columns, heads: Heads, attempt: int, bound: int) -> str:
        token = heads[attempt] >> at.TOKEN & at.VALUE
        if token <= bound:
            return f"attempt {attempt} has token {token}, not above {bound}, which was granted before it began"
        for other, value in enumerate(heads):
            if (
                other == attempt
                or value & 7 not in {at.GRANTED, at.GRANTED_LATE}
                or value >> at.TOKEN & at.VALUE != token
            ):
                continue
            if not self._pairs or loss.share(columns, attempt, other):
                return f"attempts {other} and {attempt} have the same token {token}"
        return ""


def _at(state: State, place: int, new: int, text: str, names: tuple[int | str, ...]) -> Move:
    """A move that changes one node's column."""
    columns, heads = state
    return Move(text, names, (*columns[:place], new, *columns[place + 1 :]), heads)
