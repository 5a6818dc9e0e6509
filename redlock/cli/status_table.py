"""A survey as a table for a terminal.

Invariants: pure text; text from the nodes can't drive the terminal; columns are as wide as their content; a problem
comes first, and in red where colours are allowed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from redlock._escaping import escape

if TYPE_CHECKING:
    from collections.abc import Sequence

    from redlock.admin.cluster_status import ClusterStatus, LockInfo
    from redlock.admin.node_probe import NodeState

_NODES = ("NODE", "VOTES", "VERSION", "MEMORY", "CLOCK", "KEEPS")
_LOCKS = ("RESOURCE", "HOLDER", "SINCE", "LEFT", "VOTES", "TOKEN", "WAITERS")
_WAITERS = ("WAITED FOR", "POSITION", "WAITER", "SINCE", "HOLDER")
_VOTE = {True: "+", False: "-", None: "?"}
_WIDEST = 60
_KILO = 1024
_RED, _PLAIN = "\x1b[31m", "\x1b[0m"


def table(seen: ClusterStatus, *, color: bool = False) -> str:
    """Nodes and locks, one line each, with a heading; several lines without a last line break.

    In VOTES there is a sign for each node in the order above: + names this holder, - does not, ? did not answer.

    Args:
        seen: What the nodes reported.
        color: Whether the output is a terminal that shows colours: problems are red then.
    """
    head, *nodes = _aligned([_NODES, *(_node(node, seen.clock_limit) for node in seen.nodes)])
    is_bad = [not node.votes or bool(node.clock_note(seen.clock_limit)) for node in seen.nodes]
    rows = [(seen.problem, True), ("", False)] if seen.problem else []
    rows += [(head, False), *zip(nodes, is_bad, strict=True)]
    counts = f"{seen.voting} of {len(seen.nodes)} nodes vote, {seen.quorum} are needed"
    rows += [(counts, seen.voting < seen.quorum), ("", False)]
    rows += [(line, False) for line in (*_locks(seen), *_waiters(seen))]
    if seen.more:
        rows.append(("and more, which are not shown: see --most", False))
    rows += [
        (f"{node.label}: its locks could not all be read: {node.unlisted}", True)
        for node in seen.nodes
        if node.unlisted
    ]
    return "\n".join(f"{_RED}{escape(text)}{_PLAIN}" if red and color else escape(text) for text, red in rows)


def _locks(seen: ClusterStatus) -> list[str]:
    if not seen.locks:
        return ["no locks are held" if seen.is_known else "the remaining nodes report no lock, which proves nothing"]
    lines = _aligned([_LOCKS, *(_lock(one, seen) for one in seen.locks)])
    return lines if seen.is_known else ["unconfirmed, as the remaining nodes report:", *lines]


def _waiters(seen: ClusterStatus) -> list[str]:
    if not seen.waiters:
        return []
    rows = [
        (_short(one.resource), str(one.position), _short(one.waiter), one.since, _short(one.holder or "unknown"))
        for one in seen.waiters
    ]
    return ["", *_aligned([_WAITERS, *rows])]


def _node(node: NodeState, clock_limit: float) -> tuple[str, ...]:
    if not node.reachable:
        return (node.label, f"no: {node.reason}", "", "", "", "")
    offset = "" if node.clock_offset is None else f"{node.clock_offset * 1000:+.0f} ms"
    keeps = f"AOF {node.fsync}".strip() if node.aof else "snapshots" if node.rdb else "nothing"
    votes = "; ".join(filter(None, [f"no: {node.reason}" if node.reason else "yes", node.clock_note(clock_limit)]))
    return (node.label, votes, node.version, _size(node), offset, keeps)


def _lock(one: LockInfo, seen: ClusterStatus) -> tuple[str, ...]:
    votes = "".join(_VOTE[vote] for vote in one.votes)
    doubt = "" if one.held else ", no quorum" if seen.is_known else ", unconfirmed"
    return (
        _short(one.resource),
        _short(one.holder + (f" ({one.digits})" if one.digits else "")) + doubt,
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
