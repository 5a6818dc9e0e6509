"""The queue inside a process: of all its threads that wait for the same resources, one at a time waits at the nodes.

Without it every waiting thread is one more client that splits votes at the nodes; with it the nodes see as many
waiters as there are processes.

Invariants:
1. First come, first served. A thread has a place only while it waits, never while it holds a lease.
2. A thread that has waited for long enough may ask the nodes without its turn, and keeps its place.
3. A place that is dropped is given up: an exception may strike anywhere. The next thread finds out when its own time
   is over. No lock is needed: each change of a line is one operation on a list.
"""

from __future__ import annotations

import contextlib
import weakref
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from redlock._core.commands import Names

_Line: TypeAlias = "list[weakref.ref[Place]]"


class LocalWaitQueue:
    """The lines of one client, by what is waited for."""

    def __init__(self) -> None:
        self.reset_after_fork()

    def reset_after_fork(self) -> None:
        """In a forked child: the threads that wait are not ours."""
        self._lines: dict[Names, _Line] = {}

    def has_line(self, names: Names) -> bool:
        """Whether a thread waits for these at this moment."""
        return bool(self._lines.get(names))

    def length(self, names: Names) -> int:
        """How many threads wait for these."""
        return len(self._lines.get(names, ()))

    def join(self, names: Names) -> Place:
        """A place at the end of the line."""
        return Place(self._lines, names)


class Place:
    """A thread's place in a line.

    Args:
        lines: All lines.
        names: Which line.
    """

    def __init__(self, lines: dict[Names, _Line], names: Names) -> None:
        self._lines, self._names = lines, names
        self._turn: SimpleQueue[None] = SimpleQueue()
        # The line is empty and gone where another thread leaves it just now: then this place is first in a line of
        # its own, which costs a split vote at most.
        self._line = lines.setdefault(names, [])
        self._line.append(weakref.ref(self, self._line.remove))

    def wait(self, seconds: float) -> bool:
        """Wait to be at the front, at most this long; False if it was there at once."""
        if self._first() is self:
            return False
        with contextlib.suppress(Empty):
            self._turn.get(timeout=max(0.0, seconds))
        return True

    def leave(self) -> None:
        """Go, from wherever in the line; again is no error."""
        with contextlib.suppress(ValueError):
            self._line.remove(weakref.ref(self))
        first = self._first()
        if first is not None:
            first._turn.put(None)  # noqa: SLF001 - of this class
        elif self._lines.get(self._names) is self._line:
            self._lines.pop(self._names, None)

    def _first(self) -> Place | None:
        try:
            return self._line[0]()
        except IndexError:
            return None
