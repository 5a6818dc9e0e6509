"""A program that uses locks while signal handlers raise at random moments; run by `test_signal_injection.py`.

A separate process, because a signal inside the hooks of the test runner would say nothing about locks. The program
prints a line of JSON after the signals, waits for a line of input, and prints a second line after a last check.
"""

from __future__ import annotations

import itertools
import json
import logging
import random
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType

from typing_extensions import Self

from redlock import Lease, LockContended, LockLost, NotHeld, Redlock
from tests.integration.alarms import came_of

NAMES = [f"report:{number}" for number in range(24)]
TTL, MAX_TTL = 6.0, 6.0


class Hard(BaseException):
    """Like SystemExit, which Celery's children raise out of SIGTERM."""


class Soft(Exception):
    """Like SoftTimeLimitExceeded, which is a plain exception raised out of SIGUSR1."""


class SignalInjection:
    """Raises an exception in the main thread at a random moment, at most once after each arming."""

    def __init__(self, kind: type[BaseException], chance: random.Random) -> None:
        self.armed = False
        self.hits = 0
        self._kind = kind
        self._chance = chance
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._send_signals)
        self._main = threading.get_ident()

    def _raise(self, _number: int, _frame: FrameType | None) -> None:
        if self.armed:
            self.armed = False
            self.hits += 1
            raise self._kind

    def _send_signals(self) -> None:
        while not self._over.wait(self._chance.uniform(0.0, 0.006)):
            if self.armed:
                signal.pthread_kill(self._main, signal.SIGUSR1)

    def __enter__(self) -> Self:
        signal.signal(signal.SIGUSR1, self._raise)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.armed = False
        self._over.set()
        self._thread.join()


class Sections:
    """Every section that was entered: the fence, and the time in which the lease was valid for its holder."""

    def __init__(self) -> None:
        self._seen: dict[str, list[tuple[int, float, float]]] = {name: [] for name in NAMES}

    @contextmanager
    def inside(self, lease: Lease) -> Iterator[None]:
        fence, entered, left = lease.fence, time.monotonic(), lease.remaining()
        try:
            yield
        finally:
            self._seen[lease.resource].append((fence, entered, min(time.monotonic(), entered + left)))

    def count(self) -> int:
        return sum(map(len, self._seen.values()))

    def wrong(self) -> list[str]:
        """Violations: two sections of a resource at the same time, or fences that do not grow in the order of time."""
        found = []
        for resource, sections in self._seen.items():
            sections.sort(key=lambda section: section[1])
            for (fence, _, over), (next_fence, entered, _) in itertools.pairwise(sections):
                if entered < over:
                    found.append(f"two were inside {resource} at the same time, under {fence} and {next_fence}")
                if next_fence <= fence:
                    found.append(f"{resource} had fence {fence} and after that {next_fence}")
        return found


def use(client: Redlock, name: str, sections: Sections, chance: random.Random) -> None:
    """Acquire and release a lock, as a block or by calls."""
    lock = client.lock(name, blocking_timeout=chance.choice((0, 0, 0, 0.03)))
    if chance.random() < 0.7:
        with lock as lease, sections.inside(lease):
            return
    if lock.acquire():
        try:
            with sections.inside(lock.lease):
                pass
        finally:
            lock.release()


def compete(client: Redlock, sections: Sections, over: threading.Event) -> None:
    """Use the same locks from another thread, which gets no signals."""
    chance = random.Random(7)
    while not over.is_set():
        lock = client.lock(chance.choice(NAMES), blocking=False)
        with suppress(LockContended, LockLost), lock as lease, sections.inside(lease):
            time.sleep(chance.choice((0.0, 0.0, 0.0, 0.01)))


def under_signals(
    client: Redlock, kind: type[BaseException], strikes: int, sections: Sections
) -> tuple[int, Counter[str]]:
    """Use locks until so many signals have struck; returns their number and the unexpected errors."""
    chance = random.Random(11)
    raised: Counter[str] = Counter()
    with SignalInjection(kind, random.Random(20_261_124)) as injection:
        while min(injection.hits, sections.count()) < strikes:
            try:
                injection.armed = True
                for _ in range(5):
                    use(client, chance.choice(NAMES), sections, chance)
                injection.armed = False
            except (LockContended, LockLost, NotHeld):
                pass
            except BaseException as error:  # noqa: BLE001 - the report lists every unexpected error
                if not came_of(error, kind):
                    raised[f"{type(error).__name__}: {error}"[:300]] += 1
            finally:
                injection.armed = False
        return injection.hits, raised


def still_works(client: Redlock) -> int:
    """How many of twenty threads can acquire and release a separate lock."""
    done: list[int] = []

    def cycle(number: int) -> None:
        lock = client.lock(f"afterwards:{number}")
        if lock.acquire(blocking=False):
            lock.release()
            done.append(number)

    threads = [threading.Thread(target=cycle, args=(number,), daemon=True) for number in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    return len(done)


def main(kind: str, strikes: str, nodes: list[str]) -> None:
    """Run the signals, then check that the client still works."""
    logging.disable()
    sections, over = Sections(), threading.Event()
    client, other = (Redlock(nodes, ttl=TTL, max_ttl=MAX_TTL, node_timeout=2.7) for _ in range(2))
    rival = threading.Thread(target=compete, args=(other, sections, over), daemon=True)
    rival.start()
    hits, raised = under_signals(client, {"hard": Hard, "soft": Soft}[kind], int(strikes), sections)
    over.set()
    rival.join(30)
    report = {"hits": hits, "raised": raised, "sections": sections.count(), "wrong": sections.wrong()}
    print(json.dumps(report), flush=True)  # noqa: T201 - the output of the program
    sys.stdin.readline()
    print(json.dumps({"working": still_works(client)}), flush=True)  # noqa: T201 - as above


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3:])
