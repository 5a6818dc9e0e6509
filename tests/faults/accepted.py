"""Reads the accepted writes from the store's append-only file, which has every change in order.

Invariants:
1. The file is independent of the clients: a write counts even if its writer was killed before the reply.
2. The store never rewrites the file (`auto-aof-rewrite-percentage 0`), because a rewrite loses the order.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from redlock._transport import codec
from redlock._transport.reply_reader import ReplyReader
from tests.sim.records import Write

OPTIONS = ("--auto-aof-rewrite-percentage", "0")
"""The necessary options of the store's server."""

_PREFIX, _DONE = "store:", codec.operation_key("", "")


class Accepted(NamedTuple):
    """The writes that the fenced store accepted.

    Attributes:
        writes: The writes in the order of their effect; `section` is the open section at that moment.
        counters: The value of each counter at the end.
        stale: Writes with another token than that of the last opened section, as text.
    """

    writes: list[Write]
    counters: dict[str, int]
    stale: list[str]


def read(directory: Path) -> Accepted:
    """The writes that the server with this data directory has accepted until now."""
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
    reader = ReplyReader(admin=True)
    # Redis 6.2 writes a single file.
    single = list(directory.glob("appendonly.aof"))
    parts = sorted(directory.glob("appendonlydir/*.incr.aof"), key=lambda path: int(path.name.split(".")[2]))
    for path in single + parts:
        with path.open("rb") as file:
            # In pieces: of what it has been fed the reader moves all that is left, over and over.
            while piece := file.read(65_536):
                for command in reader.read(piece):
                    assert isinstance(command, list)
                    yield [word.decode(errors="surrogateescape") for word in command]


def _write(accepted: Accepted, opened: tuple[int, int], write: Write) -> None:
    fence, section = opened
    name = write.name.removeprefix(_PREFIX)
    if fence != write.fence:
        accepted.stale.append(f"{name}: {write.identity} wrote under {write.fence} while {fence} was open")
    accepted.writes.append(Write(name, write.fence, section, write.identity, write.value))
