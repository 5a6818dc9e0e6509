"""Checks a run against the promises, by the history of all processes and the writes that the store accepted.

Invariants:
1. The checks are `tests.sim.checks`, which the simulator uses too. This module builds their records.
2. P2 and P3 are always checked; P1 only for a run that kept its conditions.
3. `Figures` counts the events of a run, so that a test can tell a hard run from a run without incidents.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from tests.faults.accepted import Accepted
from tests.faults.history import Event
from tests.sim import checks
from tests.sim.records import Lease, Operation

_WINDOW = 400


class Figures(NamedTuple):
    """The counts of a run.

    Attributes:
        sent: Operations that were sent.
        applied: Operations that the store accepted.
        lost: Sent, and never applied.
        doubled: Applied more than once, plus the difference between the counter and the number of operations.
        stale_accepted: Writes that the store should have refused.
        stale_refused: Reads and writes that the store refused.
        again: Operations that were begun more than once.
        together: Operations of which two copies ran at once.
        leases: Leases that were granted.
    """

    sent: int
    applied: int
    lost: int
    doubled: int
    stale_accepted: int
    stale_refused: int
    again: int
    together: int
    leases: int


def violations(events: Sequence[Event], accepted: Accepted, *, keeps: bool, settled: bool = True) -> list[str]:
    """The violations of the promises as text; empty for a correct run.

    Args:
        events: The merged history.
        accepted: The writes that the store accepted.
        keeps: Whether the run kept the conditions of P1: no lock's key was deleted, no clock jumped.
        settled: Whether everything that was sent should be done by now.
    """
    granted = leases(events)
    operations = sent(events)
    found = checks.overlaps(granted) if keeps else []
    found += tokens(granted)
    found += checks.writes_in_order(accepted.writes)
    found += stale_accepted(events, accepted)
    for name in sorted({write.name for write in accepted.writes} | {operation.names[0] for operation in operations}):
        found += checks.counted(name, accepted.counters.get(name, 0), accepted.writes, operations)
    if settled:
        applied = {write.identity for write in accepted.writes}
        found += [f"operation {one.identity} was lost" for one in operations if one.identity not in applied]
    return found


def sent(events: Iterable[Event]) -> list[Operation]:
    """The sent operations; an operation is acknowledged if its task ended after the write."""
    operations: dict[str, Operation] = {}
    for event in events:
        if event.what == "sent":
            operations[event.op] = Operation(event.op, (event.fields["name"],))
        elif event.what == "ack" and event.op in operations:
            operations[event.op].acknowledged = True
    return list(operations.values())


def leases(events: Iterable[Event]) -> list[Lease]:
    """The leases, each until its release or its expiry in the view of its holder."""
    found: dict[tuple[int, int], Lease] = {}
    began: dict[tuple[int, str], int] = {}
    for event in events:
        fence = event.fields.get("fence")
        lease = found.get((event.pid, fence)) if fence is not None else None
        if event.what == "invoke":
            began[event.pid, event.op] = event.at
        elif event.what == "grant":
            names, since = (event.fields["name"],), began.get((event.pid, event.op), event.at)
            found[event.pid, event.fields["fence"]] = Lease(
                f"{event.op}@{event.pid}", names, event.fields["fence"], since, event.at,
                event.fields["until"], frozenset(), frozenset(),
            )  # fmt: skip
        elif event.what == "leave" and lease is not None:
            lease.end = min(lease.end, event.at)
        elif lease is not None and event.at < event.fields.get("until", 0):
            lease.end = max(lease.end, event.fields["until"])
    return list(found.values())


def tokens(granted: Iterable[Lease]) -> list[str]:
    """P2, wall clocks being right: in windows, for the check compares each lease with each."""
    found = []
    by_name: defaultdict[str, list[Lease]] = defaultdict(list)
    for lease in granted:
        by_name[lease.names[0]].append(lease)
    for some in by_name.values():
        some.sort(key=lambda lease: lease.start)
        for first in range(0, max(1, len(some) - _WINDOW // 2), _WINDOW // 2):
            found += checks.tokens(some[first : first + _WINDOW], {}, always=True)
        twice = [token for token, times in Counter(lease.fence for lease in some).items() if times > 1]
        found += [f"token {token} was given more than once" for token in twice]
    return list(dict.fromkeys(found))


def stale_accepted(events: Iterable[Event], accepted: Accepted) -> list[str]:
    """Writes that took effect in another section than the section of their writers."""
    meant: defaultdict[tuple[str, int], set[int]] = defaultdict(set)
    for event in events:
        if event.what == "writing":
            meant[event.op, event.fields["fence"]].add(event.fields["section"])
    found = list(accepted.stale)
    for write in accepted.writes:
        sections = meant[write.identity, write.fence]
        if write.section not in sections:
            found.append(f"{write.name}: {write.identity} was accepted in section {write.section}, not in {sections}")
    return found


def figures(events: Sequence[Event], accepted: Accepted) -> Figures:
    operations = {operation.identity for operation in sent(events)}
    applied = Counter(write.identity for write in accepted.writes)
    invoked = Counter(event.op for event in events if event.what == "invoke")
    return Figures(
        sent=len(operations),
        applied=len(applied),
        lost=len(operations - applied.keys()),
        doubled=sum(times - 1 for times in applied.values())
        + abs(sum(accepted.counters.values()) - sum(applied.values())),
        stale_accepted=len(stale_accepted(events, accepted)),
        stale_refused=sum(event.what == "stale" for event in events),
        again=sum(times > 1 for times in invoked.values()),
        together=_together(events),
        leases=sum(event.what == "grant" for event in events),
    )


def _together(events: Iterable[Event]) -> int:
    """The number of operations with a copy that began during another copy's run and ended after that."""
    running: defaultdict[str, set[int]] = defaultdict(set)
    beside: defaultdict[tuple[str, int], set[str]] = defaultdict(set)
    for event in events:
        if event.what == "invoke":
            for pid in running[event.op] - {event.pid}:
                beside[event.op, pid].add(event.op)
            running[event.op].add(event.pid)
        elif event.what == "end":
            running[event.op].discard(event.pid)
            if beside.pop((event.op, event.pid), None):
                beside["", 0].add(event.op)
    return len(beside["", 0])
