"""Two projects on the same nodes, told apart by their prefixes alone."""

from __future__ import annotations

from functools import partial

import pytest
from redis import Redis
from redis.exceptions import ResponseError

from redlock import QuorumUnavailable
from redlock._transport import codec
from redlock.admin.bootstrap import declare_nodes
from redlock.admin.cluster_status import ClusterStatus, cluster_status
from redlock.testing import redis_server
from redlock.testing.redis_server import Cluster
from tests.integration.acl import let_in
from tests.integration.threads import started
from tests.integration.tools import CANARY, client_of, eventually, raw, raws

NAME = "nightly"


def test_two_projects_with_different_ttls_share_nodes(nodes: Cluster) -> None:
    declare_nodes(nodes.urls, "team1:")
    declare_nodes(nodes.urls, "team2:")
    with (
        client_of(nodes.urls, prefix="team1:", ttl=5.0, max_ttl=5.0) as one,
        client_of(nodes.urls, prefix="team1:", ttl=5.0, max_ttl=5.0) as rival,
        client_of(nodes.urls, prefix="team2:", ttl=20.0, max_ttl=60.0) as two,
        one.lock(NAME) as mine,
        two.lock(NAME) as theirs,
    ):
        assert mine.owner != theirs.owner
        assert not rival.lock(NAME).acquire(blocking=False)
        for prefix, max_ttl, lease in (("team1:", 5.0, mine), ("team2:", 60.0, theirs)):
            seen = cluster_status(nodes.urls, prefix=prefix, max_ttl=max_ttl, timeout=5.0)
            assert [held.resource for held in seen.locks] == [NAME]
            assert {held.fence for held in seen.locks} == {lease.fence}
            assert seen.voting == 5, "no other project's terms count"
        first = mine.remaining()
        eventually(lambda: mine.remaining() > first, "a renewal")
        theirs.extend(1.0)
    with raw(nodes[0]) as redis:
        strangers = [
            key for key in redis.scan_iter() if not key.startswith(("team1:", "team2:")) and key != codec.RECORD
        ]
        assert strangers == []


def test_waiters_of_another_project_are_not_counted(nodes: Cluster) -> None:
    declare_nodes(nodes.urls, "team1:")

    def wait_elsewhere(url: str) -> None:
        with Redis.from_url(url) as other:
            other.blpop(["team2:queue"], timeout=60)

    def wait() -> None:
        with client_of(nodes.urls, prefix="team1:") as rival, rival.lock(NAME):
            pass

    threads = [started(partial(wait_elsewhere, url)) for url in nodes.urls for _ in range(3)]
    with client_of(nodes.urls, prefix="team1:") as client:
        with client.lock(NAME):
            threads.append(started(wait))
            eventually(lambda: [node.blocked for node in look(nodes).nodes].count(3) == 4, "all who wait")
            eventually(lambda: [lock.waiters for lock in look(nodes).locks] == [1], "the only waiter")
        for redis in raws(nodes.servers):
            redis.rpush("team2:queue", 1, 2, 3)
        for thread in threads:
            thread.join()


def look(nodes: Cluster) -> ClusterStatus:
    """The status of the first project."""
    return cluster_status(nodes.urls, prefix="team1:", timeout=5.0)


def test_each_project_waits_for_its_own_longest_lease(nodes: Cluster) -> None:
    """A restarted node abstains for each project as long as a lease of that project can last."""
    for server in nodes.servers[:3]:
        server.kill()
        server.start()
    with (
        client_of(nodes.urls, prefix="team1:", ttl=4.5, max_ttl=4.5) as brief,
        client_of(nodes.urls, prefix="team2:", ttl=4.5, max_ttl=60.0) as long,
    ):
        with pytest.raises(QuorumUnavailable, match=r"abstains for another (59|60)"):
            long.lock(NAME).acquire(blocking=False)
        eventually(lambda: brief.lock(NAME).acquire(blocking=False), "a vote", despite=QuorumUnavailable)
        with pytest.raises(QuorumUnavailable, match=r"abstains for another"):
            long.lock(NAME).acquire(blocking=False)


@pytest.mark.parametrize("user", ["lock", "operator"])
def test_an_acl_confines_a_project_to_its_prefix(user: str) -> None:
    with redis_server.cluster(3, prefix="team1:") as three:
        let_in(three.servers, user, CANARY, keys="~team1:*")
        urls = [f"{url}?username={user}&password={CANARY}" for url in three.urls]
        with (
            client_of(urls, prefix="team1:") as client,
            client_of(urls, prefix="team1:") as rival,
            client_of(urls, prefix="team2:") as other,
        ):
            with client.lock(NAME) as lease:
                lease.extend(1.0)
                assert not rival.lock(NAME).acquire(blocking_timeout=0.1)
                assert cluster_status(urls, prefix="team1:", timeout=5.0).voting == 3
            with pytest.raises(QuorumUnavailable, match="may not"):
                other.lock(NAME).acquire(blocking=False)
            (why, *_) = {node.reason for node in cluster_status(urls, prefix="team2:", timeout=5.0).nodes}
            assert "may not run what the lock needs" in why
        with Redis.from_url(urls[0]) as redis, pytest.raises(ResponseError, match=r"(?i)no permissions"):
            redis.set("team2:nightly", "stolen")
