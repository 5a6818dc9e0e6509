"""Findings: what was found, how bad it is, and what mends it.

Rules: one line each, without a secret; unsafe is worse than no quorum, for waiting mends nothing that is unsafe.
"""

from __future__ import annotations

import dataclasses
import enum
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence


class Level(enum.IntEnum):
    """How bad it is; as a number, the exit status."""

    FINE = 0
    WARNING = 1
    UNSAFE = 2
    NO_QUORUM = 3


_WORST_FIRST = (Level.UNSAFE, Level.NO_QUORUM, Level.WARNING, Level.FINE)


@dataclasses.dataclass(frozen=True)
class Finding:
    """One thing that was found.

    Attributes:
        level: How bad it is.
        code: What it is, for programs: `duplicate-server`, `eviction`, ...
        where: A node's label, several with commas, `settings`, `broker`, or `nodes` for all of them together.
        what: What is the case.
        mend: What to do about it; empty if nothing need be done.
    """

    level: Level
    code: str
    where: str
    what: str
    mend: str = ""

    def __str__(self) -> str:
        return f"{self.where}: {self.what}" + (f"; {self.mend}" if self.mend else "")

    def as_dict(self) -> dict[str, Any]:
        """As what JSON knows; the level is its name in small letters."""
        return dataclasses.asdict(self) | {"level": self.level.name.lower()}


def worst(findings: Sequence[Finding]) -> Level:
    """The level of them all: unsafe before no quorum before a warning."""
    levels = {finding.level for finding in findings}
    return next((level for level in _WORST_FIRST if level in levels), Level.FINE)


def sort(findings: Sequence[Finding]) -> list[Finding]:
    """The same, the worst first."""
    return sorted(findings, key=lambda finding: _WORST_FIRST.index(finding.level))
