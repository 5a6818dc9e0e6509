"""Background thread: sends releases that were held back and bytes that a full socket refused, and reads the replies.

Invariants:
1. The thread starts with the first such release or refusal, so after a fork.
2. The thread does not touch a connection set that is in use: its user sends the releases and reads the replies.
3. The thread sleeps while the outcome of every release is known, and all bytes are sent.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from redlock._background import Background

if TYPE_CHECKING:
    from redlock._transport.threads import ConnectionSet

_TICK_SECONDS = 0.001
_LONGEST_TICK_SECONDS = 0.02
"""The pause while a set is in a long operation or its sockets are full, and nothing changes."""


class BackgroundReleaser:
    """The connection sets with asynchronous releases of unknown outcome, or with bytes that a socket refused."""

    def __init__(self) -> None:
        self.reset_after_fork()

    def reset_after_fork(self) -> None:
        """In a forked child: drop the parent's connections and its thread."""
        self._rounds: dict[ConnectionSet, int] = {}
        self._pause = _TICK_SECONDS
        self._background = Background("redlock-releases", self._work)

    def close(self) -> None:
        """End the thread."""
        self._rounds.clear()
        self._background.stop()

    def watch(self, connections: ConnectionSet) -> None:
        """Poll this set until the set is settled. The caller must have the turn of the set."""
        if connections in self._rounds:
            return
        self._rounds[connections] = connections.rounds
        try:
            self._background.wake(0)
        except BaseException:
            # Without a thread: the next release tries again.
            self._rounds.pop(connections, None)
            raise

    def _work(self) -> float | None:
        if not self._rounds:
            self._pause = _TICK_SECONDS
            return None
        time.sleep(self._pause)
        self._pause = min(2 * self._pause, _LONGEST_TICK_SECONDS)
        for connections, rounds in list(self._rounds.items()):
            if connections.rounds != rounds:
                self._rounds[connections], self._pause = connections.rounds, _TICK_SECONDS
                continue
            turn = connections.turn()
            if turn is not None:
                with turn:
                    self._poll(connections)
        return 0.0

    def _poll(self, connections: ConnectionSet) -> None:
        unsent = connections.state.unsent
        # An error ends the polls of this set only: `Background` logs the error, and goes on with the other sets.
        rounds = self._rounds.pop(connections, connections.rounds)
        connections.poll()
        if not unsent or connections.state.unsent != unsent:
            self._pause = _TICK_SECONDS
        if not connections.is_settled:
            self._rounds[connections] = rounds
