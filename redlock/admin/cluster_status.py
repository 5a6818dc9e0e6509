"""One read-only look at all lock nodes: who holds what, and how the nodes are.

    cluster_status(nodes, prefix=..., max_ttl=...) -> ClusterStatus   plain values; `as_dict()` is plain JSON

Rules: it changes nothing and takes no lock; all nodes are asked at the same time, each with a short timeout, so a
dead node costs no more than that; no owner token gets out but as `model.shown` shows it, no address but as a label.
"""

from __future__ import annotations

import dataclasses
import re
import threading
import time
from collections import Counter
from typing import TYPE_CHECKING, Any

from redlock import _validation
from redlock._core.votes import Kind, RoundResult, masked_token, quorum_of
from redlock._locking import wait_report
from redlock._locking.wait_queue import WaiterPool
from redlock._transport.codec import Codec
from redlock._transport.node import ERRORS, UnsuitableNode
from redlock.admin.node_probe import NodeProbe, NodeState

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from redlock._locking.wait_report import Waiter
    from redlock._transport.node import Node

_SHOWN = re.compile(r"(?P<owner_label>.*?)(?: since (?P<since>\d{4}-\S+Z))? \((?P<digits>[0-9a-f]{8})\)", re.DOTALL)
CLOCK_LIMIT = 1.0
"""Seconds; with a short `max_ttl`, half of that."""
_EXCHANGES = 4
"""A visit is over after so many timeouts: to connect, to be introduced, to list, to read."""


@dataclasses.dataclass(frozen=True)
class LockInfo:
    """A resource, and one holder that at least one node names; two rows if nodes name different ones.

    Attributes:
        resource: The name that is locked, without the prefix.
        holder: Who: task id @ worker for Celery tasks; eight characters of the value for another client's lock.
        since: When that holder's attempt began by its own clock, as `2026-11-24T12:00:00Z`; empty if it did not say.
        digits: The first eight digits of its owner token, as logs show them; empty for another client's.
        remaining: Seconds until the lock is free if the holder does nothing more; None if that can't be told.
        votes: For each node, in the order of `ClusterStatus.nodes`: True if it names this holder, False if it does not,
            None if it did not answer.
        held: Whether a quorum of nodes names this holder; without one it is an attempt, or what is left of a lease.
        fence: Its fencing token as most of its nodes have it; 0 for another client's lock.
        waiters: How many clients wait for it, as far as can be told: None if somebody does and how many is
            unknown, because other resources are waited for on the same node.
    """

    resource: str
    holder: str
    since: str
    digits: str
    remaining: float | None
    votes: tuple[bool | None, ...]
    held: bool
    fence: int
    waiters: int | None


@dataclasses.dataclass(frozen=True)
class ClusterStatus:
    """What the nodes told at one moment.

    Attributes:
        nodes: Their states, in the order in which they were given.
        locks: What is held, by name; a resource's holder with the most votes comes first.
        waiters: What waits, by resource and position, as far as the waiting processes report it.
        more: Whether there are more resources than were listed.
        quorum: How many votes make a quorum.
        fingerprint: What this side would agree on with the nodes; see `NodeState.fingerprint`.
        time: When it was made, in seconds since 1970.
        clock_limit: How many seconds a node's clock may be off before that is a problem.
    """

    nodes: tuple[NodeState, ...]
    locks: tuple[LockInfo, ...]
    more: bool
    quorum: int
    fingerprint: str
    time: float
    clock_limit: float = CLOCK_LIMIT
    waiters: tuple[Waiter, ...] = ()

    @property
    def is_known(self) -> bool:
        """Whether a quorum of nodes reports its locks completely: without one, a lock can be held that none reports."""
        return sum(node.reports for node in self.nodes) >= self.quorum

    @property
    def problem(self) -> str:
        """Why nothing certain can be said of the locks, or why none can be acquired; empty if all is well."""
        total = f"of {len(self.nodes)} nodes"
        if not self.is_known:
            reporting = sum(node.reports for node in self.nodes)
            return f"The state of the locks is unknown: {reporting} {total} report it, {self.quorum} are needed."
        if self.voting < self.quorum:
            return f"No lock can be acquired: {self.voting} {total} vote, {self.quorum} are needed."
        return ""

    @property
    def voting(self) -> int:
        """How many servers cast votes at this moment; one with two addresses counts once."""
        return len({node.run_id or place for place, node in enumerate(self.nodes) if node.votes})

    def as_dict(self) -> dict[str, Any]:
        """Everything as what JSON knows."""
        more = {"voting": self.voting, "is_known": self.is_known, "problem": self.problem}
        return dataclasses.asdict(self) | more


def cluster_status(
    nodes: Sequence[str] | str,
    *,
    prefix: str = "",
    max_ttl: float = 10.0,
    timeout: float = 0.5,
    resources: int = 200,
) -> ClusterStatus:
    """Look at all nodes, at the same time.

    Args:
        nodes: Their addresses, as `Redlock` takes them.
        prefix: What clients put before every resource name.
        max_ttl: Seconds that no lease may exceed.
        timeout: Seconds for which a node's answer is waited for; a look takes at most four times as long.
        resources: How many resources are listed at most; 0 looks for none.

    Raises:
        ConfigurationError: One of these is no good; the message says which and what would be.
    """
    addresses = _validation.node_list(nodes)
    _validation.prefix(prefix)
    max_ttl_ms = int(_validation.number("max_ttl", max_ttl) * 1000)
    timeout_ms = max(1, int(_validation.number("timeout", timeout) * 1000))
    _validation.count("resources", resources)
    codec = Codec(len(addresses), prefix, max_ttl_ms)
    looks = [NodeProbe(address, timeout_ms, codec, max_ttl_ms) for address in addresses]
    until = time.monotonic() + _EXCHANGES * timeout_ms / 1000

    def first(look: NodeProbe) -> None:
        look.meet()
        if resources:
            look.find(prefix, resources)

    met = _all_at_once(looks, first, until)
    names = sorted(set().union(*(look.names for look in met)))
    more = len(names) > resources or any(look.more for look in met)
    names = names[:resources]
    waits: dict[NodeProbe, set[tuple[str, str, float]]] = {}

    def second(look: NodeProbe) -> None:
        look.read(prefix, names)
        if resources:
            waits[look] = _waits(look, prefix)

    for look in _all_at_once(met, second, until):
        look.close()
    states = tuple(look.state for look in looks)
    held = [one for name in names for one in _holders(name, looks)]
    holders = {one.resource: one.holder for one in reversed(held)}
    waiters = wait_report.listed(set().union(*waits.copy().values()), holders)
    return ClusterStatus(
        states,
        tuple(_with_waiters(held, looks, codec, waiters)),
        more,
        quorum_of(len(looks)),
        codec.fingerprint,
        time.time(),
        min(CLOCK_LIMIT, max_ttl / 2),
        waiters,
    )


def probe_node(url: str, *, timeout: float = 0.5) -> NodeState:
    """What one Redis tells about itself, be it a lock node or not.

    Args:
        url: Its address.
        timeout: Seconds for which each of its answers is waited for.

    Raises:
        ConfigurationError: The address is no good.
    """
    look = NodeProbe(url, max(1, int(_validation.number("timeout", timeout) * 1000)), Codec(1, "", 1), 1)
    look.meet()
    look.close()
    return look.state


def _all_at_once(looks: Sequence[NodeProbe], work: Callable[[NodeProbe], None], until: float) -> list[NodeProbe]:
    """Do this with all of them at the same time; those with which it was done in time."""
    too_late = threading.Event()

    def visit(look: NodeProbe) -> None:
        work(look)
        if too_late.is_set():
            look.close()

    threads = [threading.Thread(target=visit, args=(look,), name="redlock-survey", daemon=True) for look in looks]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(max(0.0, until - time.monotonic()))
    too_late.set()
    return [look for look, thread in zip(looks, threads, strict=True) if not thread.is_alive()]


def _waits(look: NodeProbe, prefix: str) -> set[tuple[str, str, float]]:
    """The waits that processes report on this node; none where the user may not read them."""
    try:
        (answer,) = look.ask(wait_report.question(prefix))
    except (*ERRORS, UnsuitableNode):
        # The connection may be in the middle of a reply, and the look is over anyway.
        look.close()
        return set()
    return wait_report.decode(answer, prefix)


def _holders(name: str, looks: Sequence[NodeProbe]) -> list[LockInfo]:
    """Whom the nodes name at this resource, those with the most votes first."""
    round_result = RoundResult(tuple(look.vote(name) for look in looks), 0, 0)
    # A text without a TTL and without a fence is no lock: somebody keeps other things on this server.
    denied = [
        vote
        for vote in round_result.votes
        if vote.kind is Kind.DENIED and (vote.remaining_ms is not None or vote.fence)
    ]
    left_ms = round_result.free_in_ms
    found = []
    for token, count in Counter(vote.holder for vote in denied).most_common():
        said = _SHOWN.fullmatch(masked_token(token))
        fences = Counter(vote.fence for vote in denied if vote.holder == token)
        found.append(
            LockInfo(
                name,
                said["owner_label"] if said else masked_token(token),
                (said["since"] or "") if said else "",
                said["digits"] if said else "",
                None if left_ms is None else left_ms / 1000,
                tuple(None if vote.kind is Kind.SILENT else vote.holder == token for vote in round_result.votes),
                count >= round_result.quorum,
                max(fences, key=lambda fence: (fences[fence], fence)),
                0,
            )
        )
    return found


def _with_waiters(
    held: Sequence[LockInfo], looks: Sequence[NodeProbe], codec: Codec, reported: Sequence[Waiter]
) -> list[LockInfo]:
    """The same, with how many wait for each: as many as are reported, or as many as block if that is more.

    A node tells how many clients block on it and not for what; but all waiters of a resource block on the same node.
    """
    members = [look.node for look in looks]
    waiters = WaiterPool(members, codec)
    waited = {name for look in looks for name in look.waited}
    where = {name: waiters.node_for((name,)) for name in waited}
    shared = Counter(where.values())
    blocked: dict[Node, int] = {look.node: look.state.blocked for look in looks}

    counts = Counter(waiter.resource for waiter in reported)

    def count(one: LockInfo) -> int | None:
        node = where.get(one.resource)
        if node is None or not blocked[node]:
            return counts[one.resource]
        return max(blocked[node], counts[one.resource]) if shared[node] == 1 else counts[one.resource] or None

    return [dataclasses.replace(one, waiters=count(one)) for one in held]
