"""All the links of one process to one group of nodes.

Rules of this file:
1. A set of links is used by one thread at a time; there are as many sets as threads are really inside an
   operation, up to a limit. A thread that an exception strikes leaves its set to the next one.
2. What belongs to one lease goes down the connections that took it, so that a release can't overtake an acquire.
3. A forked child shares nothing with its parent: it closes what it inherited without a word on the wire.
4. Asynchronous releases have come to their end, and the nodes have read all commands, before the connections are
   closed; a node that does not answer for one node timeout is left behind.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

from redlock._clock import now_ms
from redlock._transport.background_releaser import BackgroundReleaser
from redlock._transport.threads import NodeConnections

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from redlock._core.protocol import Outcome, Steps
    from redlock._mutex import Turn
    from redlock._transport.codec import Codec
    from redlock._transport.node import Node

_MOST_SETS = 16
_SETTLE_SECONDS = 1.0


class ConnectionPool:
    """All the links of one process to one group of nodes; safe to share between threads and across fork."""

    def __init__(self, nodes: Sequence[Node], codec: Codec) -> None:
        self.nodes = tuple(nodes)
        self.codec = codec
        self._sets: list[NodeConnections] = []
        # A round is over by then. A set that is still in use may belong to an exception that is being handled.
        self._turn_seconds = 2 * nodes[0].timeout_ms / 1000
        self._behind = BackgroundReleaser()

    def connections(self, wanted: NodeConnections | None = None) -> Turn[NodeConnections]:
        """A set of links for this thread alone, for one `with` block.

        Args:
            wanted: The set to use if it is free within two node timeouts; otherwise any set.
        """
        if wanted is not None and wanted in self._sets:
            turn = wanted.turn(self._turn_seconds)
            if turn is not None:
                return turn
        while True:
            for links in self._sets:
                turn = links.turn()
                if turn is not None:
                    return turn
            if len(self._sets) < _MOST_SETS:
                self._sets.append(NodeConnections(self.nodes, self.codec))
            else:
                turn = random.choice(self._sets).turn(self._turn_seconds)  # noqa: S311 - spreads the waiting
                if turn is not None:
                    return turn

    def send_release(
        self, wanted: NodeConnections | None, steps: Steps[Outcome], done: Callable[[Outcome], None]
    ) -> None:
        """Send a release that nobody waits for; `done` is told what became of it, from whatever thread."""
        with self.connections(wanted) as links:
            links.send_release(steps, done)
            self._behind.watch(links)

    def await_releases(self) -> None:
        """Wait until the outcome of every release is known, and every node has what was sent to it.

        The first takes at most as long as a release may, the second one node timeout.
        """
        until_ms = now_ms() + self.nodes[0].timeout_ms
        for links in self._sets:
            turn = links.turn(_SETTLE_SECONDS)
            if turn is not None:
                with turn:
                    links.await_releases()
                    links.drain(until_ms)

    def close(self) -> None:
        """Close all connections. Leases that are still held run out with their TTL."""
        sets, self._sets = self._sets, []
        until_ms = now_ms() + self.nodes[0].timeout_ms
        for links in sets:
            turn = links.turn(_SETTLE_SECONDS)
            if turn is not None:
                with turn:
                    links.await_releases()
                    links.drain(until_ms)
                    links.abandon()
        self._behind.close()

    def reset_after_fork(self) -> None:
        """In a forked child: the parent's connections are not ours."""
        sets, self._sets = self._sets, []
        self._behind.reset_after_fork()
        for links in sets:
            links.abandon()
