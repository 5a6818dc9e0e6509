"""This project's lock, with its defaults."""

from __future__ import annotations

from benchmarks.worker import serve
from redlock import Lock, Redlock


class Ours:
    """This project's lock."""

    prefix = ""
    waits = True
    """Whether a release waits for the nodes."""

    def __init__(self, urls: list[str], ttl: float) -> None:
        self.client = Redlock(urls, ttl=ttl)

    def acquire(self, name: str) -> Lock:
        """Acquire the lock."""
        lock = self.client.lock(name, wait_for_release=self.waits)
        lock.acquire()
        return lock

    def release(self, held: Lock) -> None:
        """Release the lock."""
        held.release()


if __name__ == "__main__":
    from benchmarks.leases import hold

    serve(Ours, {"hold": hold})
