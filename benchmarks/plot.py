"""The results as one picture: for each table a block of bars, drawn as SVG by hand.

Invariants:
1. A bar's length is relative to the longest bar of its block. Its value stands beside the bar, so there is no axis.
"""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

from benchmarks.report import shown

if TYPE_CHECKING:
    from collections.abc import Sequence

    from benchmarks.report import Table

_WIDTH, _LABEL, _LINE, _HEAD = 860, 230, 20, 46
_OURS, _THEIRS = "#1f6feb", "#9aa4b1"


def svg(tables: Sequence[Table]) -> str:
    """All tables that have bars."""
    parts, top = [], 10
    for table in tables:
        if table.bars:
            block = _block(table, top)
            parts.append(block)
            top += _HEAD + _LINE * len(table.rows)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{top + 10}" '
        f'font-family="sans-serif" font-size="13"><rect width="100%" height="100%" fill="white"/>\n'
        + "\n".join(parts)
        + "\n</svg>\n"
    )


def _block(table: Table, top: int) -> str:
    column = list(table.columns).index(table.bars)
    values = [value if isinstance(value := row[column], float | int) else None for row in table.rows]
    longest = max((value for value in values if value is not None), default=0.0) or 1.0
    title = escape(f"{table.title} ({table.bars})")
    lines = [f'<text x="10" y="{top + 18}" font-weight="bold">{title}</text>']
    for number, (row, value) in enumerate(zip(table.rows, values, strict=True)):
        y = top + 28 + _LINE * number
        name = str(row[0])
        length = 0 if value is None else round((_WIDTH - _LABEL - 120) * value / longest, 1)
        colour = _OURS if name.startswith("ours") else _THEIRS
        lines += [
            f'<text x="{_LABEL - 8}" y="{y + 13}" text-anchor="end">{escape(name)}</text>',
            f'<rect x="{_LABEL}" y="{y + 2}" width="{length}" height="{_LINE - 5}" fill="{colour}"/>',
            f'<text x="{_LABEL + length + 6}" y="{y + 13}">{escape(shown(value))}</text>',
        ]
    return "\n".join(lines)
