"""A hot lock: eight processes increment a counter on a sixth server under the lock.

The figures are hand-overs per second, hand-overs to another client, waits, fairness, and the state of the counter. A
second part has 256 waiters, threads of the same eight processes, for this lock and the best of the other quorum locks.
"""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING, Any, NamedTuple

from redis import Redis

from benchmarks.bench import TTL, lock_nodes, nodes_of, sixth_server
from benchmarks.environment import ASYNC_RELEASE, FLOORS, LIMIT, OURS
from benchmarks.process import START_SECONDS, PeerFailed
from benchmarks.report import Table, median, micros, quantile, ratio, spread

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import TypeAlias

    from benchmarks.bench import Bench
    from benchmarks.environment import Kind
    from benchmarks.report import Cell

    Found: TypeAlias = "dict[Kind, list[Round]]"

PROCESSES = 8
MANY = 256
_START, _TIMEOUT = 0.3, 30.0
_LEAD, _LEAD_EACH = 0.5, 0.02
"""Seconds that do not count, and further seconds per waiter: clients connect at their first request."""


class Load(NamedTuple):
    """The competing clients.

    Attributes:
        urls: The addresses of the lock nodes.
        store: The address of the server with the counter.
        waiters: Number of clients, in at most eight processes.
        seconds: Duration.
    """

    urls: Sequence[str]
    store: str
    waiters: int
    seconds: float


class Round(NamedTuple):
    """The figures of a round.

    Attributes:
        rate: Hand-overs per second.
        changed: Hand-overs per second to another client; in the others the same client acquires the lock again.
        wait_ms: The time of each acquire.
        fairness: Acquires of the least served process relative to the most served process.
        wrong: Whether the counter is wrong.
        cpu: CPU seconds of all clients per hand-over.
    """

    rate: float
    changed: float
    wait_ms: list[float]
    fairness: float
    wrong: bool
    cpu: float


def run(bench: Bench) -> list[Table]:
    """Measure all peers with eight waiters, then the best two with eight and many waiters in turn."""
    with lock_nodes() as nodes, sixth_server() as sixth:
        load = Load(nodes.urls, sixth.url, PROCESSES, bench.seconds(6.0))
        (few,) = _rounds(bench, bench.kinds(LIMIT, ASYNC_RELEASE, *FLOORS), [load], bench.rounds(5))
        others = [kind for kind in few if kind is not OURS and kind.quorum and few[kind]]
        best = max(others, key=lambda kind: median([one.rate for one in few[kind]]) or 0.0, default=None)
        crowd = [OURS] if best is None else [OURS, best]
        beside, many = _rounds(bench, crowd, [load, load._replace(waiters=MANY)], bench.rounds(5))
    return [_table(few, beside, many)]


def _rounds(bench: Bench, kinds: Sequence[Kind], loads: Sequence[Load], rounds: int) -> list[Found]:
    """Measure these peers with the loads in turn, and return the rounds of each load."""
    found: list[Found] = [{kind: [] for kind in kinds} for _ in loads]
    waiters = " and ".join(str(load.waiters) for load in loads)
    for _ in bench.each(rounds, f"{waiters} waiters, "):
        for kind in kinds:
            for load, one in zip(loads, found, strict=True):
                try:
                    one[kind].append(once(bench, kind, load))
                except PeerFailed as why:
                    bench.missing[f"{kind.name}, {load.waiters} waiters, a round"] = str(why)
    return found


def once(bench: Bench, kind: Kind, load: Load) -> Round:
    """Measure one round of a peer in fresh processes."""
    processes = min(load.waiters, PROCESSES)
    with contextlib.ExitStack() as stack, Redis.from_url(load.store) as counter:
        running = [stack.enter_context(bench.process(kind)) for _ in range(processes)]
        for process in running:
            process.tell("connect", urls=nodes_of(kind, load.urls), ttl=TTL)
        for process in running:
            process.hear(START_SECONDS)
        counter.set("counter", 0)
        # A fresh name, because a failed round may leave its key behind.
        said = {
            "name": f"hot:{time.monotonic_ns()}",
            "store": load.store,
            "threads": load.waiters // processes,
            "at": time.monotonic() + _START,
            "lead": _LEAD + _LEAD_EACH * load.waiters,
            "seconds": load.seconds,
        }
        for process in running:
            process.tell("hot", **said)
        answers = [process.hear(load.seconds + _TIMEOUT) for process in running]
        return _round(answers, int(counter.get("counter") or 0), load.seconds)


def _round(answers: Sequence[dict[str, Any]], counter: int, seconds: float) -> Round:
    for answer in answers:
        if answer["failures"]:
            raise PeerFailed(answer["error"])
    served = [sum(answer["counts"]) for answer in answers]
    waits = [one for answer in answers for one in answer["wait_ms"]]
    total, early = sum(served), sum(answer["early"] for answer in answers)
    cpu = sum(answer["cpu"] for answer in answers) / max(1, total + early)
    changed = total - sum(answer["again"] for answer in answers)
    return Round(
        total / seconds, changed / seconds, waits, min(served) / max(1, *served), counter != total + early, cpu
    )


def _rate(rounds: Sequence[Round]) -> float | None:
    return median([one.rate for one in rounds])


def _table(few: Found, beside: Found, many: Found) -> Table:
    ours, ours_changed = [one.rate for one in few[OURS]], [one.changed for one in few[OURS]]
    rows: list[list[Cell]] = []
    for kind, rounds in few.items():
        if not rounds:
            continue
        rates, changed = [one.rate for one in rounds], [one.changed for one in rounds]
        waits = [wait for one in rounds for wait in one.wait_ms]
        crowd, alone = _rate(many.get(kind, [])), _rate(beside.get(kind, []))
        rows.append([
            kind.name, median(rates), spread(rates), ratio(ours, rates), median(changed), ratio(ours_changed, changed),
            quantile(waits, 0.5), quantile(waits, 0.99), max(waits), median([one.fairness for one in rounds]),
            f"WRONG in {wrong} of {len(rounds)}" if (wrong := sum(one.wrong for one in rounds)) else "right",
            micros([one.cpu for one in rounds]), None if crowd is None or not alone else crowd / alone,
        ])  # fmt: skip
    columns = (
        "", "hand-overs/s", "min .. max", "ours is x", "to others/s", "to others, x", "wait p50 ms", "wait p99 ms",
        "max", "least/most", "counter", "client CPU us", f"{MANY} / {PROCESSES} waiters",
    )  # fmt: skip
    parts = {str(PROCESSES): few, f"{PROCESSES}, beside {MANY}": beside, str(MANY): many}
    raw = {
        kind.name: {part: [one._replace(wait_ms=[]) for one in found.get(kind, [])] for part, found in parts.items()}
        for kind in few
    }
    title = f"one lock, {PROCESSES} processes, a counter read and written inside"
    return Table("hot", title, columns, rows, bars="hand-overs/s", raw=raw)
