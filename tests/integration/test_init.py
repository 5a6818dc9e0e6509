"""`redlock init`: new nodes vote at once, and no node that may have forgotten a lock."""

from __future__ import annotations

import pytest

from redlock import ConfigurationError
from redlock._transport import codec
from redlock.admin.bootstrap import declare_nodes
from redlock.testing.redis_server import Cluster
from tests.integration.shell import run_python
from tests.integration.tools import client_of, label, raw, raws


def test_new_nodes_vote_once_they_are_declared(new_servers: Cluster) -> None:
    declare_nodes(new_servers.urls)
    with client_of(new_servers.urls) as client:
        assert client.lock("x").acquire(blocking=False)
    with pytest.raises(ConfigurationError, match="has a record already"):
        declare_nodes(new_servers.urls)


def test_a_node_out_of_reach_leaves_all_nodes_undeclared(new_servers: Cluster) -> None:
    new_servers[2].kill()
    with pytest.raises(ConfigurationError, match=r"can't be declared.*\(declared nodes: none\)"):
        declare_nodes(new_servers.urls)
    for redis in raws(new_servers.servers[:2]):
        assert not redis.exists(codec.RECORD)


def test_a_declaration_that_failed_half_way_is_repeated(new_servers: Cluster) -> None:
    with raw(new_servers[2]) as redis:
        redis.hset(codec.RECORD, "since", "5")
        with pytest.raises(ConfigurationError) as failed:
            declare_nodes(new_servers.urls)
        first, second, third = map(label, new_servers.servers)
        assert str(failed.value).startswith(f"node {third} can't be declared")
        assert str(failed.value).endswith(f"(declared nodes: {first}, {second})")
        redis.delete(codec.RECORD)
    declare_nodes(new_servers.urls)
    with client_of(new_servers.urls) as client:
        assert client.lock("x").acquire(blocking=False)


def test_two_addresses_of_one_server_are_not_declared(new_servers: Cluster) -> None:
    first, second, _ = new_servers.urls
    with pytest.raises(ConfigurationError, match="the same server as"):
        declare_nodes([first, second, first])


@pytest.mark.long
def test_init_declares_only_nodes_without_a_record(new_servers: Cluster) -> None:
    command = ("-m", "redlock", "init", "--yes", "--nodes", ",".join(new_servers.urls))
    first = run_python(*command)
    assert first.returncode == 0, first.stderr
    assert "risk" in first.stdout
    with client_of(new_servers.urls) as client:
        assert client.lock("x").acquire(blocking=False)
    second = run_python(*command)
    assert second.returncode == 2
    assert "has a record already" in second.stderr
    assert "Traceback" not in second.stderr
