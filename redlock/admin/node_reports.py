"""Findings about the persistence of nodes, and about commands that nodes do not answer."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from redlock.admin.diagnostics import Finding, Level

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from redlock.admin.node_state import NodeState

_T = TypeVar("_T")

_UNCHECKED = {
    "CONFIG GET": "appendfsync and snapshots",
    "SCAN": "the locks of `redlock status`",
    "INFO memory": "maxmemory and maxmemory-policy, which must be noeviction",
    "INFO persistence": "appendonly",
    "INFO clients": "the number of waiters",
}
"""The commands of administration, and the values that stay unknown without each."""
_GRAVE = "INFO memory"
"""Without this command an eviction of held locks stays unknown. The lock needs none of these commands."""


def kept(nodes: Sequence[NodeState]) -> Iterator[Finding]:
    """The cost of a restart, by the persistence of the nodes."""
    after = "after a restart a node casts no vote until all leases that it may have forgotten are over"
    for kind, where in _grouped(nodes, _keeps):
        yield Finding(Level.FINE, "persistence", where, f"{kind}; {after}")


def _keeps(node: NodeState) -> str:
    if node.aof and node.fsync == "always":
        return "append-only file, fsync always: it keeps all fences, so tokens grow even if all nodes restart at once"
    if node.aof or node.rdb:
        kept = "append-only file" if node.aof else "snapshots"
        return f"{kept}, with a little lost in a crash: tokens grow while any two quorums share a node that kept all"
    persistence = "persistence not reported" if node.aof is None or node.rdb is None else "no persistence"
    return f"{persistence}: tokens grow while any two quorums share a node that was not restarted"


def not_reported(nodes: Sequence[NodeState], *, broker: str = "") -> Iterator[Finding]:
    """The checks that the doctor cannot make, because a node forbids or does not know a command.

    Args:
        nodes: The states of the nodes, or of a broker or store.
        broker: The name of the broker or store; no locks are listed there.
    """

    def absent(node: NodeState) -> tuple[str, ...]:
        # Where permissions of the lock are missing too, that finding is enough.
        needless = {"SCAN", "INFO clients"} if broker else set()
        return () if node.missing and not broker else tuple(name for name in node.unreported if name not in needless)

    for names, where in _grouped(nodes, absent):
        if names:
            level = Level.WARNING if _GRAVE in names else Level.FINE
            what = f"no answer to {', '.join(names)}; not known: {', '.join(_UNCHECKED[name] for name in names)}"
            fix = "look it up where the server is managed, or grant the command" if level else ""
            yield Finding(level, "not-reported", broker or where, what, fix)


def _grouped(nodes: Sequence[NodeState], kind: Callable[[NodeState], _T]) -> Iterable[tuple[_T, str]]:
    """The nodes that answer, by kind: each kind with the labels of its nodes, or `nodes` for all of them."""
    groups: dict[_T, list[str]] = {}
    for node in nodes:
        if node.reachable:
            groups.setdefault(kind(node), []).append(node.label)
    return [(key, "nodes" if len(labels) == len(nodes) else ", ".join(labels)) for key, labels in groups.items()]
