"""All the links of one process to one group of nodes.

Rules of this file:
1. A set of links is used by one thread at a time; there are as many sets as threads are really inside an
   operation, up to a limit.
2. What belongs to one lease goes down the connections that took it, so that a release can't overtake an acquire.
3. A forked child shares nothing with its parent: it closes what it inherited without a word on the wire.
4. Asynchronous releases have come to their end, and the nodes have read all commands, before the connections are
   closed; a node that does not answer for one node timeout is left behind.
"""

from __future__ import annotations

import random
import threading
from typing import TYPE_CHECKING

from redlock.behind import Behind
from redlock.clock import now_ms
from redlock.sync import Links

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from redlock.nodes import Node
    from redlock.protocol import Outcome, Steps
    from redlock.wire import Codec

_MOST_SETS = 16
_TURN_SECONDS = 1.0


class Driver:
    """All the links of one process to one group of nodes; safe to share between threads and across fork."""

    def __init__(self, nodes: Sequence[Node], codec: Codec) -> None:
        self.nodes = tuple(nodes)
        self.codec = codec
        self._sets: list[Links] = []
        self._growing = threading.Lock()
        self._behind = Behind()

    def links(self, wanted: Links | None = None) -> Links:
        """A set of links for this thread alone, for one `with` block: the wanted one if it is there, else any."""
        if wanted is not None and wanted in self._sets and wanted.lock.acquire(timeout=_TURN_SECONDS):
            return wanted
        for links in self._sets:
            if links.lock.acquire(blocking=False):
                return links
        with self._growing:
            if len(self._sets) < _MOST_SETS:
                links = Links(self.nodes, self.codec)
                links.lock.acquire()
                self._sets.append(links)
                return links
        links = random.choice(self._sets)  # noqa: S311 - spreads the waiting, guards nothing
        links.lock.acquire()
        return links

    def begin(self, wanted: Links | None, steps: Steps[Outcome], done: Callable[[Outcome], None]) -> None:
        """Send a release that nobody waits for; `done` is told what became of it, from whatever thread."""
        with self.links(wanted) as links:
            links.begin(steps, done)
            self._behind.watch(links)

    def settle(self) -> None:
        """Wait until the outcome of every release is known, and every node has what was sent to it.

        The first takes at most as long as a release may, the second one node timeout.
        """
        until_ms = now_ms() + self.nodes[0].timeout_ms
        for links in self._sets:
            if links.lock.acquire(timeout=_TURN_SECONDS):
                with links:
                    links.settle()
                    links.drain(until_ms)

    def close(self) -> None:
        """Close all connections. Leases that are still held run out with their TTL."""
        with self._growing:
            sets, self._sets = self._sets, []
        until_ms = now_ms() + self.nodes[0].timeout_ms
        for links in sets:
            if links.lock.acquire(timeout=_TURN_SECONDS):
                with links:
                    links.settle()
                    links.drain(until_ms)
                    links.abandon()
        self._behind.close()

    def forget(self) -> None:
        """In a forked child: the parent's connections are not ours."""
        sets, self._sets = self._sets, []
        self._growing = threading.Lock()
        self._behind.forget()
        for links in sets:
            links.abandon()
