"""redis-py's own `Lock`: a single node, and a fixed sleep between attempts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from redis import Redis

from benchmarks.worker import Peer, serve, server_options

if TYPE_CHECKING:
    from redis.lock import Lock


class RedisPy(Peer):
    """redis-py's Lock on the first node."""

    def __init__(self, urls: list[str], ttl: float) -> None:
        self._redis = Redis.from_url(urls[0], **server_options())
        self._ttl = ttl

    def acquire(self, name: str) -> Lock:
        """Acquire the lock."""
        lock: Lock = self._redis.lock(name, timeout=self._ttl, sleep=0.005)
        lock.acquire()
        return lock


if __name__ == "__main__":
    serve(RedisPy)
