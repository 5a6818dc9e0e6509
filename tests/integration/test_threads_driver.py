"""The driver for threads: all nodes in parallel, no second wait for a silent node, and no reply counted for another
round."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from typing import Any
from unittest.mock import patch

import pytest

from redlock import LockLost, NotHeld, Outcome, QuorumUnavailable, Redlock, RedlockError
from redlock._clock import now_ms
from redlock._core import protocol
from redlock._core.commands import Wait
from redlock._mutex import Turn
from redlock._transport import codec, sockets, threads
from redlock._transport.connection import NodeConnection
from redlock._transport.sockets import Sockets
from redlock._transport.threads import ConnectionSet
from redlock.testing.redis_server import Cluster, Server
from tests.integration.shell import run_python, talking
from tests.integration.threads import in_threads, started
from tests.integration.tools import (
    LASTING,
    client_of,
    end_quarantine,
    eventually,
    frozen,
    holders,
    is_free,
    is_told_of,
    kill_all,
    label,
    leased,
    limit_no_pending,
    limit_releases,
    raw,
    raws,
)
from tests.proxy import Proxy, proxies

NAME = "report:7"
NEVER: dict[str, Any] = {"ttl": 3_000.0, "max_ttl": 3_000.0, "node_timeout": 1_000.0}
"""Options of a client for which no node is ever silent: a call that waits for a node that is held never ends."""


@pytest.fixture
def impatient(nodes: Cluster) -> Iterator[Redlock]:
    """A client that counts a frozen node as silent, and no node that is late on a busy machine."""
    with Redlock(nodes.urls, ttl=9.0, node_timeout=2.0) as redlock:
        yield redlock


def cycle(client: Redlock, name: str = NAME) -> None:
    """Acquire the lock at the first try, and release."""
    lock = client.lock(name)
    assert lock.acquire(blocking=False)
    lock.release()


def is_recorded(client: Redlock, server: Server, field: str) -> bool:
    """Whether the record of a node has this field at the end of a round. A connection alone is not enough for that."""
    with suppress(QuorumUnavailable):
        cycle(client)
    with raw(server) as redis:
        return bool(redis.hexists(codec.RECORD, field))


def when_a_quorum_is_there(client: Redlock, name: str = NAME) -> None:
    """Return as soon as an acquire succeeds at the first try; releases the lock."""

    def works() -> bool:
        with suppress(QuorumUnavailable):
            cycle(client, name)
            return True
        return False

    eventually(works, "a quorum of nodes that vote")


@contextmanager
def in_another_thread(work: Callable[[], object], links: Sequence[Proxy]) -> Iterator[None]:
    """Do this in another thread while no reply arrives; the replies arrive at the end of the block."""
    for link in links:
        link.hold("from")
    with ThreadPoolExecutor(1) as other:
        done = other.submit(work)
        try:
            yield
            assert not done.done()
        finally:
            for link in links:
                link.restore()
        done.result()


def test_a_round_costs_one_parallel_exchange_with_all_nodes(nodes: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    limit_releases(monkeypatch, 1_000_000)
    with proxies(nodes.servers) as links, Redlock([link.url for link in links], **NEVER) as client:
        lock = client.lock(NAME, thread_local=False)
        cycle(client)  # dials
        eventually(lambda: len({link.commands for link in links}) == 1, "the same commands on every link")
        for work in (lock.acquire, lock.release, lock.acquire, lock.release):
            before = [link.commands for link in links]

            def sent(before: Sequence[int] = before) -> list[int]:
                return [link.commands - ago for link, ago in zip(links, before, strict=True)]

            with in_another_thread(work, links):
                eventually(lambda: sent() == [1] * 5, "the command on each link before any reply")
            assert sent() == [1] * 5


def test_two_slow_nodes_slow_nobody_down(nodes: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    limit_releases(monkeypatch, 1_000_000)
    with proxies(nodes.servers) as links, Redlock([link.url for link in links], **NEVER) as client:
        cycle(client)  # dials
        for link in (links[1], links[3]):
            link.hold("to")
        for _ in range(5):
            cycle(client)
        for link in links:
            link.restore()


def test_a_rejection_that_is_late_for_its_round_is_noticed(nodes: Cluster, caplog: pytest.LogCaptureFixture) -> None:
    with proxies(nodes.servers) as links, Redlock([link.url for link in links], **NEVER) as client:
        # A node has a fingerprint from its first vote on.
        eventually(lambda: is_recorded(client, nodes[4], "fingerprint"), "a vote of the last node")
        links[4].hold("from")
        with raw(nodes[4]) as redis:
            redis.hset(codec.RECORD, "fingerprint", "others came")
        cycle(client)
        assert "node-disagrees" not in caplog.text, "a quorum says yes before"
        links[4].restore()

        def noticed() -> bool:
            cycle(client)
            return "node-disagrees" in caplog.text and "others came" in caplog.text

        eventually(noticed, "the answer that came after its round")


def test_nodes_slower_than_a_release_are_not_silent(nodes: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    # A release has a shorter limit than other rounds; a release that is cut short does not make nodes suspect.
    limit_releases(monkeypatch, 80)
    with proxies(nodes.servers, 0.12) as links, Redlock([link.url for link in links], **NEVER) as client:
        for _ in range(3):
            cycle(client)


def test_the_first_dial_is_to_all_nodes_at_the_same_time(nodes: Cluster) -> None:
    with (
        proxies(nodes.servers) as links,
        Redlock([link.url for link in links], **NEVER) as client,
        in_another_thread(client.lock(NAME).locked, links),
    ):
        eventually(lambda: all(link.commands for link in links), "a handshake with each node before any reply")


def waits(work: Callable[[], object], times: int, timeout: float) -> int:
    """How often this lasts as long as a node timeout. The machine may pause for some time too."""
    count = 0
    for _ in range(times):
        started = time.monotonic()
        work()
        count += time.monotonic() - started >= timeout
    return count


def test_a_round_waits_for_a_frozen_node_only_once(nodes: Cluster) -> None:
    timeout = 2.0
    with Redlock(nodes.urls, ttl=9.0, node_timeout=timeout) as client:
        lock = client.lock(NAME)
        cycle(client)

        def work() -> None:
            # `locked` asks all nodes and waits for every answer that may come: the worst case.
            assert lock.locked() is False
            cycle(client)

        with frozen(nodes[0], nodes[3]):
            waited = waits(work, 1, timeout)
            connections = client._context.pool._sets[0].state.all
            handles = [one.handle for one in connections]

            def anew() -> bool:
                nonlocal waited
                waited += waits(work, 1, timeout)
                return all(connections[place].handle is not handles[place] for place in (0, 3))

            eventually(anew, "new connections to the frozen nodes", every=0)
            waited += waits(work, 40, timeout)

    assert waited <= 8, "as if the frozen nodes had been waited for in every round: that gives forty"


def test_three_frozen_nodes_are_waited_for_once_too(nodes: Cluster) -> None:
    timeout = 2.0
    with Redlock(nodes.urls, ttl=9.0, node_timeout=timeout) as client:
        cycle(client)

        def fail() -> None:
            with pytest.raises(QuorumUnavailable):
                client.lock(NAME).acquire(blocking=False)

        with frozen(*nodes.servers[:3]):
            waited = waits(fail, 40, timeout)
        when_a_quorum_is_there(client)

    assert waited <= 8, "attempts that wait are forty timeouts"


def test_short_locks_notice_frozen_nodes(
    nodes: Cluster, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three nodes decide each round, so no round waits for the other two."""
    limit_no_pending(monkeypatch)
    caplog.set_level("INFO", "redlock")
    with client_of(nodes.urls, node_timeout=0.2) as client:
        when_a_quorum_is_there(client)

        def is_told() -> bool:
            cycle(client)
            return is_told_of(caplog, [nodes[1], nodes[3]])

        with frozen(nodes[1], nodes[3]):
            # On a busy machine another node is late too, and the round has no quorum.
            eventually(is_told, "both nodes in the log", despite=QuorumUnavailable)


def test_two_dead_nodes_are_no_error(nodes: Cluster, client: Redlock) -> None:
    lock = client.lock(NAME)
    lock.acquire()
    nodes[1].kill()
    nodes[3].kill()

    assert lock.owned()
    lock.extend(1)
    lock.release()
    for _ in range(10):
        cycle(client)
    with client_of(nodes.urls) as fresh:
        cycle(fresh)


def test_three_dead_nodes_are_named_with_the_reason_of_each(nodes: Cluster, client: Redlock) -> None:
    cycle(client)
    dead = [nodes[0], nodes[2], nodes[4]]
    kill_all(dead)

    def check(act: Callable[[], object]) -> None:
        with pytest.raises(QuorumUnavailable) as caught:
            act()
        error = caught.value
        assert set(error.reasons) == {label(server) for server in dead}
        for name, reason in error.reasons.items():
            assert reason
            assert f"{name}: {reason}" in str(error)
        assert (error.needed, error.nodes) == (3, 5)

    with client_of(nodes.urls) as fresh:
        for each in (client, fresh):
            lock = each.lock(NAME)
            check(partial(lock.acquire, blocking=False))
            check(partial(lock.acquire, blocking_timeout=0.1))
            check(each.lock(NAME, blocking=False).__enter__)
            check(lock.locked)


def test_an_endless_wait_ends_after_one_ttl_without_a_quorum(nodes: Cluster) -> None:
    with client_of(nodes.urls, ttl=0.5, max_ttl=1.0) as client:
        kill_all(nodes.servers[:3])

        with pytest.raises(QuorumUnavailable):
            client.lock(NAME).acquire()


def test_a_release_that_too_few_nodes_answer_is_no_lost_lock(nodes: Cluster, client: Redlock) -> None:
    lock = client.lock(NAME)
    lock.acquire()
    kill_all(nodes.servers[:3])

    lock.release()

    with pytest.raises(NotHeld):
        lock.release()


def test_a_restarted_node_votes_again(nodes: Cluster) -> None:
    with client_of(nodes.urls) as client:
        cycle(client)
        for place in (0, 1):
            nodes[place].kill()
        cycle(client)
        for place in (0, 1):
            nodes[place].start()
        eventually(lambda: all(is_recorded(client, nodes[place], "run_id") for place in (0, 1)), "the use of both")
        for place in (0, 1):
            end_quarantine(nodes[place])
        # Two other nodes die: without both restarted nodes there is no quorum.
        for place in (3, 4):
            nodes[place].kill()
        when_a_quorum_is_there(client)


def test_connections_that_the_nodes_have_closed_are_dialled_anew(nodes: Cluster, client: Redlock) -> None:
    cycle(client)
    for redis in raws(nodes.servers):
        redis.client_kill_filter(_type="normal", skipme=True)

    with suppress(QuorumUnavailable):
        cycle(client)  # this one may be the one that finds out

    cycle(client)


def test_what_a_frozen_node_was_sent_is_undone_when_it_wakes_up(nodes: Cluster) -> None:
    with client_of(nodes.urls, **LASTING) as client:
        lock = client.lock(NAME)
        cycle(client)

        with frozen(nodes[2]):
            for _ in range(3):
                assert lock.acquire(blocking=False)
                last = lock.fence
                lock.release()

        # Three SETs arrive now, each followed by its DEL on the same connection.
        with raw(nodes[2]) as redis:
            eventually(lambda: redis.get(codec.fence_key(NAME)) == str(last), "the last of the three at the node")
        eventually(lambda: is_free(nodes.servers, NAME), "no key on any node")
        cycle(client)


def test_keys_of_commands_on_dropped_connections_expire(nodes: Cluster) -> None:
    with client_of(nodes.urls, ttl=5.0, max_ttl=5.0) as client:
        cycle(client)
        with frozen(*nodes.servers[:3]):
            with pytest.raises(QuorumUnavailable):
                client.lock(NAME).acquire(blocking_timeout=1.5)
            client.close()
        eventually(lambda: is_free(nodes.servers, NAME), "no key on any node")
        when_a_quorum_is_there(client)


def test_late_answers_are_not_counted_for_the_next_attempt(nodes: Cluster, impatient: Redlock) -> None:
    cycle(impatient)
    with frozen(*nodes.servers[:3]), pytest.raises(QuorumUnavailable):
        impatient.lock(NAME).acquire(blocking=False)
    # Three times GRANTED is on its way now, for an attempt that was given up. Another client acquires the lock
    # meanwhile.
    with client_of(nodes.urls) as rival, rival.lock(NAME) as lease:
        eventually(lambda: holders(nodes.servers, NAME) == [lease.owner] * 5, "the rival's key on all nodes")

        assert impatient.lock(NAME).acquire(blocking=False) is False

        assert holders(nodes.servers, NAME) == [lease.owner] * 5


def test_nodes_that_lose_their_scripts_get_them_again(nodes: Cluster, client: Redlock) -> None:
    def flush_scripts() -> None:
        for redis in raws(nodes.servers):
            redis.script_flush()

    lock = client.lock(NAME)
    cycle(client)
    flush_scripts()
    assert lock.acquire(blocking=False)
    flush_scripts()
    lock.extend(0.5)
    flush_scripts()
    assert lock.owned()
    flush_scripts()
    lock.release()
    flush_scripts()
    assert client.lock(NAME).locked() is False
    for _ in range(3):
        cycle(client)


def test_an_attempt_without_scripts_is_cancelled_everywhere(nodes: Cluster) -> None:
    with client_of(nodes.urls, **LASTING) as client:
        cycle(client)
        for redis in raws(nodes.servers[:3]):
            redis.set(NAME, "somebody else", px=200_000)
        for redis in raws(nodes.servers):
            redis.script_flush()

        assert client.lock(NAME).acquire(blocking=False) is False
        cycle(client, "something else")

        eventually(lambda: is_free(nodes.servers[3:], NAME), "no key where nobody else has one")


def test_a_release_never_overtakes_its_acquire_on_a_slow_link(nodes: Cluster) -> None:
    with proxies(nodes.servers) as links, Redlock([link.url for link in links], **NEVER) as client:
        cycle(client)  # dials
        links[0].delay, links[4].delay = 0.05, 0.2
        # The acquire is won and released while its SET is still on the way to the slow nodes.
        for _ in range(20):
            cycle(client)

        assert client.lock(NAME).locked() is False, (
            "the answer of all five nodes, after everything that was sent before"
        )
        assert is_free(nodes.servers, NAME)


def test_a_release_goes_down_the_connections_that_took_the_lease(nodes: Cluster) -> None:
    with proxies(nodes.servers) as links, Redlock([link.url for link in links], **NEVER) as client:

        def set_delays(*seconds: float) -> None:
            for link, delay in zip(links, seconds, strict=True):
                link.delay = delay

        def asking() -> threading.Thread:
            """A thread that is in the middle of a question when this returns, on connections of its own."""
            before = [link.commands for link in links]
            thread = started(client.lock("another").locked)
            eventually(
                lambda: all(link.commands > ago for link, ago in zip(links, before, strict=True)), "the question sent"
            )
            return thread

        cycle(client, "another")  # dials
        set_delays(*[0.2] * 5)
        first = asking()
        client.lock("another").locked()  # dials a second set of connections
        first.join()
        first = asking()  # on the first set
        set_delays(1.0, 0, 0, 0, 1.0)
        lock = client.lock(NAME)
        assert lock.acquire(blocking=False)  # on the second set, and not yet at two of the nodes
        first.join()
        set_delays(*[0] * 5)

        lock.release()

        # On the first set the release would have been there before the acquire, and the key would stay.
        eventually(lambda: links[0].commands == links[2].commands, "everything sent")
        with raw(nodes[0]) as redis:
            eventually(lambda: redis.exists(codec.fence_key(NAME)), "the late acquire at the node")
        eventually(lambda: is_free(nodes.servers, NAME), "no key on any node")


def test_a_cancelled_attempt_leaves_nothing_on_a_slow_link(nodes: Cluster) -> None:
    with proxies(nodes.servers) as links, Redlock([link.url for link in links], **NEVER) as client:
        cycle(client, "another")  # dials
        links[0].delay = links[1].delay = 0.1
        for redis in raws(nodes.servers[2:]):
            redis.set(NAME, "somebody else", px=200_000)

        for _ in range(10):
            assert client.lock(NAME).acquire(blocking=False) is False

        assert client.lock(NAME).locked(), "the answer of all five nodes, after everything that was sent before"
        assert is_free(nodes.servers[:2], NAME), "a key where nobody else has one"
        for redis in raws(nodes.servers[:2]):
            assert redis.exists(codec.fence_key(NAME)), "the attempts were there"


def test_threads_share_a_few_connections_and_not_one_each(nodes: Cluster) -> None:
    done = []
    with client_of(nodes.urls, **LASTING) as client:

        def work(number: int) -> None:
            for _ in range(3):
                with client.lock(f"report:{number}", blocking_timeout=100):
                    pass
            done.append(number)

        in_threads(*(partial(work, number) for number in range(60)))

        with raw(nodes[0]) as redis:
            assert len(redis.client_list()) - 1 < 20
    assert len(done) == 60


STALLING = """
import logging
import sys
from redlock import Redlock

logging.basicConfig(stream=sys.stdout, format="%(message)s")  # warnings, such as node-silent
with Redlock(sys.argv[2:], ttl=9, node_timeout=2.0) as client:
    lock = client.lock("report:7")
    if sys.argv[1] == "round":
        assert not lock.locked()
    print("ready", flush=True)
    sys.stdin.readline()
    print("going", flush=True)
    try:
        print(lock.acquire(blocking=False), flush=True)
    except Exception as error:  # whatever it is, the test reads it
        print(type(error).__name__, error, flush=True)
"""


@pytest.mark.parametrize("stalled", ["dial", "round"])
def test_a_stall_of_the_client_does_not_make_nodes_silent(nodes: Cluster, stalled: str) -> None:
    # The whole process stands still in the middle of its dials or of a round, for longer than a node timeout. The
    # answers are there when it goes on, and there is plenty left of the TTL.
    with proxies(nodes.servers) as links, talking("-c", STALLING, stalled, *(link.url for link in links)) as talk:
        process, told, says = talk
        assert says.readline() == "ready\n"
        before = links[0].commands
        for link in links:
            link.delay = 0.15
        told.write("go\n")
        told.flush()
        assert says.readline() == "going\n"
        eventually(lambda: all(link.commands > before for link in links), "the commands on their way")
        os.kill(process.pid, signal.SIGSTOP)
        if stalled == "round":
            eventually(lambda: all(holders(nodes.servers, NAME)), "the acquire at the nodes")
        time.sleep(2.5)  # the stall itself: longer than a node timeout, and nothing to wait for
        for link in links:
            link.delay = 0.0
        os.kill(process.pid, signal.SIGCONT)
        said = says.read()

    assert said == "True\n"


def test_a_stall_in_a_send_makes_no_node_silent(nodes: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """The clock jumps instead: for longer than two node timeouts, and for less than a TTL. No reply has arrived yet."""
    jumps_ms, write = list[int](), Sockets.write

    def write_slowly(own: Sockets, connections: Iterable[NodeConnection]) -> None:
        jumps_ms.append(20_000)
        write(own, connections)

        def wait(wait_ms: int) -> Sequence[tuple[int, int]]:
            for node in nodes.servers if wait_ms else ():
                node.thaw()
            return own._readiness.wait(wait_ms)

        own.wait = wait

    with client_of(nodes.urls, node_timeout=9.0, **LASTING) as client, client.lock(NAME, renew=False) as lease:
        for module in (sockets, threads):
            monkeypatch.setattr(module, "now_ms", lambda: now_ms() + sum(jumps_ms))
        monkeypatch.setattr(Sockets, "write", write_slowly)
        with frozen(*nodes.servers):
            lease.extend(200.0)


def test_a_wait_for_a_dial_lengthens_no_renewal(nodes: Cluster) -> None:
    """A node answers no dial, and another node no command."""
    silent, late = nodes.servers[:2]
    with client_of(nodes.urls, node_timeout=0.2, **LASTING) as client, client.lock(NAME, renew=False) as lease:
        assert lease._grant is not None
        renewal = protocol.extend(lease._grant, 100_000, Wait.ALL)
        connections = ConnectionSet(client._context.nodes, client._context.codec, lambda _: None)
        own, waits_ms = connections._sockets, list[int]()
        wait, write = own.wait, own.write

        def noted(wait_ms: int) -> Sequence[tuple[int, int]]:
            waits_ms.append(wait_ms)
            return wait(wait_ms)

        def freezing(connections: Iterable[NodeConnection]) -> None:
            late.freeze()
            write(connections)

        with patch.multiple(own, wait=noted, write=freezing), frozen(silent):
            connections.run_all([renewal])
            late.thaw()
        connections.abandon()
    assert max(waits_ms) <= 200


HELD_AT_EXIT = """
import sys
from redlock import Redlock

client = Redlock(sys.argv[1:], node_timeout=2.0)
lock = client.lock("report:7")
assert lock.acquire()
print(lock.fence, flush=True)
"""


def test_a_program_ends_at_once_without_a_close(nodes: Cluster) -> None:
    with frozen(nodes[0]):
        done = run_python("-c", HELD_AT_EXIT, *nodes.urls, check=True)

    assert json.loads(done.stdout) > 0
    assert "Traceback" not in done.stderr
    assert "ignored" not in done.stderr


def test_a_client_reports_a_lost_quorum_and_recovers(nodes: Cluster, impatient: Redlock) -> None:
    cycle(impatient)
    with frozen(*nodes.servers):
        with pytest.raises(QuorumUnavailable) as caught:
            impatient.lock(NAME).acquire(blocking_timeout=0.3)
        assert set(caught.value.reasons) == {label(server) for server in nodes.servers}
        with pytest.raises(RedlockError):
            impatient.lock(NAME).locked()

    when_a_quorum_is_there(impatient)


@contextmanager
def all_in_use(client: Redlock) -> Iterator[None]:
    """Other threads use all connections that the process may have."""
    pool = client._context.pool
    with ExitStack() as turns:
        for _ in range(16):
            turns.enter_context(pool.connections())
        yield


@pytest.mark.parametrize("limit", [0.0, 0.2])
def test_an_acquire_ends_in_time_without_free_connections(nodes: Cluster, limit: float) -> None:
    with Redlock(nodes.urls, node_timeout=0.4) as client, ThreadPoolExecutor(1) as other, all_in_use(client):
        acquire = other.submit(client.lock(NAME, blocking_timeout=limit).acquire)
        with pytest.raises(QuorumUnavailable, match="all 16 connection sets of this process are in use"):
            acquire.result(100)


@pytest.mark.long(ci=True)
def test_a_lease_ends_in_time_without_free_connections(nodes: Cluster) -> None:
    """An extension, both kinds of release, and a look at the nodes."""
    with Redlock(nodes.urls, ttl=6.0, node_timeout=2.5) as client, ThreadPoolExecutor(4) as others:
        leases = [leased(client, name) for name in ("extended", "released", "asynchronously released")]
        extended, released, sent = leases
        with all_in_use(client):
            extension, release = others.submit(extended.extend, 1), others.submit(released.release)
            others.submit(sent.release, wait=False).result(100)
            assert sent.outcome() is Outcome.UNKNOWN
            look = others.submit(client.lock("extended").locked)
            with pytest.raises(LockLost, match="before connections were free"):
                extension.result(100)
            assert release.result(100) is Outcome.UNKNOWN
            with pytest.raises(QuorumUnavailable, match="in use"):
                look.result(100)
        when_a_quorum_is_there(client)


def test_the_wait_for_the_own_connections_ends_at_the_deadline(nodes: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []
    take = ConnectionSet.turn

    def turn(self: ConnectionSet, seconds: float = 0.0) -> Turn[ConnectionSet] | None:
        waits.append(seconds)
        return take(self, seconds)

    with client_of(nodes.urls) as client:
        lease = leased(client, NAME)
        assert lease._connections is not None
        with lease._connections.turn() or pytest.fail("in use"):
            # From now on each wait is recorded.
            monkeypatch.setattr(ConnectionSet, "turn", turn)
            with client._context.pool.connections(lease._connections, now_ms() + 50):
                pass
        assert waits[0] <= 0.05


def test_the_wait_for_an_outcome_uses_no_other_connections(nodes: Cluster) -> None:
    with client_of(nodes.urls) as client:
        lease = leased(client, NAME)
        connections = lease._connections
        assert connections is not None
        # As after a release that is held back on these connections.
        lease._grant, lease._outcome = None, Outcome.PENDING
        with connections.turn() or pytest.fail("in use"):
            assert lease.outcome() is Outcome.PENDING
        assert client._context.pool._sets == [connections]


def test_a_call_takes_connections_that_become_free_in_time(nodes: Cluster) -> None:
    with Redlock(nodes.urls, node_timeout=0.4) as client, ThreadPoolExecutor(1) as other:
        lock = client.lock(NAME, blocking_timeout=30)
        with all_in_use(client):
            acquire = other.submit(lock.acquire)
            assert not acquire.done()
        assert acquire.result(100)
        other.submit(lock.release).result(100)
