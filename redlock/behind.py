"""The thread that looks after what nobody waits for: it sends what was held back, and hears what became of it.

Rules of this file:
1. It starts with the first release that is not waited for, so after the fork, and is a daemon.
2. A set of links that is in use is left alone: whoever uses it sends what was held back, and reads the answers.
3. It has nothing to do, and does nothing, where the outcome of every release is known.
"""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

from redlock.log import logger

if TYPE_CHECKING:
    from redlock.sync import Links

_TICK_SECONDS = 0.001
_LONGEST_TICK_SECONDS = 0.1
"""Where a set is in one long operation, and nothing changes."""
_IDLE_SECONDS = 60.0


class Behind:
    """The sets of links on which something is under way."""

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        """In a forked child: the parent's links and its thread are not ours."""
        self._rounds: dict[Links, int] = {}
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None

    def close(self) -> None:
        """End the thread."""
        with self._changed:
            self._rounds.clear()
            self._thread = None
            self._changed.notify()

    def watch(self, links: Links) -> None:
        """Look after this set, which the caller has to itself, until all that was begun there is over."""
        if links in self._rounds:
            return
        with self._changed:
            self._rounds[links] = links.rounds
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="redlock-behind", daemon=True)
                self._thread.start()
            else:
                self._changed.notify()

    def _run(self) -> None:
        pause = _TICK_SECONDS
        while self._has_work():
            time.sleep(pause)
            pause = min(2 * pause, _LONGEST_TICK_SECONDS)
            for links, rounds in list(self._rounds.items()):
                if links.rounds != rounds:
                    self._rounds[links], pause = links.rounds, _TICK_SECONDS
                elif links.lock.acquire(blocking=False):
                    pause = _TICK_SECONDS
                    with links:
                        self._look(links)

    def _has_work(self) -> bool:
        with self._changed:
            mine = self._thread is threading.current_thread()
            if mine and not self._rounds and not self._changed.wait(_IDLE_SECONDS) and not self._rounds:
                self._thread = None
            return self._thread is threading.current_thread()

    def _look(self, links: Links) -> None:
        try:
            links.look()
            over = links.is_settled
        except Exception:  # noqa: BLE001 - whatever it is, the other sets must go on
            logger.exception("look-failed")
            over = True
        if over:
            with self._changed:
                self._rounds.pop(links, None)
