"""Reads figures of a run from the log, and from the old logs that rotations have kept.

Invariants:
1. Figures are complete or not known. The log that a run begins has a line with its mark, and rotations remove the
   oldest lines first: while this line is there, so are all later lines.
2. No line of another user counts.
"""

from __future__ import annotations

import collections
import dataclasses
import glob
import re
import stat
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping

_ACQUIRED = re.compile(r" acquired resource=counter:\S+ holder='?(?P<task>[0-9a-f-]{36})@.* rounds=(?P<rounds>\d+) ")
_STALE = re.compile(r" STALE resource=\S+ token=(?P<token>\d+) ")


@dataclasses.dataclass(frozen=True)
class Figures:
    """The figures of a run that only the log has.

    Attributes:
        rounds: The number of acquisitions by their number of rounds.
        refused: The number of reads and writes of lost leases that the store refused as `STALE`.
    """

    rounds: Mapping[int, int]
    refused: int


def read(log_file: str, mark: str, task_ids: Collection[str], since: int) -> Figures | None:
    """The figures of a run, or None if the log has lost its first lines.

    Args:
        log_file: The log.
        mark: A text in the first line of the run, and in no earlier line.
        task_ids: The tasks of the run.
        since: The first fencing token of the run.
    """
    is_complete = False
    rounds: collections.Counter[int] = collections.Counter()
    refused = 0
    for line in _lines(log_file):
        is_complete = is_complete or mark in line
        if (found := _ACQUIRED.search(line)) and found["task"] in task_ids:
            rounds[int(found["rounds"])] += 1
        if found := _STALE.search(line):
            refused += int(found["token"]) >= since
    return Figures(dict(rounds), refused) if is_complete else None


def _lines(log_file: str) -> Iterator[str]:
    path = Path(log_file).absolute()
    if not path.is_file():
        return
    owner = path.stat().st_uid
    for part in path.parent.glob(f"{glob.escape(path.name)}*"):
        # Where others may write too, another user may have left a pipe, a link, or lines of his own.
        found = part.stat() if part == path else part.lstat()
        if stat.S_ISREG(found.st_mode) and found.st_uid == owner:
            with part.open(encoding="utf-8", errors="replace") as lines:
                yield from lines
