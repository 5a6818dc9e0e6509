"""Reads the state of all lock nodes and the locks on them.

Invariants:
1. The request changes nothing on the nodes and acquires no lock.
2. All nodes are asked at the same time, each with a short timeout, so a dead node costs one timeout.
3. The result has owner tokens only in the form of `masked_token`, and addresses only as labels.
"""

from __future__ import annotations

import dataclasses
import functools
import re
import threading
import time
from collections import Counter
from typing import TYPE_CHECKING, Any

from redlock import _threads, _validation
from redlock._core.votes import Kind, RoundResult, masked_token, quorum_of
from redlock._locking import wait_report
from redlock._locking.waiter_pool import WaiterPool
from redlock._transport.codec import Codec
from redlock.admin.node_probe import NodeProbe

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from redlock._locking.wait_report import Waiter
    from redlock._transport.node import Node
    from redlock.admin.node_state import NodeState

_SHOWN = re.compile(r"(?P<owner_label>.*?)(?: since (?P<since>\d{4}-\S+Z))? \((?P<digits>[0-9a-f]{8})\)", re.DOTALL)
CLOCK_LIMIT = 1.0
"""Seconds by which a node's clock may be off. With a short `max_ttl` the limit is half of `max_ttl`."""
_EXCHANGES = 7
"""A probe takes about this many timeouts at most: connect, read the state with two requests, list the names in twice a
timeout, read the locks, read the waits. More than 250 locks need more requests."""
_WAITERS_PER_RESOURCE = 5
"""The list of waiters is at most this many times as long as the list of resources."""


@dataclasses.dataclass(frozen=True)
class LockInfo:
    """A resource and a holder that at least one node reports. Different holders are separate rows.

    Attributes:
        resource: The locked name, without the prefix.
        holder: The owner label: task id @ worker for Celery tasks. For a lock of another client, the beginning of its
            value: a quarter, at most eight characters.
        since: Start of the holder's attempt by the holder's clock, as `2026-11-24T12:00:00Z`. Empty if not reported.
        digits: The first eight digits of the owner token, as logs show them. Empty for another client's lock.
        remaining: Seconds until the lock is free if the holder does nothing more; None if unknown.
        votes: A value for each node, in the order of `ClusterStatus.nodes`: True if the node reports this holder,
            False if not, None without an answer.
        held: Whether a quorum of nodes reports this holder. Otherwise the row is an attempt, or a rest of a lease.
        fence: The fencing token that most of the nodes report; 0 for another client's lock.
        waiters: Number of clients that wait for this resource. None if clients wait and their number is unknown,
            because clients wait for other resources on the same node, or with a prefix perhaps those of other projects.
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
    """The state of all nodes and locks at one moment.

    Attributes:
        nodes: The states of the nodes, in the order of the addresses.
        locks: The locks, sorted by resource and then by votes, most votes first.
        waiters: The waiters that report themselves, sorted by resource and position.
        more: Whether there are more resources or waiters than listed.
        quorum: Number of votes in a quorum.
        fingerprint: The configuration fingerprint of this side; see `NodeState.fingerprint`.
        time: Time of the request, in seconds since 1970.
        clock_limit: Seconds by which a node's clock may be off before that is a problem.
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
        """Whether a quorum of nodes reports all locks. Without this quorum, a held lock may be missing here."""
        return sum(node.reports for node in self.nodes) >= self.quorum

    @property
    def problem(self) -> str:
        """Why the state of the locks is unknown, or why no lock can be acquired. Empty if all is well."""
        total = f"of {len(self.nodes)} nodes"
        if not self.is_known:
            reporting = sum(node.reports for node in self.nodes)
            return f"The state of the locks is unknown: {reporting} {total} report it, {self.quorum} are needed."
        if self.voting < self.quorum:
            return f"No lock can be acquired: {self.voting} {total} vote, {self.quorum} are needed."
        return ""

    @property
    def voting(self) -> int:
        """Number of servers that vote at this moment. A server with two addresses counts once."""
        return len({node.run_id or index for index, node in enumerate(self.nodes) if node.votes})

    def as_dict(self) -> dict[str, Any]:
        """Return all values as JSON types."""
        computed = {"voting": self.voting, "is_known": self.is_known, "problem": self.problem}
        return dataclasses.asdict(self) | computed


@_validation.private
def cluster_status(
    nodes: Sequence[str] | str,
    *,
    prefix: str = "",
    max_ttl: float = 10.0,
    timeout: float = 0.5,
    resources: int = 200,
) -> ClusterStatus:
    """Read the state of all nodes at the same time.

    Args:
        nodes: The addresses, as `Redlock` takes them.
        prefix: The prefix of the clients' resource names.
        max_ttl: Longest lease of all clients, in seconds.
        timeout: Seconds to wait for each answer of a node. The call takes at most seven times as long.
        resources: Largest number of listed resources; with 0 the nodes list none. At most five times as many waiters
            are listed.

    Raises:
        ConfigurationError: An argument is invalid. The message names the argument and a valid value.
    """
    addresses = _validation.node_list(nodes)
    prefix = _validation.prefix(prefix)
    max_ttl_ms = int(_validation.number("max_ttl", max_ttl) * 1000)
    timeout_ms = max(1, int(_validation.number("timeout", timeout) * 1000))
    resources = _validation.count("resources", resources)
    codec = Codec(len(addresses), prefix, max_ttl_ms)
    probes = [NodeProbe(address, timeout_ms, codec) for address in addresses]
    until = time.monotonic() + _EXCHANGES * timeout_ms / 1000

    def list_names(probe: NodeProbe) -> None:
        probe.connect()
        if resources:
            probe.find(resources)

    listed = _all_at_once(probes, list_names, until)
    listings = Counter(name for probe in listed for name in probe.names)
    more = len(listings) > resources or any(probe.more for probe in listed)
    # Names on many nodes first: a node with foreign or invented keys must not hide the locks of the others.
    names = sorted(sorted(listings, key=lambda name: (-listings[name], name))[:resources])

    def read_locks(probe: NodeProbe) -> None:
        probe.read(names)
        if resources:
            probe.read_waits()

    finished = _all_at_once(listed, read_locks, until)
    for probe in finished:
        probe.close()
    # The thread of an unfinished probe can still change the probe.
    late = f"no complete answer within {_EXCHANGES * timeout_ms / 1000:g} s"
    states = tuple(
        probe.state if probe in finished else dataclasses.replace(probe.state, unlisted=late) for probe in probes
    )
    locks = [lock for name in names for lock in _holders(name, probes)]
    holders = {lock.resource: lock.holder for lock in reversed(locks)}
    waiters = wait_report.listed(set().union(*(probe.waits for probe in probes)), holders)
    most_waiters = _WAITERS_PER_RESOURCE * resources
    return ClusterStatus(
        states,
        tuple(_with_waiters(locks, probes, codec, waiters)),
        more or len(waiters) > most_waiters,
        quorum_of(len(probes)),
        codec.fingerprint,
        time.time(),
        min(CLOCK_LIMIT, max_ttl / 2),
        waiters[:most_waiters],
    )


@_validation.private
def probe_node(url: str, *, timeout: float = 0.5) -> NodeState:
    """Return the state of one Redis, also of a server that is no lock node.

    Args:
        url: The address.
        timeout: Seconds to wait for each answer.

    Raises:
        ConfigurationError: The address is invalid.
    """
    probe = NodeProbe(url, max(1, int(_validation.number("timeout", timeout) * 1000)), Codec(1, "", 1))
    probe.connect()
    probe.close()
    return probe.state


def _all_at_once(probes: Sequence[NodeProbe], work: Callable[[NodeProbe], None], until: float) -> list[NodeProbe]:
    """Run `work` on all probes at the same time, and return the probes that were ready in time."""
    too_late = threading.Event()

    def visit(probe: NodeProbe) -> None:
        work(probe)
        if too_late.is_set():
            probe.close()

    threads = [_threads.start(functools.partial(visit, probe), "redlock-status") for probe in probes]
    for thread in threads:
        thread.join(max(0.0, until - time.monotonic()))
    too_late.set()
    return [probe for probe, thread in zip(probes, threads, strict=True) if not thread.is_alive()]


def _holders(name: str, probes: Sequence[NodeProbe]) -> list[LockInfo]:
    """The holders that the nodes report at this resource, most votes first."""
    round_result = RoundResult(tuple(probe.vote(name) for probe in probes), 0, 0)
    # A text without a TTL and without a fence is no lock: the server also keeps other data.
    denied = [
        vote
        for vote in round_result.votes
        if vote.kind is Kind.DENIED and (vote.remaining_ms is not None or vote.fence)
    ]
    left_ms = round_result.free_in_ms
    locks = []
    for token, count in Counter(vote.holder for vote in denied).most_common():
        match = _SHOWN.fullmatch(masked_token(token))
        fences = Counter(vote.fence for vote in denied if vote.holder == token)
        locks.append(
            LockInfo(
                name,
                match["owner_label"] if match else masked_token(token),
                (match["since"] or "") if match else "",
                match["digits"] if match else "",
                None if left_ms is None else left_ms / 1000,
                tuple(None if vote.kind is Kind.SILENT else vote.holder == token for vote in round_result.votes),
                count >= round_result.quorum,
                max(fences, key=lambda fence: (fences[fence], fence)),
                0,
            )
        )
    return locks


def _with_waiters(
    locks: Sequence[LockInfo], probes: Sequence[NodeProbe], codec: Codec, reported: Sequence[Waiter]
) -> list[LockInfo]:
    """Add the number of waiters: the number of reported or of blocked clients, whichever is larger.

    A node reports the number of blocked clients without their resource. But all waiters of a resource block on the
    same node. With a prefix, clients of other projects can block there too, and their number says nothing.
    """
    waiters = WaiterPool([probe.node for probe in probes], codec)
    waited = {name for probe in probes for name in probe.waited.copy()}
    node_of = {name: waiters.node_for((name,)) for name in waited}
    resources_of = Counter(node_of.values())
    blocked: dict[Node, int] = {probe.node: probe.state.blocked for probe in probes}
    counts = Counter(waiter.resource for waiter in reported)

    def count(lock: LockInfo) -> int | None:
        node, known = node_of.get(lock.resource), counts[lock.resource]
        if node is None or not blocked[node]:
            return known
        return max(blocked[node], known) if resources_of[node] == 1 and not codec.prefix else known or None

    return [dataclasses.replace(lock, waiters=count(lock)) for lock in locks]
