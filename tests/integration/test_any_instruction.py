"""An exception at any instruction of the package: the lock is free within a TTL, and the client is as good as new."""

from __future__ import annotations

import functools
import gc
import itertools
import queue
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import TypeAlias

import pytest
from celery import Celery

import redlock
from redlock import Lease, Lock, LockContended, Redlock
from redlock._background import Callbacks
from redlock._transport import pending_releases, threads
from redlock._transport.background_releaser import BackgroundReleaser
from redlock.celery.metrics import Metrics
from redlock.celery.task_events import Sender
from redlock.celery.task_registry import TaskLockEntry, TaskLockRegistry
from redlock.testing.redis_server import Cluster
from tests.integration.tools import LASTING, client_of, eventually, raws, renewed
from tests.integration.tracer import Interrupted, Place, Tracer, instructions

TTL, MAX_TTL = 8.0, 60.0
APP = Celery(set_as_current=False, broker="memory://")
_SENDING = {"_start_operation", "_send_round", "begin", "flush", "note_round", "request", "write"}
_RECEIVING = {"_collect", "_finish_round", "_pump", "_voted", "cast", "finish", "is_over", "receive", "read"}


class Stricken:
    """A client for interrupted calls, each on a fresh resource."""

    def __init__(self, nodes: Cluster) -> None:
        self.nodes = nodes
        self.client = client_of(nodes.urls, ttl=TTL, max_ttl=MAX_TTL)
        self.other = ThreadPoolExecutor(1)
        self._numbers = itertools.count()
        self._seen: set[Place] = set()

    def name(self) -> str:
        """A resource that was never used."""
        return f"struck:{next(self._numbers)}"

    def strike(
        self, work: Callable[[], object], moments: Sequence[int | Place], within: Callable[..., object] | None = None
    ) -> list[str]:
        """Do the work once for each of these moments, and interrupt there; returns the faults."""
        wrong = []
        for moment in moments:
            tracer = Tracer(moment, within=within)
            try:
                tracer.run(work)
            except Interrupted:
                pass
            else:
                # A place that was not reached: nothing was waited for or dialled.
                if tracer.struck is not None:
                    wrong.append(f"{tracer.struck}: the exception was lost")
            if not self.other.submit(self._first_set_is_free).result(100):
                wrong.append(f"{tracer.struck}: a set of connections stays in use")
        return wrong

    def _first_set_is_free(self) -> bool:
        first = self.client._context.pool._sets[0]
        with self.client._context.pool.connections(first) as links:
            return links is first

    def new_places(self, work: Callable[[], object], *, files: tuple[str, ...] = ()) -> list[Place]:
        """The places that no work before has come to."""
        work()
        found = [
            place
            for place in dict.fromkeys(instructions(work))
            if place not in self._seen and (not files or Path(place.code.co_filename).name in files)
        ]
        self._seen.update(found)
        return found

    def is_as_good_as_new(self) -> None:
        """All is free within a TTL, and a lease is taken, renewed and given back."""
        gc.collect()
        eventually(lambda: not keys(self.nodes, "struck"), "the end of all leases", within=10 * TTL, every=0.1)
        with self.client.lock(self.name()) as lease:
            renewed(lease)
        assert self.other.submit(self._cycle).result(100)

    def _cycle(self) -> bool:
        lock = self.client.lock(self.name(), wait_for_release=False)
        with lock as lease:
            pass
        return lease.outcome().name == "RELEASED"

    def end(self) -> None:
        self.other.shutdown()
        self.client.close()


@pytest.fixture
def stricken(nodes: Cluster) -> Iterator[Stricken]:
    client = Stricken(nodes)
    yield client
    client.end()


def _places(work: Callable[[], object], functions: set[str]) -> list[Place]:
    """The instructions of these functions that the work carries out, each once."""
    return [place for place in dict.fromkeys(instructions(work)) if place.code.co_name in functions]


def works(struck: Stricken) -> list[Callable[[], object]]:
    """All operations on a free lock."""
    client = struck.client

    def block() -> None:
        with client.lock(struck.name()) as lease:
            lease.extend(TTL)

    def inner_block() -> None:
        name = struck.name()
        with client.lock(name), client.lock(name, reentrant=True) as inner:
            inner.extend(TTL)

    def by_hand() -> None:
        lock = client.lock(struck.name(), wait_for_release=False)
        lock.acquire()
        lock.extend(TTL / 10)
        lock.release()

    def asynchronous_release() -> None:
        with client.lock(struck.name(), wait_for_release=False):
            pass

    return [block, inner_block, by_hand, asynchronous_release]


@pytest.mark.parametrize("step", [10, pytest.param(1, marks=pytest.mark.long(ci=True))])
def test_an_exception_at_any_instruction_does_no_harm(stricken: Stricken, step: int) -> None:
    """Once at each place, or at each place of so many."""
    wrong = []
    for work in works(stricken):
        wrong += stricken.strike(work, stricken.new_places(work)[::step])
    assert not wrong
    stricken.is_as_good_as_new()


@pytest.mark.long
@pytest.mark.timeout(3_600)
def test_an_exception_at_any_moment_does_no_harm(stricken: Stricken) -> None:
    """At every execution of every instruction."""
    wrong = []
    for work in works(stricken):
        work()
        wrong += stricken.strike(work, list(range(len(instructions(work)))))
    assert not wrong
    stricken.is_as_good_as_new()


def test_an_exception_in_any_wait_does_no_harm(stricken: Stricken, nodes: Cluster) -> None:
    # The traced thread leaves the renewal thread of the rival little time.
    with client_of(nodes.urls, ttl=MAX_TTL, max_ttl=MAX_TTL, node_timeout=9.0) as rival, rival.lock("held"):

        def wait_in_vain() -> None:
            lock = stricken.client.lock("held", blocking_timeout=0.01)
            assert not lock.acquire()

        places = stricken.new_places(
            wait_in_vain, files=("local_wait_queue.py", "wait_queue.py", "acquisition.py", "driver.py", "_mutex.py")
        )
        assert not stricken.strike(wait_in_vain, places)
        # A collection does nothing while another thread collects.
        waiters = stricken.client._context.waiters.local_queue
        eventually(lambda: gc.collect() >= 0 and not waiters.length(("held",)), "an empty queue")
    stricken.is_as_good_as_new()


_OVER = threading.Event()
Report: TypeAlias = tuple[Callable[[], object], Callable[[], object]]
"""A report of a task's lock, and a value that each report changes."""


def counts() -> Report:
    metrics = Metrics([])
    return lambda: metrics.record("refused", {}), lambda: metrics.text("w@h")


def entries() -> Report:
    registry, shown = TaskLockRegistry(), list[TaskLockEntry]()

    def show() -> None:
        shown.append(TaskLockEntry(None))
        registry.show(shown[-1], {"since": "", "state": "holds", "number": id(shown[-1])})
        if len(shown) > 1:
            registry.hide(shown.pop(0))

    return show, registry.listed


def events() -> Report:
    sent: list[object] = []

    class WithoutBroker(Sender):
        """Its thread sends nothing."""

        @staticmethod
        def _send(_: object, batch: list[tuple[str, dict[str, object]]]) -> None:
            sent.extend(batch)

    sender = WithoutBroker(APP)
    return lambda: sender.put("w@h", {"type": "task-lock-lost"}), lambda: len(sent)


def losses() -> Report:
    """The threads for callbacks are all in use, because a thread whose start was interrupted may be lost."""
    _OVER.clear()
    callbacks = Callbacks()
    for _ in range(20):
        callbacks.call("a", lambda: _OVER.wait(100))
    return lambda: callbacks.call("a", list), callbacks._waiting.qsize


def differs(seen: Callable[[], object], before: object) -> bool:
    return seen() != before


@pytest.mark.parametrize("reports", [counts, entries, events, losses])
def test_an_exception_in_any_report_stops_no_later_one(
    reports: Callable[[], Report], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also inside of Python's own classes for threads, which are partly written in Python."""
    traced = (str(Path(redlock.__file__).parent), queue.__file__, threading.__file__)
    monkeypatch.setattr("tests.integration.tracer._PACKAGE", traced)
    report, seen = reports()
    report()
    eventually(seen, "the first report")
    with ThreadPoolExecutor(1) as other:
        for number in range(len(instructions(report))):
            # The second exception can come where the report takes over after the first.
            for _ in range(2):
                with suppress(Interrupted):
                    Tracer(number).run(report)
            before = seen()
            other.submit(report).result(100)
            eventually(functools.partial(differs, seen, before), f"a report after instruction {number}", every=0)
    _OVER.set()


@pytest.mark.long
def test_an_interrupted_release_ends_a_lock_that_lives_on(stricken: Stricken) -> None:
    """As one at the top of a module, in a block that is renewed."""
    kept: list[Lock] = []

    def block() -> None:
        kept.append(stricken.client.lock(stricken.name()))
        with kept[-1]:
            pass

    block()
    places = instructions(block, within=Lease.close)
    assert not stricken.strike(block, list(range(0, len(places), 3)), within=Lease.close)
    stricken.is_as_good_as_new()
    assert kept


def test_an_interrupted_entry_leaves_the_outer_block_alone(stricken: Stricken) -> None:
    """The outer lease is neither released early, nor kept by the inner block after the end of the outer block."""
    name = stricken.name()
    # They live on. And each strike has its own, because a block that was interrupted at its end leaves a lease behind.
    inner: list[Lock] = []

    def inner_block() -> None:
        inner.append(stricken.client.lock(name, reentrant=True))
        with inner[-1]:
            pass

    with stricken.client.lock(name) as lease:
        for place in stricken.new_places(inner_block):
            with pytest.raises(Interrupted):
                Tracer(place).run(inner_block)
            assert lease.is_held
            lease.ensure_valid()
        with pytest.raises(LockContended), client_of(stricken.nodes.urls, ttl=TTL, max_ttl=MAX_TTL) as rival:
            rival.lock(name, blocking=False).__enter__()
    with stricken.client.lock(name, blocking=False):
        pass
    stricken.is_as_good_as_new()


def test_an_interrupted_acquire_loses_no_release(nodes: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """A release that is held back goes out with the next request, also if that request is interrupted."""
    monkeypatch.setattr(pending_releases, "_AT_ONCE_MS", 60_000)
    monkeypatch.setattr(pending_releases, "_LONGEST_HELD_BACK_MS", 60_000)
    # The background thread would send the release before the acquire; the test does the work of this thread.
    monkeypatch.setattr(BackgroundReleaser, "watch", lambda *_: None)
    numbers = itertools.count()
    with client_of(nodes.urls, node_timeout=9.0, **LASTING) as client:
        pool = client._context.pool

        def hold_a_release_back() -> None:
            # The round of the second lease comes right after the first release, so the second release is held back.
            for _ in range(2):
                with client.lock(f"left:{next(numbers)}", wait_for_release=False):
                    pass
            assert pool._sets[0].releases.held_back == 1

        def acquire() -> None:
            client.lock(f"next:{next(numbers)}", blocking=False).acquire()

        hold_a_release_back()
        for place in _places(acquire, _SENDING):
            hold_a_release_back()
            with suppress(Interrupted):
                Tracer(place).run(acquire)
            for connections in pool._sets:
                with connections.turn(10) or nullcontext():
                    connections.poll()

    # A node whose send was interrupted may miss the release.
    eventually(lambda: max(keys(nodes, "left").values(), default=0) < 3, "the release of every lease", every=0.1)


def keys(nodes: Cluster, prefix: str) -> Counter[str]:
    """The number of nodes that have the key, for each lock of this prefix."""
    found: Counter[str] = Counter()
    for redis in raws(nodes.servers):
        found.update(str(name) for name in redis.scan_iter(f"{prefix}:*", count=10_000, _type="string"))
    return Counter({name: count for name, count in found.items() if name.count(":") == 1 and " " not in name})


def test_an_interrupted_acquire_leaves_no_lock(nodes: Cluster) -> None:
    """Its keys are deleted at once. A node whose send was interrupted may keep its key for the TTL."""
    numbers = itertools.count()
    with client_of(nodes.urls, node_timeout=9.0, **LASTING) as client:

        def acquire() -> None:
            client.lock(f"begun:{next(numbers)}", blocking=False).acquire()

        acquire()
        places = _places(acquire, _SENDING | _RECEIVING)
        assert {place.code.co_name for place in places} >= _SENDING - {"flush", "request"}
        locks = set(keys(nodes, "begun"))
        for place in places:
            tracer = Tracer(place)
            with suppress(Interrupted):
                tracer.run(acquire)
            if tracer.struck is None:
                # Fewer instructions than at first, so this acquire succeeded.
                locks.add(f"begun:{next(numbers) - 1}")

        def is_clean() -> bool:
            return all(count <= 1 for name, count in keys(nodes, "begun").items() if name not in locks)

        eventually(is_clean, "the end of every interrupted lock", every=0.1)


class Many:
    """Acquires a hundred names at a time: the nodes are still busy with an acquire when the client cancels it."""

    def __init__(self) -> None:
        self._numbers = itertools.count()

    def acquire(self, client: Redlock) -> None:
        """Acquire names that were never used."""
        first = next(self._numbers) * 100
        client.lock([f"begun:{first + place}" for place in range(100)], blocking=False).acquire()

    def waits(self, client: Redlock) -> list[Place]:
        """The places around a wait for replies."""
        self.acquire(client)
        found = dict.fromkeys(instructions(lambda: self.acquire(client)))
        return [place for place in found if place.code is threads.ConnectionSet._pump.__code__]

    def interrupt(self, client: Redlock, place: Place) -> None:
        tracer = Tracer(place)
        with suppress(Interrupted):
            tracer.run(lambda: self.acquire(client))
        assert tracer.struck


def test_an_interrupted_wait_for_replies_leaves_no_lock(nodes: Cluster) -> None:
    many = Many()
    with client_of(nodes.urls, node_timeout=9.0, **LASTING) as client:
        places = many.waits(client)
        locks = set(keys(nodes, "begun"))
        for place in (*places, *places):
            many.interrupt(client, place)
        eventually(lambda: set(keys(nodes, "begun")) == locks, "the end of every interrupted lock", every=0.1)


def test_a_client_that_ends_after_an_interruption_leaves_no_lock(nodes: Cluster) -> None:
    many = Many()
    with client_of(nodes.urls, node_timeout=9.0, **LASTING) as client:
        places = many.waits(client)
    locks = set(keys(nodes, "begun"))
    for place in places:
        with client_of(nodes.urls, node_timeout=9.0, **LASTING) as client:
            client.holder("before")
            many.interrupt(client, place)
    assert set(keys(nodes, "begun")) == locks
