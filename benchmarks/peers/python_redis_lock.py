"""python-redis-lock: a single node, waiters block on a list."""

from __future__ import annotations

import importlib
from typing import Any

from redis import Redis

from benchmarks.worker import Peer, serve


class PythonRedisLock(Peer):
    """python-redis-lock on the first node."""

    prefix = "lock:"

    def __init__(self, urls: list[str], ttl: float) -> None:
        self._class: Any = importlib.import_module("redis_lock").Lock
        # No socket timeout, because a waiter blocks at the server until the lock is free.
        self._redis = Redis.from_url(urls[0])
        self._ttl = int(ttl)

    def acquire(self, name: str) -> object:
        """Acquire the lock."""
        lock = self._class(self._redis, name, expire=self._ttl)
        lock.acquire()
        return lock


if __name__ == "__main__":
    serve(PythonRedisLock)
