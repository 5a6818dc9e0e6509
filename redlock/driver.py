"""All the links of one process to one group of nodes.

Rules of this file:
1. A set of links is used by one thread at a time; there are as many sets as threads are really inside an
   operation, up to a limit.
2. What belongs to one lease goes down the connections that took it, so that a release can't overtake an acquire.
3. A forked child shares nothing with its parent: it closes what it inherited without a word on the wire.
"""

from __future__ import annotations

import contextlib
import random
import threading
from typing import TYPE_CHECKING

from redlock.sync import Links

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from redlock.nodes import Node
    from redlock.wire import Codec

_MOST_SETS = 16


class Driver:
    """All the links of one process to one group of nodes; safe to share between threads and across fork."""

    def __init__(self, nodes: Sequence[Node], codec: Codec) -> None:
        self.nodes = tuple(nodes)
        self.codec = codec
        self._sets: list[Links] = []
        self._growing = threading.Lock()

    @contextlib.contextmanager
    def links(self, wanted: Links | None = None) -> Iterator[Links]:
        """A set of links for this thread alone: the wanted one if it is still there, else any."""
        links = self._take(wanted)
        try:
            yield links
        finally:
            links.lock.release()

    def _take(self, wanted: Links | None) -> Links:
        if wanted is not None and wanted in self._sets and wanted.lock.acquire(timeout=1.0):
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

    def close(self) -> None:
        """Close all connections. Leases that are still held run out with their TTL."""
        with self._growing:
            sets, self._sets = self._sets, []
        for links in sets:
            with links.lock:
                links.abandon()

    def forget(self) -> None:
        """In a forked child: the parent's connections are not ours."""
        sets, self._sets = self._sets, []
        self._growing = threading.Lock()
        for links in sets:
            links.abandon()
