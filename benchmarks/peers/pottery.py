"""pottery: a thread pool per operation. Its wait between attempts is a random part of a class attribute."""

from __future__ import annotations

import importlib
from typing import Any

from redis import Redis

from benchmarks.worker import Peer, serve, server_options


class Pottery(Peer):
    """pottery's Redlock."""

    prefix = "redlock:"

    def __init__(self, urls: list[str], ttl: float) -> None:
        self._class: Any = importlib.import_module("pottery").Redlock
        setattr(self._class, "_RETRY_DELAY", 0.02)  # noqa: B010 - the only way to set it
        self._masters = {Redis.from_url(url, **server_options()) for url in urls}
        self._ttl = ttl

    def acquire(self, name: str) -> object:
        """Acquire the lock."""
        lock = self._class(key=name, masters=self._masters, auto_release_time=self._ttl)
        lock.acquire()
        return lock


if __name__ == "__main__":
    serve(Pottery)
