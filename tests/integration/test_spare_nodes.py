"""Lock nodes that serve one test after another: a test sees nothing of an earlier test."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from redis import Redis
from redis.exceptions import ConnectionError as NoConnection

from redlock._transport.codec import RECORD
from redlock.testing.redis_server import Server
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


def set_a_limit(server: Server) -> None:
    with raw(server) as redis:
        redis.config_set("maxmemory", "100mb")


def set_a_password(server: Server) -> None:
    with raw(server) as redis:
        redis.config_set("requirepass", "white")


def add_a_user(server: Server) -> None:
    with raw(server) as redis:
        redis.acl_setuser("other", enabled=True)


def save(server: Server) -> None:
    with raw(server) as redis:
        redis.save()


def start_again(server: Server) -> None:
    server.kill()
    server.start()


@pytest.mark.parametrize(
    "change", [set_a_limit, set_a_password, add_a_user, save, start_again, lambda server: server.kill()]
)
def test_a_server_that_has_changed_serves_no_other_test(spare: SpareNodes, change: Callable[[Server], None]) -> None:
    with spare.lent() as nodes:
        pids = {server.pid for server in nodes.servers}
        changed = nodes[2].pid
        change(nodes[2])
    with spare.lent() as nodes:
        assert pids - {server.pid for server in nodes.servers} == {changed}


def test_a_frozen_server_is_thawed_for_the_next_test(spare: SpareNodes) -> None:
    with spare.lent() as nodes:
        nodes[1].freeze()
        pid = nodes[1].pid
    with spare.lent() as nodes, raw(nodes[1]) as redis:
        assert redis.ping()
        assert nodes[1].pid == pid
