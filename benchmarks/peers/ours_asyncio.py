"""This project's lock for asyncio: many tasks on one event loop. Only the scenario `asyncio` uses this peer."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

from benchmarks.worker import Peer, serve
from redlock.asyncio import Redlock

if TYPE_CHECKING:
    from redlock.asyncio import Lock


class OursAsyncio(Peer):
    """The lock in an event loop that runs while a command runs."""

    def __init__(self, urls: list[str], ttl: float) -> None:
        self.client = Redlock(urls, ttl=ttl)
        self.loop = asyncio.new_event_loop()

    def acquire(self, name: str) -> Lock:
        """Acquire the lock."""
        lock = self.client.lock(name)
        self.loop.run_until_complete(lock.acquire())
        return lock

    def release(self, held: Lock) -> None:
        """Release the lock."""
        self.loop.run_until_complete(held.release())


def tasks(peer: OursAsyncio, said: dict[str, Any]) -> dict[str, Any]:
    """Tasks that acquire and release for some seconds, each its own lock, or all the same lock."""
    return peer.loop.run_until_complete(_tasks(peer.client, said))


async def _tasks(client: Redlock, said: dict[str, Any]) -> dict[str, Any]:
    cpu, started = time.process_time(), time.perf_counter()
    until = started + said["seconds"]

    async def one(number: int) -> int:
        lock = client.lock(f"{said['name']}:{number}" if said["distinct"] else said["name"])
        done = 0
        while time.perf_counter() < until:
            await lock.acquire()
            await lock.release()
            done += 1
        return done

    counts = await asyncio.gather(*(one(number) for number in range(said["tasks"])))
    pairs, seconds = sum(counts), time.perf_counter() - started
    return {"pairs": pairs, "seconds": seconds, "cpu": time.process_time() - cpu}


if __name__ == "__main__":
    serve(OursAsyncio, {"tasks": tasks})
