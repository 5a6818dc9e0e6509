"""P3 in every state: `open` and `write` of the fenced store, under leases with any tokens.

Rules of this file:
1. Nothing is asked of the lock: tokens may be equal, and go backwards, as they may when nodes lose their memory.
2. A run is a delivery of an operation under a lease: the run opens, adds 1 to the value, and writes. Runs take their
   steps in any order. A run may open a second time, and each write may arrive late, and again.
3. `open_door` and `write_door` are `open.lua` and `write.lua`, line by line; `test_exhaustive.py` compares them.
"""

from __future__ import annotations

import dataclasses
import itertools
from typing import NamedTuple

OPENS = 2
"""How often a run opens at most."""


class Store(NamedTuple):
    """The state of one name, and the memory of its operations: id and value, and the tokens in order."""

    fence: int = 0
    owner: str = ""
    section: int = 0
    opened: int = 0
    value: int = 0
    done: tuple[tuple[str, int], ...] = ()


class Run(NamedTuple):
    """A delivery of an operation."""

    operation: str
    token: int
    owner: str


@dataclasses.dataclass(frozen=True)
class Doors:
    """The checks that a variant leaves out; none as shipped. Where opening raises no token, writes check alone."""

    open_raises: bool = True
    open_checks: bool = True
    sections: bool = True
    remembers: bool = True


SHIPPED = Doors()
BROKEN = {
    "open-does-not-raise": Doors(open_raises=False),
    "open-does-not-check": Doors(open_checks=False),
    "no-sections": Doors(sections=False),
    "no-memory": Doors(remembers=False),
}


def open_door(store: Store, run: Run, doors: Doors = SHIPPED) -> tuple[Store, int | None]:
    """The new section's number, or None: STALE."""
    stale = run.token < store.fence or (run.token == store.fence and store.owner != run.owner)
    if stale and doors.open_checks:
        return store, None
    section = store.section + 1
    if not doors.open_raises:
        return store._replace(section=section, opened=section), section
    return store._replace(fence=run.token, owner=run.owner, section=section, opened=section), section


def write_door(store: Store, run: Run, section: int, value: int, doors: Doors = SHIPPED) -> tuple[Store, str]:
    """WRITTEN, DUPLICATE or STALE."""
    if doors.remembers and any(operation == run.operation for operation, _ in store.done):
        return store, "DUPLICATE"
    if doors.open_raises:
        if (store.fence, store.owner) != (run.token, run.owner) or (doors.sections and store.opened != section):
            return store, "STALE"
    elif run.token < store.fence:
        return store, "STALE"
    else:
        store = store._replace(fence=run.token, owner=run.owner)
    return store._replace(value=value, opened=0, done=(*store.done, (run.operation, run.token))), "WRITTEN"


class Found(NamedTuple):
    """The result of a search."""

    states: int
    steps: tuple[str, ...] = ()
    breach: str = ""


Sent = tuple[tuple[tuple[int, int], ...], ...]
"""Per run, the writes that were sent: section, value."""


def search(runs: tuple[Run, ...], doors: Doors = SHIPPED) -> Found:
    """Every state of these runs, breadth first, to the end or the first breach."""
    start: tuple[Store, Sent] = (Store(), ((),) * len(runs))
    came: dict[tuple[Store, Sent], tuple[str, ...]] = {start: ()}
    frontier = [start]
    while frontier:
        following = []
        for state in frontier:
            for step, new in _moves(state, runs, doors):
                if new in came:
                    continue
                came[new] = (*came[state], step)
                breach = _breach(new[0])
                if breach:
                    return Found(len(came), came[new], breach)
                following.append(new)
        frontier = following
    return Found(len(came))


def _moves(state: tuple[Store, Sent], runs: tuple[Run, ...], doors: Doors) -> list[tuple[str, tuple[Store, Sent]]]:
    store, sent = state
    moves = []
    for number, run in enumerate(runs):
        mine = sent[number]
        if len(mine) < OPENS:
            after, section = open_door(store, run, doors)
            if section is not None:
                writes = (*sent[:number], (*mine, (section, store.value + 1)), *sent[number + 1 :])
                moves.append((f"{run} opens section {section}, reads {store.value}", (after, writes)))
        for section, value in mine:
            after, said = write_door(store, run, section, value, doors)
            if said == "WRITTEN":
                moves.append((f"{run} writes {value} in section {section}", (after, sent)))
    return moves


def _breach(store: Store) -> str:
    operations = [operation for operation, _ in store.done]
    tokens = [token for _, token in store.done]
    if len(set(operations)) < len(operations):
        return f"applied twice: {operations}"
    if store.value != len(operations):
        return f"the value is {store.value} after {operations}"
    return "" if tokens == sorted(tokens) else f"not in token order: {tokens}"


def plans(runs: int = 3) -> list[tuple[Run, ...]]:
    """Every way to give operations to runs and runs to leases, with every order of the leases' tokens."""
    found = set()
    for operations in itertools.product("xyz", repeat=runs):
        for owners in itertools.product("abc", repeat=runs):
            for tokens in itertools.product((1, 2, 3), repeat=3):
                by_owner = dict(zip("abc", tokens, strict=True))
                found.add(tuple(sorted(Run(o, by_owner[w], w) for o, w in zip(operations, owners, strict=True))))
    return sorted(found)
