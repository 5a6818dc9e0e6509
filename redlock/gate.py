"""The queue inside a process: of all its threads that wait for the same thing, one at a time waits at the nodes.

Without it every waiting thread is one more client that splits votes at the nodes; with it the nodes see as many
waiters as there are processes.

Rules of this file:
1. First come, first served; one is in the line only while one waits, never while one holds a lease.
2. Who has waited for long enough may look at the nodes without its turn, and keeps its place.
3. An exception may strike anywhere: `leave` mends every state, so whoever entered leaves in a `finally`.
"""

from __future__ import annotations

import threading
from collections import deque
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from redlock.commands import Names


class _Place(NamedTuple):
    who: object
    turn: threading.Lock
    """Held until this is the front."""


class Gate:
    """The lines of one client, by what is waited for; the first in a line is at the front."""

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        """In a forked child: nobody waits here."""
        self._lines: dict[Names, deque[_Place]] = {}
        self._mutex = threading.Lock()

    def has_line(self, names: Names) -> bool:
        """Whether somebody waits for these at this moment."""
        return names in self._lines

    def length(self, names: Names) -> int:
        """How many wait for these."""
        return len(self._lines.get(names, ()))

    def enter(self, names: Names, who: object, seconds: float) -> bool:
        """Wait for this long to be at the front; whether others were before, or one was there at once."""
        with self._mutex:
            line = self._lines.setdefault(names, deque())
            place = next((one for one in line if one.who is who), None)
            if place is None:
                place = _Place(who, threading.Lock())
                place.turn.acquire()
                line.append(place)
            if line[0] is place:
                return False
        if place.turn.acquire(timeout=max(0.0, seconds)):
            # For whoever asks again.
            place.turn.release()
        return True

    def leave(self, names: Names, who: object) -> None:
        """Go, wherever in the line one is; the next one is at the front then, if one was."""
        with self._mutex:
            line = self._lines.get(names, deque())
            place = next((one for one in line if one.who is who), None)
            if place is None:
                return
            was_first = line[0] is place
            line.remove(place)
            if not line:
                del self._lines[names]
            elif was_first:
                line[0].turn.release()
