"""The outcome of a scenario, and the table cell for the outcomes of several runs.

Invariants:
1. Yes is always the good outcome.
2. A cell shows that runs differ.
3. A hanging or failed peer is described with its own error.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_MOST = 80
"""The largest number of characters of an error in a cell."""


class Outcome(NamedTuple):
    """The outcome of a scenario for a peer, in a single run.

    Attributes:
        survived: Whether the answer to the scenario's question is yes; None if not measured.
        how: A few words of description.
        figure: The measured value.
        unit: The unit of the value and its meaning, such as `s`.
    """

    survived: bool | None
    how: str = ""
    figure: float | None = None
    unit: str = "s"


def brief(error: object) -> str:
    """An error that fits in a cell and is equal in every run, so without port numbers."""
    text = re.sub(r"127\.0\.0\.1:\d+", "a node", " ".join(str(error).replace("|", "/").split()))
    return text if len(text) <= _MOST else f"{text[:_MOST].rstrip()}..."


def cell(runs: Sequence[Outcome]) -> str:
    """The runs of a scenario for a peer, as a table cell."""
    verdicts = [one.survived for one in runs]
    groups = [[one for one in runs if one.survived is verdict] for verdict in (True, False, None)]
    said = []
    for verdict, group in zip(("yes", "**no**", "not measured"), groups, strict=True):
        if group:
            share = "" if len(group) == len(runs) else f" in {len(group)} of {len(runs)} runs"
            said.append(f"{verdict}{share}{_detail(group)}")
    assert verdicts, "no run"
    return "; ".join(said)


def _detail(group: Sequence[Outcome]) -> str:
    ways = list(dict.fromkeys(one.how for one in group if one.how))
    figures = [one.figure for one in group if one.figure is not None]
    parts = [" / ".join(ways)] if ways else []
    if figures:
        least, most = (f"{value:.2f}" for value in (min(figures), max(figures)))
        parts.append(f"{least if least == most else f'{least} .. {most}'} {group[0].unit}")
    return f": {', '.join(parts)}" if parts else ""


def markdown(rows: Mapping[str, Mapping[str, Sequence[Outcome]]], peers: Sequence[str]) -> str:
    """A table of scenarios against peers."""
    lines = [f"| | {' | '.join(peers)} |", f"|---|{'---|' * len(peers)}"]
    for question, found in rows.items():
        cells = (cell(found[peer]) if found.get(peer) else "not measured" for peer in peers)
        lines.append(f"| {question} | {' | '.join(cells)} |")
    return "\n".join(lines)


def differing(rows: Mapping[str, Mapping[str, Sequence[Outcome]]]) -> list[str]:
    """The questions for which the runs disagree on yes or no."""
    return [
        f"{peer}: {question}"
        for question, found in rows.items()
        for peer, runs in found.items()
        if len({one.survived for one in runs}) > 1
    ]
