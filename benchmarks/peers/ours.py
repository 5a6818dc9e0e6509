"""This project's lock, with its defaults; with `async-release` the setting for many short locks in sequence."""

from __future__ import annotations

import sys
from functools import partial

from benchmarks.worker import Peer, serve
from redlock import Lock, Redlock


class Ours(Peer):
    """This project's lock; `waits` is whether a release waits for the nodes."""

    def __init__(self, urls: list[str], ttl: float, *, waits: bool = True) -> None:
        self.client = Redlock(urls, ttl=ttl)
        self._waits = waits

    def acquire(self, name: str) -> Lock:
        """Acquire the lock."""
        lock = self.client.lock(name, wait_for_release=self._waits)
        lock.acquire()
        return lock


if __name__ == "__main__":
    from benchmarks.leases import hold

    serve(partial(Ours, waits="async-release" not in sys.argv), {"hold": hold})
