"""redlock-py: a request to each node in turn, through Redis clients that have timeouts."""

from __future__ import annotations

import importlib
from typing import Any

from redis import Redis

from benchmarks.worker import Peer, serve, server_options


class RedlockPy(Peer):
    """redlock-py."""

    def __init__(self, urls: list[str], ttl: float) -> None:
        # By name, because here `redlock` is not this project's package.
        module = importlib.import_module("redlock")
        servers = [Redis.from_url(url, **server_options()) for url in urls]
        self._redlock: Any = module.Redlock(servers, retry_count=1, retry_delay=0.01)
        self._ttl_ms = int(ttl * 1000)

    def acquire(self, name: str) -> object:
        """Acquire the lock."""
        while not (held := self._redlock.lock(name, self._ttl_ms)):
            pass
        return held

    def release(self, held: object) -> None:
        """Release the lock."""
        self._redlock.unlock(held)


if __name__ == "__main__":
    serve(RedlockPy)
