"""Asynchronous releases reach the nodes, and their outcome is reported and logged."""

from __future__ import annotations

import functools
import gc
import importlib
import logging
import random
import threading
import warnings
from contextlib import ExitStack, suppress

import pytest

from redlock import Lease, LockLost, NotHeld, Outcome, Redlock, RedlockError
from redlock._clock import now_ms
from redlock._transport import connections, pending_releases
from redlock._transport.background_releaser import BackgroundReleaser
from redlock.testing.redis_server import Cluster
from tests.integration.alarms import a_strike_in, came_of
from tests.integration.shell import run_python
from tests.integration.tools import (
    LASTING,
    client_of,
    eventually,
    frozen,
    in_a_fork,
    is_free,
    kill_all,
    raw,
    raws,
    run_out,
    sends,
    stands_on_all,
)
from tests.integration.tracer import Interrupted
from tests.proxy import proxies

NAME = "report:7"
QUICK = 100
STRIKES = 60

AT_THE_END = f"""
import logging, sys
from redlock import Redlock
from redlock._transport import connections, pending_releases, threads
for module in (connections, pending_releases, threads):
    module.RELEASE_MS = 4_000  # a node that is late has an answer all the same
logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
lock = Redlock(sys.argv[1:], node_timeout=4.0, ttl=10.0).lock("report:7", wait_for_release=False)
for _ in range({QUICK}):
    with lock:
        pass
"""
"""A program that acquires locks in quick succession and ends right after the last release."""


def acquire_and_release(client: Redlock, name: str = NAME) -> Lease:
    """A lease with an asynchronous release."""
    with client.lock(name, blocking=False, wait_for_release=False) as lease:
        pass
    return lease


def heard(caplog: pytest.LogCaptureFixture, event: str) -> list[str]:
    return [line for line in caplog.messages if line.startswith(event)]


def test_the_call_returns_before_any_node_gets_the_release(nodes: Cluster) -> None:
    with proxies(nodes.servers) as links, client_of([link.url for link in links]) as client:
        with client.lock(NAME, wait_for_release=False) as lease:
            stands_on_all(nodes.servers, NAME)
            for link in links:
                link.hold("to")
        assert not is_free(nodes.servers, NAME), "nobody waited for the nodes"
        with pytest.raises(NotHeld):
            _ = lease.fence
        for link in links:
            link.restore()
        eventually(lambda: is_free(nodes.servers, NAME), "the release on all nodes")


def test_what_became_of_it_is_known_when_it_is_asked_for(nodes: Cluster, client: Redlock) -> None:
    assert acquire_and_release(client).outcome() is Outcome.RELEASED
    with client.lock(NAME, wait_for_release=False) as gone:
        run_out(nodes.servers, NAME)
    assert gone.outcome() is Outcome.EXPIRED
    with ExitStack() as stack:
        with client.lock(NAME, wait_for_release=False) as unheard:
            stack.enter_context(frozen(*nodes.servers[:3]))
        assert unheard.outcome() is Outcome.UNKNOWN


def test_a_lease_that_was_not_released_has_no_outcome(client: Redlock) -> None:
    with client.lock(NAME) as lease, pytest.raises(NotHeld, match="not released"):
        lease.outcome()
    assert lease.outcome() is Outcome.RELEASED


def test_a_loss_known_to_the_nodes_only_is_logged(
    nodes: Cluster, client: Redlock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "redlock")
    acquire_and_release(client)
    eventually(lambda: heard(caplog, "released"), "the outcome of the first")
    with client.lock(NAME, wait_for_release=False):
        run_out(nodes.servers, NAME)
    eventually(lambda: heard(caplog, "expired"), "the outcome of the second")


def test_a_loss_that_is_known_by_then_is_raised(nodes: Cluster) -> None:
    with client_of(nodes.urls, ttl=0.3, max_ttl=1.0) as client:
        lock = client.lock(NAME, wait_for_release=False)
        assert lock.acquire(blocking_timeout=30.0)
        eventually(lambda: lock.lease.is_lost, "the end of a lease that nobody renews")
        with pytest.raises(LockLost):
            lock.release()


def test_who_comes_back_at_once_sends_both_in_one_piece(client: Redlock, monkeypatch: pytest.MonkeyPatch) -> None:
    # On a busy machine the background thread would send some releases before the next request.
    monkeypatch.setattr(BackgroundReleaser, "watch", lambda *_: None)
    for limit in ("_AT_ONCE_MS", "_LONGEST_HELD_BACK_MS"):
        monkeypatch.setattr(pending_releases, limit, 60_000)
    acquire_and_release(client)
    count = sends(monkeypatch)
    for number in range(QUICK):
        acquire_and_release(client, f"report:{number}")
    assert count() < 5 * QUICK * 1.5, "a piece for each of two commands on each of five connections is twice as many"


def test_who_is_waited_for_sends_them_apart(client: Redlock, monkeypatch: pytest.MonkeyPatch) -> None:
    acquire_and_release(client)
    count = sends(monkeypatch)
    for _ in range(QUICK):
        with client.lock(NAME, blocking=False):
            pass
    assert count() >= 5 * QUICK * 2


def test_a_pending_release_neither_refuses_nor_lowers_a_token(client: Redlock) -> None:
    fences = []
    for _ in range(QUICK):
        with client.lock(NAME, blocking=False, wait_for_release=False) as lease:
            fences.append(lease.fence)
    assert fences == sorted(set(fences))


def test_a_delayed_release_is_sent_without_a_next_request(nodes: Cluster) -> None:
    with client_of(nodes.urls, **LASTING) as client:
        for _ in range(QUICK):
            acquire_and_release(client)
        eventually(lambda: is_free(nodes.servers, NAME), "the last release on all nodes")


def test_a_program_that_ends_has_released_everything_and_said_so(nodes: Cluster) -> None:
    ran = run_python("-c", AT_THE_END, *nodes.urls, check=True)
    assert is_free(nodes.servers, NAME)
    lines = ran.stdout.splitlines()
    assert sum(line.startswith("acquired") for line in lines) == QUICK
    assert sum(line.startswith("released") for line in lines) == QUICK


def test_a_closed_client_has_released_and_logged_all_leases(nodes: Cluster, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "redlock")
    with Redlock(nodes.urls, node_timeout=4.0, ttl=10.0) as client:
        for _ in range(QUICK):
            acquire_and_release(client)
    assert is_free(nodes.servers, NAME)
    assert len(heard(caplog, "released")) == QUICK


@pytest.mark.parametrize("wait", [True, False])
def test_a_client_that_is_closed_leaves_no_key_on_a_late_node(nodes: Cluster, *, wait: bool) -> None:
    # More commands than a node reads at once: the node answers some, and finds the connection closed or open.
    names = [f"report:{number}" for number in range(60)]
    late = nodes[4]
    with Redlock(nodes.urls, node_timeout=4.0, ttl=10.0) as client:
        acquire_and_release(client)
        late.freeze()
        locks = [client.lock(name, wait_for_release=wait) for name in names]
        for lock in locks:
            assert lock.acquire(blocking=False)
        for lock in locks:
            lock.release()
        waker = threading.Timer(0.2, late.thaw)
        waker.start()
    waker.join()
    with raw(late) as redis:
        assert not redis.exists(*names)


def test_a_release_that_was_held_back_for_long_has_its_time(nodes: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(BackgroundReleaser, "watch", lambda *_: None)
    with client_of(nodes.urls, **LASTING) as client:
        with client.lock(NAME, wait_for_release=False) as lease:
            assert lease._connections is not None
            lease._connections.releases.returns_at_once = True
        held_back_ms = now_ms()
        eventually(lambda: now_ms() - held_back_ms > 2 * connections.RELEASE_MS, "the end of a release's time")
        assert lease.outcome() is Outcome.RELEASED


def test_a_forked_child_leaves_pending_releases_to_its_parent(nodes: Cluster, client: Redlock) -> None:
    for _ in range(QUICK):
        lease = acquire_and_release(client)

    def in_the_child() -> bool:
        acquire_and_release(client, "child's own")
        client.close()
        return True

    assert in_a_fork(in_the_child) is True
    assert lease.outcome() is Outcome.RELEASED
    assert is_free(nodes.servers, NAME)


@pytest.mark.parametrize("library", ["multiprocessing", "billiard"])
def test_a_forked_process_that_ends_has_released_everything(nodes: Cluster, client: Redlock, library: str) -> None:
    """Such a child ends by `os._exit`, which runs no `atexit` hooks."""

    def in_the_child(own: Redlock) -> None:
        for _ in range(20):
            acquire_and_release(own)

    def with_its_own_client() -> None:
        in_the_child(client_of(nodes.urls))

    processes = importlib.import_module(library)
    fork = processes.get_context("fork") if library == "multiprocessing" else processes
    for target in (with_its_own_client, functools.partial(in_the_child, client)):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            process = fork.Process(target=target)
            process.start()
        process.join(30)
        assert process.exitcode == 0
        assert is_free(nodes.servers, NAME)


def test_a_forked_child_sends_its_delayed_releases(nodes: Cluster) -> None:
    """By a thread of its own, while the process goes on."""
    with client_of(nodes.urls, **LASTING) as client:
        for _ in range(QUICK):
            acquire_and_release(client)

        def in_the_child() -> bool:
            for _ in range(QUICK):
                acquire_and_release(client, "child's own")
            eventually(lambda: is_free(nodes.servers, "child's own"), "the last release")
            return True

        assert in_a_fork(in_the_child) is True


def test_nodes_without_scripts_get_the_scripts_and_the_request(nodes: Cluster) -> None:
    with client_of(nodes.urls, **LASTING) as client:
        with client.lock(NAME, wait_for_release=False) as lease:
            for redis in raws(nodes.servers):
                redis.script_flush()
        assert lease.outcome() is Outcome.RELEASED
        # The replies of a minority can come after the outcome. The next use of the connections reads them.
        eventually(
            lambda: not client.lock("another").locked() and is_free(nodes.servers, NAME), "the release everywhere"
        )


def test_a_node_that_dies_meanwhile_is_not_waited_for(nodes: Cluster, client: Redlock) -> None:
    with client.lock(NAME, wait_for_release=False) as lease:
        kill_all(nodes.servers[:2])
    assert lease.outcome() is Outcome.RELEASED
    for _ in range(QUICK):
        acquire_and_release(client)


class Struck:
    """Ends its block without an error if a strike ended it. No generator, which would keep the traceback's frames."""

    def __enter__(self) -> None:
        pass

    def __exit__(self, _type: object, error: BaseException | None, _traceback: object) -> bool:
        return error is not None and came_of(error, Interrupted)


# A socket that was just being opened is left to the garbage collector.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("wait", [True, False])
def test_after_any_interruption_the_lock_is_free_within_a_ttl(nodes: Cluster, wait: bool) -> None:
    chance, held = random.Random(7), 0
    with client_of(nodes.urls, ttl=0.3, max_ttl=1.0) as client:
        # With such a short TTL a busy machine is too late at times.
        eventually(lambda: acquire_and_release(client), "the first lease", despite=RedlockError)
        for _strike in range(STRIKES):
            # Outside of the block below, because a handled exception keeps all frames of its traceback alive.
            with suppress(LockLost), Struck(), a_strike_in(chance.uniform(0.0, 0.01)):
                # Not an endless loop: an exception is lost if the signal comes while Python drops an object.
                for _ in range(QUICK):
                    with client.lock(NAME, wait_for_release=wait):
                        held += 1
            # The lease itself may be lost to a pause of the machine.
            with suppress(LockLost), client.lock(NAME, blocking_timeout=100.0):
                pass
    assert held, "it struck before the first section"
    gc.collect()
