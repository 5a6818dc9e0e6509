"""What happened, as every process tells it: one file per process, one line per event, merged by time afterwards.

Rules of this file:
1. A line is one write(2) to a file that is open for appending: whoever is killed loses no line that he has written,
   and leaves no half of one.
2. Times are the monotonic clock's, which all processes of one machine share.
3. An event that says what is about to happen is written before it, one that says what came of it after it.

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
    """One line.

    Attributes:
        at: When, in microseconds of the monotonic clock.
        pid: Who.
        what: Which event.
        op: The operation, if it is about one.
        fields: The rest.
    """

    at: int
    pid: int
    what: str
    op: str
    fields: dict[str, Any]


def note(what: str, op: str = "", **fields: object) -> None:
    """Append an event to this process' file; nothing where the environment names no directory."""
    directory = os.environ.get(WHERE)
    if directory is not None:
        append(directory, what, op, fields)


def append(directory: str, what: str, op: str, fields: dict[str, Any]) -> None:
    """Append an event to this process' file in that directory."""
    pid = os.getpid()
    if (pid, directory) not in _files:
        # The time keeps a process apart from an earlier one that had the same number.
        path = Path(directory) / f"{pid}-{time.monotonic_ns()}.history"
        _files[pid, directory] = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    line = json.dumps([time.monotonic_ns() // 1000, pid, what, op, fields], separators=(",", ":"))
    os.write(_files[pid, directory], line.encode() + b"\n")


class History:
    """All events of a run so far, in the order of time; looking again reads only what is new."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._read: dict[Path, int] = {}
        self._events: list[Event] = []

    def events(self, *whats: str, op: str | None = None) -> list[Event]:
        """These kinds of event (all if none is named), of this operation or of any."""
        self._look()
        return [
            event for event in self._events if (not whats or event.what in whats) and (op is None or event.op == op)
        ]

    def _look(self) -> None:
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
