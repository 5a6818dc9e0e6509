"""Lock nodes whose wall clocks jump or run fast: the bound on drift covers some faults, and the fence the others."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from redlock import LockLost, Stale
from redlock.admin.cluster_status import cluster_status
from redlock.fencing import FencedStore
from redlock.testing.redis_server import Cluster, Server
from tests.faults.clocks import COMPILER, Clock, clocked
from tests.integration.tools import LASTING, client_of, eventually, holders

JUMP = 300.0
"""Seconds, more than the TTL of the leases here: with shorter leases, a renewal could come before a check."""
Clocks = tuple["Cluster", "list[Clock]"]


@pytest.fixture
def clocks(tmp_path: Path) -> Iterator[Clocks]:
    """Five lock nodes, and the wall clock of each."""
    if COMPILER is None:
        pytest.skip("no C compiler")
    with clocked(tmp_path) as found:
        yield found


def test_jumping_clocks_of_a_quorum_let_only_the_later_write(
    clocks: Clocks, broker: Server, caplog: pytest.LogCaptureFixture
) -> None:
    nodes, wall = clocks
    store = FencedStore(f"{broker.url}/2")
    with (
        client_of(nodes.urls, **LASTING) as first,
        client_of(nodes.urls, **LASTING) as second,
        pytest.raises(LockLost),
        first.lock("hits", blocking_timeout=30) as early,
    ):
        section = store.open("hits", early)
        for clock in wall[:3]:
            clock.jump(JUMP)
        with second.lock("hits", blocking_timeout=30) as late:
            assert not early.is_lost, "it took too long to show anything"
            assert late.fence > early.fence
            assert store.update("hits", late, "op-2", lambda value: str(int(value or 0) + 1)).value == "1"
            with pytest.raises(Stale):
                store.write(section, "1", "op-1")
        assert store.read_unfenced("hits") == "1"

        def reported() -> bool:
            with first.lock("another", blocking_timeout=30):
                return "clock-jump" in caplog.text

        eventually(reported, "a word about a clock that has jumped")


def test_a_clock_of_one_node_that_jumps_changes_nothing(clocks: Clocks) -> None:
    nodes, wall = clocks
    with (
        client_of(nodes.urls, **LASTING) as first,
        client_of(nodes.urls, **LASTING) as second,
        first.lock("hits") as lease,
    ):
        eventually(lambda: holders(nodes.servers, "hits") == [lease.owner] * 5, "the lock on all nodes")
        wall[2].jump(JUMP)
        assert holders(nodes.servers, "hits") == [lease.owner] * 2 + [None] + [lease.owner] * 2, (
            "the clock did not jump"
        )
        assert not second.lock("hits").acquire(blocking=False)
        wall[2].jump(-JUMP)
        assert not second.lock("hits").acquire(blocking=False)
        lease.ensure_valid()


def test_the_repair_of_a_clock_ends_no_quarantine_early(clocks: Clocks) -> None:
    """By operations.md: stop the node, set the clock, start the node."""
    nodes, wall = clocks
    third = nodes[2]
    cut_off = [f"unix:///nowhere/{place}.sock" for place in (4, 5)]
    with (
        client_of([*nodes.urls[:3], *cut_off], max_ttl=60, ttl=60) as first,
        client_of(nodes.urls, max_ttl=60) as second,
    ):
        with second.lock("other", blocking_timeout=30):
            """All nodes have a record now."""
        early, late = first.lock("hits", renew=False), second.lock("hits")
        assert early.acquire(), "on the first three nodes"

        def abstains() -> bool:
            """Whether the quarantine has begun, at the node's first contact with a client."""
            with second.lock("other", blocking_timeout=30):
                return 0 < cluster_status(nodes.urls, max_ttl=60, resources=0).nodes[2].abstains < 60

        third.kill()
        wall[2].jump(-7_200)
        third.start()
        eventually(abstains, "the quarantine of the restarted node")
        assert not late.acquire(blocking=False)
        third.kill()
        wall[2].jump(7_200)
        third.start()
        eventually(abstains, "the next quarantine")
        assert not late.acquire(blocking=False), "two holders at once"
        early.lease.ensure_valid()


def test_drift_within_the_bound_ends_no_lease_early(clocks: Clocks) -> None:
    nodes, wall = clocks
    for clock in wall:
        clock.run(1.009)
    with client_of(nodes.urls, ttl=3) as first, client_of(nodes.urls, ttl=3) as second:
        early, late = first.lock("hits"), second.lock("hits", blocking=False)

        def is_asked_just_before_the_end() -> bool:
            """Whether a question came within the last 20 ms: without the margin for drift, the nodes have forgotten."""
            assert early.acquire(), "which nothing renews"
            # A much earlier end shows at the first question.
            eventually(lambda: early.lease.remaining() < 0.3, "the last part of the lease", every=0.05)
            is_asked, before = False, early.lease.remaining()
            while not late.acquire():
                after = early.lease.remaining()
                is_asked = is_asked or (before < 0.02 and after > 0)
                before = after
            assert early.lease.is_lost
            late.release()
            return is_asked

        eventually(is_asked_just_before_the_end, "a question just before the end of a lease")


def test_fast_clocks_of_a_quorum_let_only_the_later_write(clocks: Clocks, broker: Server) -> None:
    nodes, wall = clocks
    store = FencedStore(f"{broker.url}/2")
    with client_of(nodes.urls, **LASTING) as first, client_of(nodes.urls, **LASTING) as second:
        for clock in wall[:3]:
            clock.run(80.0)
        with pytest.raises(LockLost), first.lock("hits", renew=False) as early:
            section = store.open("hits", early)
            with second.lock("hits", blocking_timeout=30) as late:
                for clock in wall[:3]:
                    clock.run(1.0)
                assert early.remaining() > 1, "the first one's time is over, which shows nothing"
                assert store.update("hits", late, "op-2", lambda value: str(int(value or 0) + 1)).value == "1"
            with pytest.raises(Stale):
                store.write(section, "1", "op-1")
        assert store.read_unfenced("hits") == "1"
