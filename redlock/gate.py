"""The queue inside a process: of all its threads that wait for the same thing, one at a time waits at the nodes.

Without it every waiting thread is one more client that splits votes at the nodes; with it the nodes see as many
waiters as there are processes.

Rules: first come, first served; the front is held only while somebody waits, never while a lease is held; who has
waited for long enough goes on without its turn.
"""

from __future__ import annotations

import threading
from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from redlock.commands import Names


_turn = threading.Lock
"""Held until it is one's turn."""


class Gate:
    """The lines of one client, by what is waited for."""

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        """In a forked child: nobody waits here."""
        self._lines: dict[Names, deque[threading.Lock]] = {}
        self._mutex = threading.Lock()

    def has_line(self, names: Names) -> bool:
        """Whether somebody waits for these at this moment."""
        return names in self._lines

    def length(self, names: Names) -> int:
        """How many wait for these: the one at the front, and those behind."""
        with self._mutex:
            line = self._lines.get(names)
            return 0 if line is None else 1 + len(line)

    def enter(self, names: Names, seconds: float) -> tuple[bool, bool]:
        """Wait for this long to be at the front: whether one is, and has to `leave`; and whether others were before."""
        with self._mutex:
            line = self._lines.get(names)
            if line is None:
                self._lines[names] = deque()
                return True, False
            turn = _turn()
            turn.acquire()
            line.append(turn)
        try:
            in_front = turn.acquire(timeout=max(0.0, seconds)) or not self._withdraw(line, turn)
        except BaseException:
            if not self._withdraw(line, turn):
                self.leave(names)
            raise
        return in_front, True

    def _withdraw(self, line: deque[threading.Lock], turn: threading.Lock) -> bool:
        """Step out of the line; False if it was one's turn at that very moment."""
        with self._mutex:
            if turn not in line:
                return False
            line.remove(turn)
            return True

    def leave(self, names: Names) -> None:
        """Let the next one to the front."""
        with self._mutex:
            line = self._lines[names]
            if line:
                line.popleft().release()
            else:
                del self._lines[names]
