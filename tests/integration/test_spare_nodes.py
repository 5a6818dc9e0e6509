"""Lock nodes that serve one test after another: a test sees nothing of an earlier test."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from redis import Redis
from redis.exceptions import ConnectionError as NoConnection

from redlock._transport.codec import RECORD
from tests.integration.tools import client_of, raw
from tests.spare_nodes import SpareNodes


@pytest.fixture
def spare() -> Iterator[SpareNodes]:
    spare = SpareNodes()
    yield spare
    spare.stop()


def test_the_next_test_finds_the_same_servers_as_new(spare: SpareNodes) -> None:
    with spare.lent() as nodes:
        urls, pids = nodes.urls, [server.pid for server in nodes.servers]
        left = Redis.from_url(urls[0])
        with client_of(urls) as client:
            assert client.lock("x").acquire(blocking=False)
            left.set("y", 1)
            sha = left.script_load("return 1")
    with spare.lent() as nodes:
        assert [server.pid for server in nodes.servers] == pids
        assert not set(urls) & set(nodes.urls)
        with raw(nodes[0]) as redis:
            assert redis.keys() == [RECORD]
            assert redis.script_exists(sha) == [False]
            assert "cmdstat_set" not in redis.info("commandstats")
        with pytest.raises(NoConnection):
            left.ping()
        with client_of(nodes.urls) as client:
            assert client.lock("x").acquire(blocking=False)
    left.close()


@pytest.mark.parametrize(
    "change",
    ["CONFIG SET maxmemory 100mb", "CONFIG SET requirepass white", "ACL SETUSER other on", "SAVE", "kill", "restart"],
)
def test_a_server_that_has_changed_serves_no_other_test(spare: SpareNodes, change: str) -> None:
    with spare.lent() as nodes:
        pids, server = {server.pid for server in nodes.servers}, nodes[2]
        changed = server.pid
        if change in {"kill", "restart"}:
            server.kill()
            if change == "restart":
                server.start()
        else:
            with raw(server) as redis:
                redis.execute_command(*change.split())
    with spare.lent() as nodes:
        assert pids - {server.pid for server in nodes.servers} == {changed}


def test_a_frozen_server_is_thawed_for_the_next_test(spare: SpareNodes) -> None:
    with spare.lent() as nodes:
        nodes[1].freeze()
        pid = nodes[1].pid
    with spare.lent() as nodes, raw(nodes[1]) as redis:
        assert redis.ping()
        assert nodes[1].pid == pid
