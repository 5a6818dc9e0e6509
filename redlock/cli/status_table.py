"""Formats a cluster status as a table for a terminal.

Invariants:
1. Text from the nodes can't control the terminal.
2. Columns are as wide as their content.
3. A problem is the first line, in red where colours are allowed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from redlock._escaping import escape, escape_blanks

if TYPE_CHECKING:
    from collections.abc import Sequence

    from redlock.admin.cluster_status import ClusterStatus, LockInfo
    from redlock.admin.node_state import NodeState

_NODES = ("NODE", "VOTES", "VERSION", "MEMORY", "CLOCK", "KEEPS")
_LOCKS = ("RESOURCE", "HOLDER", "SINCE", "LEFT", "VOTES", "TOKEN", "WAITERS")
_WAITERS = ("WAITED FOR", "POSITION", "WAITER", "SINCE", "HOLDER")
_VOTE = {True: "+", False: "-", None: "?"}
_WIDEST = 60
_WIDEST_REASON = 120
"""`redlock doctor` shows the whole reason of a node."""
_KILO = 1024
_RED, _PLAIN = "\x1b[31m", "\x1b[0m"


def table(status: ClusterStatus, *, color: bool = False) -> str:
    """Return a text with a line for each node and each lock, without a line break at the end.

    VOTES has a sign for each node, in the order of the nodes: + reports this holder, - does not, ? did not answer.
    """
    head, *nodes = _aligned([_NODES, *(_node(node, status.clock_limit) for node in status.nodes)])
    is_bad = [not node.votes or bool(node.clock_note(status.clock_limit)) for node in status.nodes]
    rows = [(status.problem, True), ("", False)] if status.problem else []
    rows += [(head, False), *zip(nodes, is_bad, strict=True)]
    counts = f"{status.voting} of {len(status.nodes)} nodes vote, {status.quorum} are needed"
    rows += [(counts, status.voting < status.quorum), ("", False)]
    rows += [(line, False) for line in (*_locks(status), *_waiters(status))]
    if status.more:
        rows.append(("and more, which are not shown: see --most", False))
    rows += [
        (f"{node.label}: its locks could not all be read: {node.unlisted}", True)
        for node in status.nodes
        if node.unlisted
    ]
    return "\n".join(f"{_RED}{escape(text)}{_PLAIN}" if red and color else escape(text) for text, red in rows)


def _locks(status: ClusterStatus) -> list[str]:
    if not status.locks:
        if not status.is_known:
            return ["the remaining nodes report no lock, which proves nothing"]
        return ["no lock is held among the names that were read" if status.more else "no locks are held"]
    lines = _aligned([_LOCKS, *(_lock(lock, status) for lock in status.locks)])
    return lines if status.is_known else ["unconfirmed, as the remaining nodes report:", *lines]


def _waiters(status: ClusterStatus) -> list[str]:
    if not status.waiters:
        return []
    rows = [
        (
            _short(waiter.resource),
            str(waiter.position),
            _short(waiter.waiter),
            waiter.since,
            _short(waiter.holder or "unknown"),
        )
        for waiter in status.waiters
    ]
    return ["", *_aligned([_WAITERS, *rows])]


def _node(node: NodeState, clock_limit: float) -> tuple[str, ...]:
    if not node.reachable:
        return (node.label, _short(f"no: {node.reason}", _WIDEST_REASON), "", "", "", "")
    offset = "" if node.clock_offset is None else f"{node.clock_offset * 1000:+.0f} ms"
    nothing = "unknown" if node.aof is None or node.rdb is None else "nothing"
    keeps = f"AOF {node.fsync}".strip() if node.aof else "snapshots" if node.rdb else nothing
    votes = "; ".join(filter(None, [f"no: {node.reason}" if node.reason else "yes", node.clock_note(clock_limit)]))
    return (node.label, _short(votes, _WIDEST_REASON), node.version, _size(node), offset, keeps)


def _lock(lock: LockInfo, status: ClusterStatus) -> tuple[str, ...]:
    votes = "".join(_VOTE[vote] for vote in lock.votes)
    doubt = "" if lock.held else ", no quorum" if status.is_known else ", unconfirmed"
    return (
        _short(lock.resource),
        _short(lock.holder + (f" ({lock.digits})" if lock.digits else "")) + doubt,
        lock.since,
        "?" if lock.remaining is None else f"{lock.remaining:.1f} s",
        f"{votes} {votes.count('+')}/{len(votes)}",
        str(lock.fence or "none"),
        "some" if lock.waiters is None else str(lock.waiters),
    )


def _size(node: NodeState) -> str:
    used = f"{node.used_memory / _KILO**2:.1f} MiB"
    return f"{used} of {node.max_memory / _KILO**2:.0f}" if node.max_memory else used


def _short(text: str, widest: int = _WIDEST) -> str:
    # The sender of a task names its resource: runs of blanks would look like further columns.
    text = escape_blanks(escape(text))
    return text if len(text) <= widest else text[: widest - 3] + "..."


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
