"""What the store accepted, in its own words: read from its append-only file, which has every change in order.

Rules of this file:
1. The store is a witness that no client can talk into anything: a writer that was killed before it heard of its
   success is in here all the same.
2. It must never rewrite that file (`auto-aof-rewrite-percentage 0`), for a rewrite forgets the order.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import hiredis

from redlock._transport import codec
from tests.sim.records import Write

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

OPTIONS = ("--auto-aof-rewrite-percentage", "0")
"""What the store's server must be started with."""

_PREFIX, _DONE = "store:", codec.operation_key("", "")


class Accepted(NamedTuple):
    """What the fenced store has let through.

    Attributes:
        writes: In the order in which they took effect; `section` is the one that was open at that moment.
        counters: The value of each counter at the end.
        stale: Writes under another token than the one that had opened last, in words.
    """

    writes: list[Write]
    counters: dict[str, int]
    stale: list[str]


def read(directory: Path) -> Accepted:
    """What the server that keeps its data there has accepted until now."""
    accepted = Accepted([], {}, [])
    opened: dict[str, tuple[int, int]] = {}
    for command in _commands(directory):
        match command:
            case ["HSET", key, "fence", fence, "owner", _, "open", section]:
                opened[key] = (int(fence), int(section))
            case ["HSET", key, "value", value]:
                accepted.counters[key.removeprefix(_PREFIX)] = int(value)
            case ["SET", key, result, *_] if _DONE in key:
                state, _, identity = key.partition(_DONE)
                fence, _, value = result.partition(":")
                _write(accepted, opened.pop(state, (0, 0)), Write(state, int(fence), 0, identity, int(value)))
    return accepted


def _commands(directory: Path) -> Iterator[list[str]]:
    reader = hiredis.Reader(encoding="utf-8", errors="surrogateescape")
    for path in sorted(directory.glob("appendonlydir/*.incr.aof"), key=lambda path: int(path.name.split(".")[2])):
        with path.open("rb") as file:
            # In pieces: of what it has been fed the reader moves all that is left, over and over.
            while piece := file.read(65_536):
                reader.feed(piece)
                while (command := reader.gets()) is not False:
                    yield command


def _write(accepted: Accepted, opened: tuple[int, int], write: Write) -> None:
    fence, section = opened
    name = write.name.removeprefix(_PREFIX)
    if fence != write.fence:
        accepted.stale.append(f"{name}: {write.identity} wrote under {write.fence} while {fence} was open")
    accepted.writes.append(Write(name, write.fence, section, write.identity, write.value))
