"""The history of a run: a file per process, one line per event, merged by time afterwards.

Invariants:
1. A line is one write(2) to a file in append mode: a killed process loses no written line and leaves no partial line.
2. Times come from the monotonic clock, which all processes of a machine share.
3. An event of an intention is written before the action, and an event of a result after the action.

The events: `sent`, `invoke`, `grant`, `open`, `writing`, `wrote`, `stale`, `leave`, `release`, `ack`, `fault`.
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any, NamedTuple

WHERE = "FAULTS_HISTORY"
"""The environment variable that names the directory."""

_files: dict[tuple[int, str], int] = {}


class Event(NamedTuple):
    """An event of a history.

    Attributes:
        at: The time in microseconds of the monotonic clock.
        pid: The process id.
        what: The kind of event.
        op: The id of the operation; empty for an event without an operation.
        fields: The other fields.
    """

    at: int
    pid: int
    what: str
    op: str
    fields: dict[str, Any]


def note(what: str, op: str = "", **fields: object) -> None:
    """Append an event to this process' file. Without a directory in the environment, nothing is written."""
    directory = os.environ.get(WHERE)
    if directory is not None:
        append(directory, what, op, fields)


def append(directory: str, what: str, op: str, fields: dict[str, Any]) -> None:
    """Append an event to this process' file in that directory."""
    pid = os.getpid()
    if (pid, directory) not in _files:
        # The time tells a process from an earlier process with the same id.
        path = Path(directory) / f"{pid}-{time.monotonic_ns()}.history"
        _files[pid, directory] = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    line = json.dumps([time.monotonic_ns() // 1000, pid, what, op, fields], separators=(",", ":"))
    os.write(_files[pid, directory], line.encode() + b"\n")


class History:
    """All events of a run so far, in the order of time. Each call reads only new lines."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._read: dict[Path, int] = {}
        self._events: list[Event] = []

    def events(self, *whats: str, op: str | None = None) -> list[Event]:
        """These kinds of event (all if none is named), of this operation or of any."""
        self._read_new()
        return [
            event for event in self._events if (not whats or event.what in whats) and (op is None or event.op == op)
        ]

    def _read_new(self) -> None:
        fresh = []
        for path in self._directory.glob("*.history"):
            with path.open("rb") as file:
                file.seek(self._read.get(path, 0))
                data = file.read()
            whole = data[: data.rfind(b"\n") + 1]
            self._read[path] = self._read.get(path, 0) + len(whole)
            fresh += [Event(*json.loads(line)) for line in whole.splitlines()]
        if fresh:
            self._events += fresh
            self._events.sort(key=lambda event: event.at)
