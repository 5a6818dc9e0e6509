"""The verdict on a schedule: the promises, the time until everything has ended, and the remains."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from redlock._core.votes import quarantine_ms
from tests.sim import checks
from tests.sim.around import OTHERS
from tests.sim.world import MS

if TYPE_CHECKING:
    from tests.sim.clients import Client
    from tests.sim.nodes import Node
    from tests.sim.records import Lease
    from tests.sim.schedule import Schedule

_MANY = 500
"""More waits than a report has room for."""
_FORGED = (
    "no JSON",
    "[" * 10_000,
    '{"a": 1}',
    '[["a", "forged", 1]]',
    '[[["\\u0007"], "forged", 1], [[3], "forged", 1]]',
    '[[["x"], "forged", -1], [["x"], 3, 1], [["x"], "forged", 1e300]]',
    "[" + '[["a"], "forged", 1],' * 2_000 + "3]",
)
"""Texts of reports that no process writes; none names a resource that exists only there."""
_DELIVERIES = 2
_HANDOVER_MS = 1_250
"""The longest sleep of a waiter without a look at the nodes."""


def check_wait(schedule: Schedule, client: Client, waited_us: int) -> None:
    """A waiter without a time limit has ended its wait, this long after the faults stopped."""
    if waited_us > longest_wait_us(schedule):
        schedule.world.violation(f"{client.name} waited {waited_us / 1e6:.3f} s after the last fault")


def longest_wait_us(schedule: Schedule) -> int:
    """How long a waiter waits at most once the faults have stopped.

    Nodes abstain for a quarantine at most, and all keys of the dead expire meanwhile. After that each waiter before
    it holds the lock once.
    """
    options = schedule.options
    longest_ms = max(options.max_ttl_ms, options.stranger_ttl_ms)
    waiters = options.clients * options.threads
    return MS * (quarantine_ms(longest_ms) + longest_ms + waiters * (_hold_ms(schedule) + _HANDOVER_MS))


def _hold_ms(schedule: Schedule) -> int:
    """How long a thread holds the lock at most, with the repeated requests to the store."""
    options = schedule.options
    return 2 * options.think_ms + 16 * options.timeout_ms + 4 * options.ttl_ms


def longest_end_us(schedule: Schedule) -> int:
    """How long it takes at most until every operation has been done, from the moment at which the faults stop.

    Each operation is done by a lease of its own, at the first or a later delivery. A client without a time limit
    waits for its turn, and another client comes back after a pause.
    """
    options = schedule.options
    turn_ms = _hold_ms(schedule) + _HANDOVER_MS + 2 * options.timeout_ms + options.ttl_ms
    turn_ms += options.acquire_timeout_ms or 0
    left = schedule.open + len(schedule.queue)
    return longest_wait_us(schedule) + _DELIVERIES * left * turn_ms * MS


def check(schedule: Schedule) -> None:
    found: list[str] = []
    if schedule.options.keeps:
        strangers = [lease for lease in schedule.leases if lease.holder == "stranger"]
        others = [lease for lease in schedule.leases if lease.holder != "stranger"]
        covered = [lease for lease in schedule.leases if _is_covered(schedule, lease)]
        found += dict.fromkeys(checks.overlaps(strangers) + checks.overlaps(others) + checks.overlaps(covered))
    lost = {node.place: node.lost_at for node in schedule.nodes}
    always = schedule.options.keeps and schedule.options.wall_ok and not schedule.options.uneven_fences
    found += checks.tokens(schedule.leases, lost, always=always)
    found += checks.writes_in_order(schedule.writes)
    for name in ("a", "b"):
        value = int(schedule.store.field(f"store:{name}", "value") or 0)
        found += checks.counted(name, value, schedule.writes, schedule.operations)
    for what in found:
        schedule.world.violation(what)
    if schedule.options.reports:
        _check_reports(schedule)
    _check_leftovers(schedule)


def _check_reports(schedule: Schedule) -> None:
    """The reports of waits on the nodes can be read, and name resources of the schedule, also beside forged reports."""
    report: Any = schedule.source.package.module("_locking.wait_report")
    found: set[Any] = set()
    for number, node in enumerate(schedule.nodes):
        found |= report.decode(_run(schedule, node, report.read_command()), "")
        # The wait of a real process, which lasts until now, and another report that no process writes.
        wait = SimpleNamespace(names=("a",), owner_label=f"waiter-{number}", since=node.time_ms() / 1000)
        _run(schedule, node, report.write_command("real", report.encode([wait] * _MANY, "")))
        _run(schedule, node, report.write_command("forged", _FORGED[(schedule.options.seed + number) % len(_FORGED)]))
        reply = _run(schedule, node, report.read_command())
        read = report.decode(reply, "")
        if f"waiter-{number}" not in {label for _, label, _ in read}:
            schedule.world.violation(f"the report of a wait is not read: {reply}")
        found |= read
    for waiter in report.listed(found, {"a": "waiter-0"}):
        if waiter.resource not in {"a", "b", *OTHERS} or waiter.waiter == "waiter-0":
            schedule.world.violation(f"a report names {waiter}")


def _run(schedule: Schedule, node: Node, command: tuple[str | bytes, ...]) -> Any:  # noqa: ANN401 - Lua's
    _, script, keys, *words = command
    assert isinstance(script, bytes)
    reply = node.run_words(schedule.source.lua.by_text(script), int(keys), words)
    return [word.encode() if isinstance(word, str) else word for word in reply] if isinstance(reply, list) else reply


def _is_covered(schedule: Schedule, lease: Lease) -> bool:
    """Whether P1 covers the lease against leases of a client with another `max_ttl`.

    P1 requires one `max_ttl` for all clients. A node that restarts empty abstains for the longest quarantine that a
    client asked of the node since then. A client with a larger `max_ttl` that only holds its lease does not ask.
    """
    stranger_ttl_ms, max_ttl_ms = schedule.options.stranger_ttl_ms, schedule.options.max_ttl_ms
    is_shorter = stranger_ttl_ms < max_ttl_ms if lease.holder == "stranger" else max_ttl_ms < stranger_ttl_ms
    if stranger_ttl_ms in {0, max_ttl_ms} or is_shorter:
        return True
    lost_at = [moment for place in lease.answered for moment in schedule.nodes[place].lost_at]
    return not any(lease.began <= moment <= lease.end for moment in lost_at)


def _check_leftovers(schedule: Schedule) -> None:
    """A TTL after the last release no lock is left anywhere."""
    longest_ms = max(schedule.options.max_ttl_ms, schedule.options.stranger_ttl_ms)
    schedule.world.run(schedule.world.now + 4 * schedule.options.timeout_ms * MS + longest_ms * 3 * MS)
    for client in schedule.clients:
        client.crash()
    schedule.world.now += int(longest_ms * 1.1) * MS
    for node in schedule.nodes:
        for name in ("a", "b", *OTHERS):
            if schedule.options.keeps and node.get(name) is not None:
                schedule.world.violation(f"node {node.place} still has {name!r}")
