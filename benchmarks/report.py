"""Tables: how they are printed, and the arithmetic of medians and spreads that fills them."""

from __future__ import annotations

import dataclasses
import os
import platform
import statistics
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    Cell = str | float | None

_WHOLE = 100
"""Larger numbers are printed without decimals."""


@dataclasses.dataclass
class Table:
    """The result of a scenario.

    Attributes:
        scenario: The scenario's name on the command line.
        title: The measured value and its unit.
        columns: The headings; the first column has the names of the rows.
        rows: The cells; None for an empty cell.
        bars: The column that the plot shows.
        notes: Remarks for the reader below the table.
        raw: The values of all rounds, for the JSON.
    """

    scenario: str
    title: str
    columns: Sequence[str]
    rows: list[list[Cell]]
    bars: str = ""
    notes: list[str] = dataclasses.field(default_factory=list)
    raw: dict[str, Any] = dataclasses.field(default_factory=dict)

    def text(self) -> str:
        """The table as text."""
        cells = [list(self.columns), *([shown(cell) for cell in row] for row in self.rows)]
        widths = [max(len(row[place]) for row in cells) for place in range(len(self.columns))]
        lines = [
            "  ".join(cell.ljust(width) if not place else cell.rjust(width)
                      for place, (cell, width) in enumerate(zip(row, widths, strict=True))).rstrip()
            for row in cells
        ]  # fmt: skip
        return "\n".join(["", f"{self.scenario}: {self.title}", *lines, *(f"  {note}" for note in self.notes)])


@dataclasses.dataclass
class Figures:
    """The rounds of a loop of pairs.

    Attributes:
        rates: Pairs per second of each round.
        cpu: CPU seconds of the client per pair, of each round.
        acquire_ms: The time of each acquire.
    """

    rates: list[float] = dataclasses.field(default_factory=list)
    cpu: list[float] = dataclasses.field(default_factory=list)
    acquire_ms: list[float] = dataclasses.field(default_factory=list)

    def add(self, said: Mapping[str, Any]) -> None:
        """Add a round, as the peer has measured it."""
        self.rates.append(said["pairs"] / said["seconds"])
        self.cpu.append(said["cpu"] / said["pairs"])
        self.acquire_ms += said.get("acquire_ms", ())

    def raw(self) -> dict[str, list[float]]:
        """The values of all rounds, for the JSON."""
        return {"rates": self.rates, "cpu": self.cpu}


def machine() -> dict[str, object]:
    """This machine at this time, for the JSON."""
    try:
        load = os.getloadavg()
    except OSError:
        load = None
    return {
        "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), "python": platform.python_version(),
        "system": platform.platform(), "processors": os.cpu_count(), "load": load,
    }  # fmt: skip


def shown(cell: Cell) -> str:
    """A cell in three digits or so."""
    if cell is None:
        return "-"
    if isinstance(cell, str):
        return cell
    return f"{cell:,.0f}" if abs(cell) >= _WHOLE else f"{cell:.3g}"


def median(values: Sequence[float]) -> float | None:
    """The median; None without values."""
    return statistics.median(values) if values else None


def micros(seconds: Sequence[float]) -> float | None:
    """The median in microseconds; None without values."""
    return statistics.median(seconds) * 1e6 if seconds else None


def spread(values: Sequence[float]) -> str:
    """The smallest and the largest."""
    return f"{shown(min(values))} .. {shown(max(values))}" if values else "-"


def quantile(values: Sequence[float], share: float) -> float | None:
    """The value that this share of the values does not exceed; None without values."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else None


def ratio(ours: Sequence[float], theirs: Sequence[float]) -> float | None:
    """Return the median of ours / theirs over the rounds: a slow moment of the machine hits both sides of a round."""
    pairs = [one / other for one, other in zip(ours, theirs, strict=False) if other]
    return median(pairs)
