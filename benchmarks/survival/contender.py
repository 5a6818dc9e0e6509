"""A client of a lock, in the environment of its library: `python -m benchmarks.survival.contender PEER`.

Invariants:
1. The lock is built and used as in the benchmarks (`benchmarks/peers`).
2. A connection opens at the first request, so a node may be dead from the start.
3. An error of the library is a reply and does not end the process.

    connect  urls, ttl       make the client
    take     name            acquire the lock without a timeout, and keep the lock: times before and after
    drop                     release the lock
    read     store, fenced   read the counter on this server and add 1; `fenced`: through the fenced store
    write                    write the result of `read`
"""

from __future__ import annotations

import importlib
import sys
import time
from functools import partial
from typing import TYPE_CHECKING, Any

from redis import Redis

from benchmarks.survival.replies import reply_to_commands

if TYPE_CHECKING:
    from benchmarks.worker import Peer, Said

_CLASSES = {"ours": "Ours", "redlock_py": "RedlockPy", "redlock_ng": "RedlockNg", "pottery": "Pottery"}


class Player:
    """The commands for a peer."""

    def __init__(self, module: str) -> None:
        self._class: Any = getattr(importlib.import_module(f"benchmarks.peers.{module}"), _CLASSES[module])
        self._peer: Peer | None = None
        self._held: Any = None
        self._section: Any = None
        self._store: Any = None
        self._next = 0

    def connect(self, said: Said) -> Said:
        """Make the client."""
        self._peer = self._class(said["urls"], said["ttl"])
        return {"prefix": self._peer.prefix}

    def take(self, said: Said) -> Said:
        """Acquire the lock and keep it."""
        assert self._peer is not None
        since = time.monotonic()
        self._held = self._peer.acquire(said["name"])
        return {"since": since, "at": time.monotonic()}

    def drop(self, _said: Said) -> Said:
        """Release the lock."""
        assert self._peer is not None
        self._peer.release(self._held)
        return {}

    def read(self, said: Said) -> Said:
        """Read the counter and add 1."""
        if said["fenced"]:
            from redlock.fencing import FencedStore  # noqa: PLC0415 - the environments of the peers do not have it

            self._store = FencedStore(said["store"])
            self._section = self._store.open("counter", self._held.lease)
            self._next = int(self._section.value or 0) + 1
        else:
            self._store = Redis.from_url(said["store"])
            self._next = int(self._store.get("counter") or 0) + 1
        return {}

    def write(self, _said: Said) -> Said:
        """Write the result of `read`."""
        if self._section is not None:
            self._store.write(self._section, str(self._next), str(time.monotonic_ns()))
        else:
            self._store.set("counter", self._next)
        return {}


if __name__ == "__main__":
    _player = Player(sys.argv[1])
    reply_to_commands(partial(getattr, _player))
