"""Encodes and decodes the reports of waiting processes, for `redlock status` and the page *Locks*.

Invariants:
1. A process with waits writes a report once a second to the node at which its waiters block.
2. A report is a hint for people: a lost, late or forged report changes no decision.
3. Pure functions. A report has a size limit. A report of an unexpected shape is ignored.
"""

from __future__ import annotations

import dataclasses
import json
import re
import time
from typing import TYPE_CHECKING

from redlock._escaping import bounded_label
from redlock._transport import codec, node_info

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from redlock._locking.wait_registry import PendingWait

KEY = f"{codec.INTERNAL}waits:"
"""The beginning of the keys with reports, after the prefix; the number of the period follows."""
PERIOD_SECONDS = 4
_WRITE, _READ = codec.Script.load("wait"), codec.Script.load("waits")
_LONGEST_READ, _MOST_REPORTS = 256 * 1024, 5_000
EVERY_SECONDS = 1.0
"""The time after which an unchanged report is written again."""
_OLDEST_MS = 3_500
"""An older report was not written again: its process has died, or cannot reach the node."""
_LONGEST_REPORT = 16_384
_MOST_WAITS = 5_000
"""The most waits of one node: each costs time, and a node or a worker can report any number."""
_SINCE = re.compile(r" since \S+\Z")
_LATEST = 10**11
"""A start at or after this many seconds since 1970 is not plausible."""


@dataclasses.dataclass(frozen=True)
class Waiter:
    """An acquisition that waits for a resource.

    Attributes:
        resource: The resource, without the prefix.
        waiter: The readable part of the waiter's owner token; for a Celery task, task id @ worker.
        since: The start of the wait by the waiter's clock, as `2026-11-24T12:00:00.123Z`; for a task under `@locked`
            its first delivery.
        position: The place among all waiters of the resource that are known, by the time at which they began.
        holder: The holder of the resource, empty if it is unknown.
    """

    resource: str
    waiter: str
    since: str
    position: int
    holder: str = ""


def write_command(process: str, text: str, prefix: str = "") -> tuple[str | bytes, ...]:
    """The command that writes a report."""
    return ("EVAL", _WRITE.source, "1", prefix + KEY, process, text, str(PERIOD_SECONDS))


def encode(waits: Sequence[PendingWait], prefix: str) -> str:
    """The report of these waits; empty if there is no wait."""
    rows = [[[prefix + name for name in wait.names], wait.owner_label, round(wait.since, 3)] for wait in waits]
    text = json.dumps(rows, ensure_ascii=False, separators=(",", ":"))
    while rows and len(text.encode()) > _LONGEST_REPORT:
        rows = rows[: len(rows) // 2]
        text = json.dumps(rows, ensure_ascii=False, separators=(",", ":"))
    return text if rows else ""


def read_command(prefix: str = "") -> tuple[str | bytes, ...]:
    """The command that reads all reports on a node."""
    return ("EVAL", _READ.source, "1", prefix + KEY, str(PERIOD_SECONDS), str(_LONGEST_READ), str(_MOST_REPORTS))


def decode(reply: object, prefix: str) -> set[tuple[str, str, float]]:
    """The waits in a node's reply to `read_command`, without the prefix: resource, owner label and start of each."""
    now, *reports = [node_info.text(word) for word in reply] if isinstance(reply, list) and reply else [""]
    newest: dict[str, tuple[int, str]] = {}
    for report in reports:
        process, _, rest = report.partition(" ")
        at, _, text = rest.partition(" ")
        newest[process] = max(newest.get(process, (0, "")), (node_info.number(at), text))
    found: set[tuple[str, str, float]] = set()
    for at_ms, text in newest.values():
        is_fresh = abs(node_info.number(now) - at_ms) <= _OLDEST_MS
        if text and is_fresh and len(text) <= _LONGEST_REPORT and len(found) < _MOST_WAITS:
            found.update(_waits(text, prefix))
    return found


def listed(waits: Iterable[tuple[str, str, float]], holders: dict[str, str]) -> tuple[Waiter, ...]:
    """Waiters by resource, each with its position and the holder of the resource.

    Args:
        waits: Resource, owner label and start of each.
        holders: The holder of each resource. A waiter that has become the holder is left out.
    """
    places: dict[str, int] = {}
    found = []
    for resource, label, since in sorted(waits, key=lambda wait: (wait[0], wait[2], wait[1])):
        # Only the last time is ours: a task id can contain another.
        waiter, holder = _SINCE.sub("", label), holders.get(resource, "")
        if waiter != holder:
            places[resource] = places.get(resource, 0) + 1
            found.append(Waiter(resource, waiter, iso(since), places[resource], holder))
    return tuple(found)


def iso(seconds: float) -> str:
    """Seconds since 1970 as `2026-11-24T12:00:00.123Z`."""
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(seconds))}.{int(seconds % 1 * 1000):03d}Z"


def _waits(text: str, prefix: str) -> list[tuple[str, str, float]]:
    try:
        rows = json.loads(text)
    except (ValueError, RecursionError):
        return []
    found = []
    for row in rows if isinstance(rows, list) else ():
        match row:
            case [list() as names, str() as label, int() | float() as since] if 0 <= since < _LATEST:
                resources = [name.removeprefix(prefix) for name in names if _is_ours(name, prefix)]
                # Once per row: a row can have thousands of names.
                waiter = bounded_label(label)
                found += [(name, waiter, float(since)) for name in resources if node_info.is_resource(name)]
    return found


def _is_ours(name: object, prefix: str) -> bool:
    return isinstance(name, str) and name.startswith(prefix) and name.isprintable()
