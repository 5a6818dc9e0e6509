"""redlock-ng: a request to each node in turn, with its default timeouts of 0.1 s."""

from __future__ import annotations

import importlib
from typing import Any

from benchmarks.worker import Peer, serve


class RedlockNg(Peer):
    """redlock-ng, its synchronous class."""

    def __init__(self, urls: list[str], ttl: float) -> None:
        # By name, because here `redlock` is not this project's package.
        module = importlib.import_module("redlock")
        self._redlock: Any = module.Redlock(urls, retry_delay_min=0.005, retry_delay_max=0.015)
        self._ttl_ms = int(ttl * 1000)

    def acquire(self, name: str) -> object:
        """Acquire the lock."""
        return self._redlock.acquire(name, self._ttl_ms, blocking=True)

    def release(self, held: object) -> None:
        """Release the lock."""
        self._redlock.release(held)


if __name__ == "__main__":
    serve(RedlockNg)
