"""Findings of the doctor: each has a level, a problem and a fix.

Invariants:
1. A finding is one line, without a secret.
2. Unsafe is worse than no quorum: an unsafe state stays unsafe, and a quorum can return without help.
"""

from __future__ import annotations

import dataclasses
import enum
from typing import TYPE_CHECKING, Any

from redlock._masking import mask

if TYPE_CHECKING:
    from collections.abc import Sequence


class Level(enum.IntEnum):
    """The severity. Its number is the exit status."""

    FINE = 0
    WARNING = 1
    UNSAFE = 2
    NO_QUORUM = 3


_WORST_FIRST = (Level.UNSAFE, Level.NO_QUORUM, Level.WARNING, Level.FINE)


@dataclasses.dataclass(frozen=True)
class Finding:
    """A result of a check.

    Attributes:
        level: The severity.
        code: The kind of finding, for programs: `duplicate-server`, `eviction`, ...
        where: A node's label, several labels with commas, `settings`, `broker`, or `nodes` for all nodes together.
        what: Describes the state.
        fix: The remedy; empty for a good state.
    """

    level: Level
    code: str
    where: str
    what: str
    fix: str = ""

    def __post_init__(self) -> None:
        # A server or a driver wrote a part of these, and may repeat an address. The fix is our own text.
        for name in ("where", "what"):
            object.__setattr__(self, name, mask(getattr(self, name)))

    def __str__(self) -> str:
        return f"{self.where}: {self.what}" + (f"; {self.fix}" if self.fix else "")

    def as_dict(self) -> dict[str, Any]:
        """Return all values as JSON types. The level is its name in small letters."""
        return dataclasses.asdict(self) | {"level": self.level.name.lower()}


def warning(code: str, where: str, what: str, fix: str = "") -> Finding:
    """Return a finding of the level warning."""
    return Finding(Level.WARNING, code, where, what, fix)


def worst(findings: Sequence[Finding]) -> Level:
    """Return the worst level: unsafe before no quorum before a warning."""
    levels = {finding.level for finding in findings}
    return next((level for level in _WORST_FIRST if level in levels), Level.FINE)


def sort(findings: Sequence[Finding]) -> list[Finding]:
    """Return the findings, the worst first."""
    return sorted(findings, key=lambda finding: _WORST_FIRST.index(finding.level))
