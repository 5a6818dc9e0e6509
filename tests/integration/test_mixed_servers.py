"""A cluster of servers of several versions and makers, each of which is replaced by another in turn."""

from __future__ import annotations

import functools
import threading
from collections.abc import Iterator

import pytest

from redlock.admin.cluster_status import cluster_status
from redlock.testing.redis_server import Cluster, Server, running
from tests import servers
from tests.integration.threads import started
from tests.integration.tools import client_of, eventually

NAME = "invoice:9"
MAX_TTL = 5.0
"""Seconds. A node that was replaced abstains for this time and a margin."""


@pytest.fixture
def programs() -> list[str]:
    return servers.several()


@pytest.fixture
def mixed(programs: list[str]) -> Iterator[Cluster]:
    """Five nodes with all versions that there are."""
    with running([Server(program=programs[place % len(programs)]) for place in range(5)]) as nodes:
        yield nodes


def votes(nodes: Cluster, place: int) -> bool:
    return cluster_status(nodes.urls, max_ttl=MAX_TTL, timeout=5.0).nodes[place].votes


def grew(fences: list[int], count: int) -> bool:
    return len(fences) > count


def versions(nodes: Cluster) -> list[str]:
    return [node.version for node in cluster_status(nodes.urls, max_ttl=MAX_TTL, timeout=5.0).nodes]


def test_nodes_of_all_versions_vote_and_show_the_lock(mixed: Cluster) -> None:
    with client_of(mixed.urls, max_ttl=MAX_TTL, ttl=MAX_TTL) as client, client.lock(NAME):
        status = cluster_status(mixed.urls, max_ttl=MAX_TTL, timeout=5.0)
        assert [lock.resource for lock in status.locks] == [NAME]
        assert status.voting == 5
    shown = {version if version.startswith("Valkey") else f"Redis {version}" for version in versions(mixed)}
    assert shown == set(list(servers.present())[:5])


@pytest.mark.long
def test_tokens_grow_while_nodes_change_their_version(mixed: Cluster, programs: list[str]) -> None:
    fences: list[int] = []
    inside = threading.Lock()
    stop = threading.Event()

    def compete() -> None:
        with client_of(mixed.urls, max_ttl=MAX_TTL, ttl=MAX_TTL) as client:
            while not stop.is_set():
                with client.lock(NAME, blocking_timeout=100) as lease:
                    assert inside.acquire(blocking=False), "two holders"
                    fences.append(lease.fence)
                    inside.release()

    threads = [started(compete) for _ in range(3)]
    try:
        for place, node in enumerate(mixed.servers):
            before, count = versions(mixed)[place], len(fences)
            node.kill()
            node._program = programs[(place + 1) % len(programs)]
            node.start()
            eventually(functools.partial(votes, mixed, place), "its vote")
            assert versions(mixed)[place] != before
            eventually(functools.partial(grew, fences, count), "further leases")
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert fences == sorted(set(fences))
