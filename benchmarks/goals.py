"""The goals of the project beside the figures of this run."""

from __future__ import annotations

from typing import TYPE_CHECKING

from benchmarks.report import Table, shown

if TYPE_CHECKING:
    from collections.abc import Sequence

    from benchmarks.report import Cell

AT_LEAST, AT_MOST = ">=", "<="
_RATIO, _ASYNC_RELEASE = "ours is x", "not waited, x"
_OTHERS = "to others, x"
_HOT = ("redlock-py", "redlock-ng", "pottery", "node-redlock")
_UNCONTENDED = (
    ("limit (C)", 1.0),
    ("redlock-py", 4.0),
    ("redlock-ng", 4.0),
    ("pottery", 4.0),
    ("node-redlock", 1.5),
    ("redis-py Lock", 1.0),
)

GOALS = (
    *(("uncontended", peer, _ASYNC_RELEASE, AT_LEAST, wanted) for peer, wanted in _UNCONTENDED),
    *(("uncontended", peer, _RATIO, AT_LEAST, wanted) for peer, wanted in _UNCONTENDED),
    ("uncontended", "ours", "x floor", AT_MOST, 1.9),
    ("uncontended", "ours, release not waited for", "x floor", AT_MOST, 2.3),
    ("asyncio", "1,000 tasks, distinct keys", "x one thread", AT_LEAST, 2.0),
    *(("hot", peer, column, AT_LEAST, 2.0) for column in (_RATIO, _OTHERS) for peer in _HOT),
    ("hot", "ours", "wait p99 ms", AT_MOST, 25.0),
    ("hot", "ours", "least/most", AT_LEAST, 0.8),
    ("hot", "ours", "256 / 8 waiters", AT_LEAST, 0.8),
    ("frozen", "ours", "p99 x", AT_MOST, 2.0),
    ("dead", "ours", "max ms", AT_MOST, 100.0),
    ("celery", "ours, distinct keys", "of unlocked", AT_LEAST, 0.8),
    ("celery", "ours, one key", "of unlocked", AT_LEAST, 0.6),
)


def table(tables: Sequence[Table]) -> Table:
    """Every goal with a figure in this run."""
    rows: list[list[Cell]] = []
    for scenario, row, column, sense, wanted in GOALS:
        value = _cell(tables, scenario, row, column)
        if value is not None:
            reached = value >= wanted if sense == AT_LEAST else value <= wanted
            rows.append(
                [f"{scenario}: {row}, {column}", f"{sense} {wanted:g}", shown(value), "yes" if reached else "NO"]
            )
    return Table("goals", "goals, and the figures of this run", ("", "wanted", "found", "reached"), rows)


def _cell(tables: Sequence[Table], scenario: str, row: str, column: str) -> float | None:
    for one in tables:
        if one.scenario == scenario and column in one.columns:
            for cells in one.rows:
                value = cells[list(one.columns).index(column)]
                if cells[0] == row and isinstance(value, float | int):
                    return value
    return None
