"""A survey as a table for a terminal.

Rules: pure text; what comes from the nodes can't drive the terminal; columns are as wide as what is in them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from redlock.escaping import escape

if TYPE_CHECKING:
    from collections.abc import Sequence

    from redlock.look import NodeState
    from redlock.survey import Held, Survey

_NODES = ("NODE", "VOTES", "VERSION", "MEMORY", "CLOCK", "KEEPS")
_LOCKS = ("RESOURCE", "HOLDER", "SINCE", "LEFT", "VOTES", "TOKEN", "WAITERS")
_VOTE = {True: "+", False: "-", None: "?"}
_WIDEST = 60
_KILO = 1024


def table(seen: Survey) -> str:
    """Nodes and locks, one line each, with a heading; several lines without a last line break.

    In VOTES there is a sign for each node in the order above: + names this holder, - does not, ? did not answer.
    """
    lines = _aligned([_NODES, *(_node(node) for node in seen.nodes)])
    lines += [f"{seen.voting} of {len(seen.nodes)} nodes vote, {seen.quorum} are needed", ""]
    lines += _aligned([_LOCKS, *(_lock(one) for one in seen.locks)]) if seen.locks else ["no locks are held"]
    if seen.more:
        lines.append("and more, which are not shown: see --most")
    lines += [f"{node.label}: its locks could not all be read: {node.unlisted}" for node in seen.nodes if node.unlisted]
    return "\n".join(map(escape, lines))


def _node(node: NodeState) -> tuple[str, ...]:
    if not node.reachable:
        return (node.label, f"no: {node.reason}", "", "", "", "")
    offset = "" if node.clock_offset is None else f"{node.clock_offset * 1000:+.0f} ms"
    keeps = f"AOF {node.fsync}".strip() if node.aof else "snapshots" if node.rdb else "nothing"
    return (node.label, f"no: {node.reason}" if node.reason else "yes", node.version, _size(node), offset, keeps)


def _lock(one: Held) -> tuple[str, ...]:
    votes = "".join(_VOTE[vote] for vote in one.votes)
    return (
        _short(one.resource),
        _short(one.holder + (f" ({one.digits})" if one.digits else "")) + ("" if one.held else ", no quorum"),
        one.since,
        "?" if one.remaining is None else f"{one.remaining:.1f} s",
        f"{votes} {votes.count('+')}/{len(votes)}",
        str(one.fence or "none"),
        "some" if one.waiters is None else str(one.waiters),
    )


def _size(node: NodeState) -> str:
    used = f"{node.used_memory / _KILO**2:.1f} MiB"
    return f"{used} of {node.max_memory / _KILO**2:.0f}" if node.max_memory else used


def _short(text: str) -> str:
    text = escape(text)
    return text if len(text) <= _WIDEST else text[: _WIDEST - 3] + "..."


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
