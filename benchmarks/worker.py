"""The loop of every Python peer: read a command as a line of JSON, run the command, write the answer as a line of JSON.

A peer passes `serve` a function that connects and returns a `Peer`.

Invariants:
1. The module imports only redis-py, which all peers have.
2. The measurements are here, next to the lock, and the same for all peers.
3. All times are seconds on the monotonic clock, which the processes of a machine share.

    connect  urls, ttl, check                 connect, and use some locks; `check` are addresses of the same
                                              nodes, which show the applied releases; by default `urls`
    cycle    name, names, seconds, count, settle
                                              acquire and release, over and over: pairs, seconds, acquire times
    hot      name, store, threads, at, lead, seconds
                                              read-modify-write of a counter under one lock; counted after the lead
    take     name                             acquire the lock and keep it: times before and after
"""

from __future__ import annotations

import json
import sys
import threading
import time
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any

from redis import Redis

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    Said = dict[str, Any]


class Peer(ABC):
    """A lock, from any library."""

    prefix = ""
    """The prefix of the keys."""

    @abstractmethod
    def acquire(self, name: str) -> object:
        """Acquire the lock without a limit of time, and return the argument of `release`."""

    def release(self, held: Any) -> None:  # noqa: ANN401 - each peer's own
        """Release the lock."""
        held.release()

    def settle(self) -> None:  # noqa: B027 - most peers hold nothing back
        """Send a release that was held back."""


def serve(
    connect: Callable[[list[str], float], Peer],
    more: Mapping[str, Callable[[Any, Said], Said]] | None = None,
) -> None:
    """Run the commands of standard input until its end.

    Args:
        connect: Makes a peer from the nodes' addresses and a TTL in seconds.
        more: Commands of this peer alone, by name. Each gets the peer and the request.
    """
    bench: Bench | None = None
    for line in sys.stdin:
        said = json.loads(line)
        what = said["do"]
        if what == "connect":
            bench = Bench(connect(said["urls"], said["ttl"]), said.get("check", said["urls"]))
            answer = bench.warm()
        else:
            assert bench is not None, "not connected"
            answer = more[what](bench.peer, said) if more and what in more else getattr(bench, what)(said)
        print(json.dumps(answer), flush=True)


class Bench:
    """The commands for a peer."""

    def __init__(self, peer: Peer, urls: Sequence[str]) -> None:
        self.peer = peer
        self._servers = [Redis.from_url(url, single_connection_client=True) for url in urls]
        self._quorum = len(urls) // 2 + 1

    def warm(self) -> Said:
        """Open all connections."""
        for _ in range(3):
            self.peer.release(self.peer.acquire(f"warm:{time.monotonic_ns()}"))
        for server in self._servers:
            server.ping()
        return {}

    def cycle(self, said: Said) -> Said:
        """Acquire and release; the clock stops when a quorum of nodes has applied every release."""
        names = [f"{said['name']}:{number}" for number in range(said["names"])]
        acquire, release, clock = self.peer.acquire, self.peer.release, time.perf_counter
        times, failures, error = [], 0, ""
        cpu, started = time.process_time(), clock()
        until, most = started + said["seconds"], said["count"] or sys.maxsize
        before, done = started, 0
        while before < until and done < most:
            try:
                held = acquire(names[done % len(names)])
                times.append(clock() - before)
                release(held)
            except Exception as exc:  # noqa: BLE001 - an error of the library under test is a measured failure
                failures, error = failures + 1, f"{type(exc).__name__}: {exc}"[:200]
            done += 1
            before = clock()
        if said["settle"]:
            self._settle(names)
        seconds = clock() - started
        return {
            "pairs": len(times), "seconds": seconds, "cpu": time.process_time() - cpu, "failures": failures,
            "error": error, "acquire_ms": [round(one * 1000, 4) for one in times],
        }  # fmt: skip

    def _settle(self, names: Sequence[str]) -> None:
        self.peer.settle()
        keys = [self.peer.prefix + name for name in names]
        while sum(server.exists(*keys) == 0 for server in self._servers) < self._quorum:
            time.sleep(0.0001)

    def hot(self, said: Said) -> Said:
        """Read and write a counter under one lock, in many threads."""
        counts, waits = [0] * said["threads"], [[] for _ in range(said["threads"])]  # type: list[int], list[list[float]]
        early, again = [0] * said["threads"], [0] * said["threads"]
        errors: list[str] = []

        def run(number: int) -> None:
            store = Redis.from_url(said["store"], single_connection_client=True)
            store.ping()
            time.sleep(max(0.0, said["at"] - time.monotonic()))
            since = said["at"] + said["lead"]
            until = since + said["seconds"]
            written = -1
            while (before := time.monotonic()) < until:
                try:
                    held = self.peer.acquire(said["name"])
                    after = time.monotonic()
                    if after >= since:
                        waits[number].append(after - before)
                    if after < until:
                        found = int(store.get("counter") or 0)
                        store.set("counter", found + 1)
                        early[number] += after < since
                        counts[number] += after >= since
                        again[number] += after >= since and found == written
                        written = found + 1
                    self.peer.release(held)
                except Exception as exc:  # noqa: BLE001 - an error of the library is one lost turn; the other threads go on
                    errors.append(f"{type(exc).__name__}: {exc}"[:200])

        threads = [threading.Thread(target=run, args=(number,)) for number in range(said["threads"])]
        cpu = time.process_time()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return {
            "counts": counts, "early": sum(early), "again": sum(again),
            "wait_ms": [round(one * 1000, 3) for some in waits for one in some],
            "failures": len(errors), "error": errors[-1] if errors else "", "cpu": time.process_time() - cpu,
        }  # fmt: skip

    def take(self, said: Said) -> Said:
        """Acquire the lock and keep it."""
        since = time.monotonic()
        self._held = self.peer.acquire(said["name"])
        return {"since": since, "at": time.monotonic()}


def server_options() -> Said:
    """Return the options that the Redlock text asks for: a short timeout, and no retry below the lock."""
    from redis.backoff import NoBackoff  # noqa: PLC0415 - not every peer needs it
    from redis.retry import Retry  # noqa: PLC0415 - not every peer needs it

    return {"socket_timeout": 0.1, "socket_connect_timeout": 0.1, "retry": Retry(NoBackoff(), 0)}
