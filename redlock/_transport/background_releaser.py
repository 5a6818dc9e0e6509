"""The thread for asynchronous releases: it sends those that were held back, and reads the answers.

Invariants:
1. The thread starts with the first asynchronous release, so after a fork.
2. A set of links that is in use is left alone: its user sends the releases and reads the answers.
3. The thread sleeps while the outcome of every release is known.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from redlock._background import Background
from redlock._log import logger

if TYPE_CHECKING:
    from redlock._transport.threads import NodeConnections

_TICK_SECONDS = 0.001
_LONGEST_TICK_SECONDS = 0.1
"""Where a set is in one long operation, and nothing changes."""


class BackgroundReleaser:
    """The sets of links with asynchronous releases under way."""

    def __init__(self) -> None:
        self.reset_after_fork()

    def reset_after_fork(self) -> None:
        """In a forked child: the parent's links and its thread are not ours."""
        self._rounds: dict[NodeConnections, int] = {}
        self._pause = _TICK_SECONDS
        self._background = Background("redlock-behind", self._work)

    def close(self) -> None:
        """End the thread."""
        self._rounds.clear()
        self._background.stop()

    def watch(self, links: NodeConnections) -> None:
        """Look after this set, which the caller has to itself, until the outcome of all its releases is known."""
        if links in self._rounds:
            return
        self._rounds[links] = links.rounds
        try:
            self._background.wake(0)
        except BaseException:
            # Without a thread: the next release tries again.
            self._rounds.pop(links, None)
            raise

    def _work(self) -> float | None:
        if not self._rounds:
            self._pause = _TICK_SECONDS
            return None
        time.sleep(self._pause)
        self._pause = min(2 * self._pause, _LONGEST_TICK_SECONDS)
        for links, rounds in list(self._rounds.items()):
            if links.rounds != rounds:
                self._rounds[links], self._pause = links.rounds, _TICK_SECONDS
                continue
            turn = links.turn()
            if turn is not None:
                self._pause = _TICK_SECONDS
                with turn:
                    self._look(links)
        return 0.0

    def _look(self, links: NodeConnections) -> None:
        try:
            links.poll()
            over = links.is_settled
        except Exception:  # noqa: BLE001 - whatever it is, the other sets must go on
            logger.exception("look-failed")
            over = True
        if over:
            self._rounds.pop(links, None)
