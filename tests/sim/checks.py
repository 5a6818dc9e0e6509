"""The promises as functions over records: each returns the violations as text."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.sim.records import Lease, Operation, Write


def overlaps(leases: Iterable[Lease]) -> list[str]:
    """P1: two valid leases on one resource at one instant."""
    by_name: defaultdict[str, list[Lease]] = defaultdict(list)
    for lease in leases:
        for name in lease.names:
            by_name[name].append(lease)
    found = []
    for name, held in by_name.items():
        held.sort(key=lambda lease: (lease.start, lease.end))
        last: Lease | None = None
        for lease in held:
            if last is not None and lease.start < last.end and lease.end > lease.start:
                found.append(
                    f"two leases on {name!r}: {last.fence} of {last.holder} to {last.end / 1e6:.6f} s, "
                    f"{lease.fence} of {lease.holder} from {lease.start / 1e6:.6f} s"
                )
            if last is None or lease.end > last.end:
                last = lease
    return found


def tokens(leases: Sequence[Lease], lost: Mapping[int, Sequence[int]], *, always: bool) -> list[str]:
    """P2: unique, and larger than every token of a lease that was complete before the attempt began.

    Args:
        leases: All of them.
        lost: For each node, the times of its losses of memory.
        always: Whether the promise must hold even if no common node kept its memory (wall clocks are right).
    """
    found = []
    ordered = sorted(leases, key=lambda lease: lease.start)
    for place, later in enumerate(ordered):
        for earlier in ordered[:place]:
            if not set(earlier.names) & set(later.names):
                continue
            # Either may have got its votes first: a client that was granted later can have begun, and been stopped,
            # before.
            began = min(earlier.began, later.began)
            kept = always or any(
                not any(began <= loss <= later.start for loss in lost.get(node, ()))
                for node in earlier.certificate & later.answered
            )
            if kept and later.fence == earlier.fence:
                found.append(f"token {later.fence} was given to {earlier.holder} and to {later.holder}")
            if kept and earlier.start <= later.began and later.fence <= earlier.fence:
                found.append(f"token {later.fence} of {later.holder} is not above {earlier.fence} of {earlier.holder}")
    return found


def writes_in_order(writes: Iterable[Write]) -> list[str]:
    """P3: accepted tokens never go back."""
    found: list[str] = []
    last: defaultdict[str, tuple[int, int]] = defaultdict(lambda: (0, 0))
    for write in writes:
        if (write.fence, write.section) <= last[write.name]:
            found.append(f"{write.name}: token {write.fence} section {write.section} accepted after {last[write.name]}")
        last[write.name] = (write.fence, write.section)
    return found


def counted(name: str, counter: int, writes: Iterable[Write], operations: Iterable[Operation]) -> list[str]:
    """P3: the counter is the number of distinct operations; none lost, none twice, every acknowledged one applied."""
    applied = Counter(write.identity for write in writes if write.name == name)
    found = [f"operation {identity} was applied {times} times" for identity, times in applied.items() if times > 1]
    if counter != len(applied):
        found.append(f"counter {name} is {counter}, and {len(applied)} operations were applied")
    found += [
        f"operation {operation.identity} was acknowledged and never applied"
        for operation in operations
        if operation.names[0] == name and operation.acknowledged and operation.identity not in applied
    ]
    return found
