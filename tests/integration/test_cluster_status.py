"""The status of all nodes: holders, votes and node states, without any change on a node."""

from __future__ import annotations

import itertools
import json
import os
from typing import Any

import pytest

from redlock import ConfigurationError, LockLost, Redlock
from redlock._transport import codec
from redlock.admin.bootstrap import declare_nodes
from redlock.admin.cluster_status import ClusterStatus, LockInfo, cluster_status
from redlock.cli import main
from redlock.testing.redis_server import Cluster
from tests.integration.shell import run_python
from tests.integration.threads import started
from tests.integration.tools import CANARY, client_of, eventually, kill_all, label, leased, raw, raws, stands_on_all
from tests.proxy import proxies

NAME = "account:42"


def look(nodes: Cluster, **options: float | str) -> ClusterStatus:
    return cluster_status(nodes.urls, timeout=5.0, **options)  # type: ignore[arg-type]  # one of each type


def only(seen: ClusterStatus) -> LockInfo:
    (one,) = seen.locks
    return one


def test_it_shows_holders_with_token_and_votes(nodes: Cluster, client: Redlock) -> None:
    lease = leased(client, NAME, owner_label="task-1@w1 since 2026-11-24T12:00:00Z")
    seen = look(nodes)
    one = only(seen)
    assert (one.resource, one.holder, one.since) == (NAME, "task-1@w1", "2026-11-24T12:00:00Z")
    assert one.digits == lease.owner[:8]
    assert one.fence == lease.fence
    assert (one.votes, one.held, one.waiters) == ((True,) * 5, True, 0)
    assert one.remaining is not None
    assert 0 < one.remaining <= 9
    assert seen.voting == 5
    assert lease.owner.partition(":")[0] not in json.dumps(seen.as_dict())
    lease.release()
    assert not look(nodes).locks


def test_dead_and_frozen_nodes_are_named_with_the_reason(nodes: Cluster, client: Redlock) -> None:
    with client.lock(NAME, ttl=10):
        nodes[0].kill()
        nodes[1].freeze()
        seen = cluster_status(nodes.urls, timeout=2.0)
        nodes[1].thaw()
    assert [node.reachable for node in seen.nodes] == [False, False, True, True, True]
    assert seen.nodes[0].reason in {"connection refused", "no such file or directory"}
    assert seen.nodes[1].reason == "no answer within 2000 ms"
    assert only(seen).votes == (None, None, True, True, True)
    assert only(seen).held


def test_the_state_of_each_node_is_shown(nodes: Cluster, client: Redlock) -> None:
    with client.lock(NAME):
        pass
    node = look(nodes).nodes[2]
    with raw(nodes[2]) as redis:
        info = redis.info()
    assert node.label == label(nodes[2])
    version = f"Valkey {info['valkey_version']}" if "valkey_version" in info else info["redis_version"]
    assert (node.version, node.run_id) == (version, info["run_id"])
    assert (node.role, node.mode, node.eviction, node.aof, node.rdb) == (
        "master",
        "standalone",
        "noeviction",
        False,
        "",
    )
    assert node.used_memory > 0
    assert node.fingerprint == look(nodes).fingerprint
    assert node.clock_offset is not None
    assert abs(node.clock_offset) <= node.clock_error + 0.01
    assert node.missing == ()


def test_a_node_without_memory_is_shown_with_its_quarantine(nodes: Cluster, client: Redlock) -> None:
    with raw(nodes[0]) as redis:
        redis.flushall()
    # The quarantine begins at the first request.
    assert look(nodes).nodes[0].abstains == pytest.approx(10.102)
    with client.lock(NAME):
        pass
    eventually(lambda: 0 < look(nodes).nodes[0].abstains < 10.102, "a node whose time runs")
    seen = look(nodes)
    assert "abstains for another" in seen.nodes[0].reason
    assert seen.voting == 4


def test_the_record_of_another_process_does_not_count(nodes: Cluster) -> None:
    with raw(nodes[0]) as redis:
        redis.hset(codec.RECORD, mapping={"run_id": "an earlier one", "since": 0, "fingerprint": "nodes=3"})
    node = look(nodes).nodes[0]
    assert node.abstains == pytest.approx(10.102)
    assert node.fingerprint == ""


def test_it_changes_nothing_on_any_node(nodes: Cluster, client: Redlock) -> None:
    def everything() -> list[dict[Any, Any]]:
        found = []
        for redis in raws(nodes.servers):
            values = {key: redis.get(key) for key in redis.scan_iter(_type="string")}
            # Before Redis 7.0 no command has the time of the end.
            has_ends = int(redis.info("server")["redis_version"].split(".")[0]) >= 7
            ends = {key: redis.pexpiretime(key) if has_ends else redis.ttl(key) > 0 for key in values}
            found.append({"record": redis.hgetall(codec.RECORD), "values": values, "ends": ends})
        return found

    with raw(nodes[0]) as redis:
        redis.flushall()
    with client.lock(NAME, ttl=10, renew=False):
        before = everything()
        look(nodes)
        assert everything() == before
        assert before[0]["record"]
        assert NAME in before[1]["values"]


def test_waiters_are_counted_as_far_as_they_can_be_told_apart(nodes: Cluster, client: Redlock) -> None:
    def wait(name: str) -> None:
        with client_of(nodes.urls) as other, other.lock(name, ttl=10):
            pass

    def counts() -> list[int | None]:
        return [one.waiters for one in look(nodes).locks]

    with client.lock(NAME, ttl=10), client.lock("other", ttl=10):
        threads = [started(lambda: wait(NAME)) for _ in range(2)]
        eventually(lambda: counts() == [2, 0], "two who wait for the first lock")
    for thread in threads:
        thread.join()


def test_locks_of_other_clients_are_shown_and_other_keys_are_not(nodes: Cluster) -> None:
    for redis in raws(nodes.servers):
        redis.set("foreign", f"{CANARY}-and-more", px=60_000)
        redis.set("no lock, for it stands for ever", "x")
        redis.rpush("celery", "a queue")
        redis.set("two\nlines", "x", px=60_000)
    seen = look(nodes)
    one = only(seen)
    assert (one.resource, one.holder, one.digits, one.fence) == ("foreign", f"{CANARY[:5]}...", "", 0)
    assert CANARY not in json.dumps(seen.as_dict())


def test_a_spoilt_key_hides_no_other_lock(nodes: Cluster, client: Redlock) -> None:
    for redis in raws(nodes.servers):
        redis.set("spoilt", "x", px=60_000)
        redis.rpush(codec.fence_key("spoilt"), "a list")
        redis.rpush(codec.queue_key("spoilt"), "a list")
    with client.lock(NAME):
        stands_on_all(nodes.servers, NAME)
        seen = look(nodes)
    assert seen.is_known
    assert [held.resource for held in seen.locks] == [NAME, "spoilt"]


@pytest.mark.parametrize("fence", ["-5", "nan", "inf", "9" * 30])
def test_a_spoilt_fence_does_not_hide_its_lock(nodes: Cluster, fence: str) -> None:
    for redis in raws(nodes.servers):
        redis.set(NAME, "x", px=60_000)
        redis.set(codec.fence_key(NAME), fence)
    (held,) = look(nodes).locks
    assert (held.resource, held.held) == (NAME, True)


def test_a_split_vote_is_two_rows_without_a_holder(nodes: Cluster) -> None:
    for place, server in enumerate(nodes.servers[:4]):
        with raw(server) as redis:
            redis.set(NAME, f"client-{place % 2}", px=60_000)
    first, second = look(nodes).locks
    assert {first.votes, second.votes} == {(True, False) * 2 + (False,), (False, True) * 2 + (False,)}
    assert not first.held
    assert not second.held


@pytest.mark.parametrize("prefix", ["shop:", "sh*p[", "a?b\\"])
def test_only_names_with_the_prefix_are_shown_and_without_it(nodes: Cluster, prefix: str) -> None:
    declare_nodes(nodes.urls, prefix)
    with client_of(nodes.urls, prefix=prefix) as client, client.lock(NAME):
        stands_on_all(nodes.servers, prefix + NAME)
        for redis in raws(nodes.servers):
            redis.set("shopper", "x", px=60_000)
        seen = look(nodes, prefix=prefix)
        assert only(seen).resource == NAME
        assert only(seen).fence
        assert seen.nodes[0].fingerprint == seen.fingerprint


def test_more_locks_than_the_limit_are_said_to_be_more(nodes: Cluster) -> None:
    for redis in raws(nodes.servers):
        redis.eval(
            "for number = 0, 1199 do local name = string.format('lock-%04d', number);"
            " redis.call('SET', name, 'somebody', 'PX', 600000); redis.call('SET', ARGV[1] .. name, number) end",
            0,
            codec.fence_key(""),
        )
    seen = look(nodes, resources=100)
    assert len(seen.locks) == 100
    assert seen.more
    assert all(one.votes == (True,) * 5 for one in seen.locks), "all nodes are asked for the same names"
    everything = look(nodes, resources=5_000)
    assert len(everything.locks) == 1_200
    assert not everything.more
    assert not look(nodes, resources=0).locks


def test_one_node_with_many_keys_hides_no_lock(nodes: Cluster, client: Redlock) -> None:
    with raw(nodes[0]) as redis, redis.pipeline() as pipe:
        for number in range(300):
            pipe.set(f"!{number:03}", "x", px=600_000)
        pipe.execute()
    with client.lock(NAME):
        seen = look(nodes, resources=100)
    assert [lock.resource for lock in seen.locks if lock.held] == [NAME]
    assert seen.more


def test_too_many_keys_of_others_are_no_proof_of_no_lock(
    nodes: Cluster, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for redis in raws(nodes.servers):
        redis.eval("for i = 1, 5000 do redis.call('SET', 'other:' .. i, '') end", 0)
    # The time for the list is over after the first of its requests.
    clock = itertools.count(0, 60_000)
    monkeypatch.setattr("redlock.admin.node_probe.now_ms", lambda: next(clock))
    seen = look(nodes, prefix="mine:")
    assert {node.unlisted for node in seen.nodes} == {"too many keys to read all within 5000 ms"}
    assert not seen.is_known
    main.main(["status", "--timeout", "5", "--nodes", ",".join(nodes.urls)])
    assert "no locks are held" not in capsys.readouterr().out


def test_all_nodes_are_asked_at_the_same_time(nodes: Cluster) -> None:
    with proxies(nodes.servers, delay=0.2) as links:
        seen = cluster_status([link.url for link in links], timeout=5.0)
        assert seen.voting == 5
        assert len({link.commands for link in links}) == 1


@pytest.mark.parametrize("exchanges", [3, None])
def test_slow_answers_are_no_proof_of_no_lock(
    nodes: Cluster, client: Redlock, monkeypatch: pytest.MonkeyPatch, exchanges: int | None
) -> None:
    if exchanges:
        monkeypatch.setattr("redlock.admin.cluster_status._EXCHANGES", exchanges)
    with client.lock(NAME, ttl=10), proxies(nodes.servers, delay=0.4) as links:
        seen = cluster_status([link.url for link in links], timeout=0.5)
    assert not seen.is_known or only(seen).held


def test_a_missing_right_to_list_names_is_reported(nodes: Cluster) -> None:
    with raw(nodes[0]) as redis:
        redis.acl_setuser("limited", enabled=True, passwords=[f"+{CANARY}"], keys=["*"], commands=["+@all", "-scan"])
    urls = [f"{nodes[0].url}?username=limited&password={CANARY}", *nodes.urls[1:]]
    with client_of(urls) as client, client.lock(NAME):
        stands_on_all(nodes.servers, NAME)
        seen = cluster_status(urls, timeout=5.0)
    assert seen.nodes[0].unlisted == "SCAN is forbidden, or was renamed"
    assert only(seen).votes == (True,) * 5
    assert CANARY not in json.dumps(seen.as_dict())


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"nodes": []}, "the list of nodes is empty"),
        ({"nodes": ["http://h:1"]}, "begins with 'http'"),
        ({"nodes": ["h:1"], "timeout": 0}, "timeout is 0"),
        ({"nodes": ["h:1"], "max_ttl": -1}, "max_ttl is -1"),
        ({"nodes": ["h:1"], "resources": -1}, "resources is -1"),
        ({"nodes": ["h:1"], "prefix": "\n"}, "prefix"),
    ],
)
def test_bad_input_is_refused_before_any_request(options: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        cluster_status(**options)  # type: ignore[arg-type]  # the wrong types are the test


def test_the_command_shows_it_as_a_table_and_as_json(
    nodes: Cluster, client: Redlock, capsys: pytest.CaptureFixture[str]
) -> None:
    urls = ",".join(nodes.urls)
    with client.lock(NAME, ttl=10) as lease:
        digits, fence = lease.owner[:8], lease.fence
        stands_on_all(nodes.servers, NAME)
        nodes[4].kill()
        assert main.main(["status", "--nodes", urls, "--timeout", "5"]) == 0
        text = capsys.readouterr().out
        assert main.main(["status", "--nodes", urls, "--timeout", "5", "--json"]) == 0
        told = json.loads(capsys.readouterr().out)
    (line,) = [line for line in text.splitlines() if line.startswith(NAME)]
    assert f"({digits})" in line
    assert f"++++? 4/5  {fence}" in line
    assert "4 of 5 nodes vote, 3 are needed" in text
    assert told["voting"] == 4
    assert told["locks"][0]["fence"] == fence
    kill_all(nodes.servers[2:4])
    assert main.main(["status", "--nodes", urls]) == main.NO_QUORUM


def test_an_unsuitable_server_is_shown_too(nodes: Cluster) -> None:
    with raw(nodes[0]) as redis:
        redis.replicaof("127.0.0.1", 1)
    node = look(nodes).nodes[0]
    assert node.reachable
    assert node.role == "slave"
    assert node.reason.startswith("a replica of 127.0.0.1:1")


@pytest.mark.parametrize(
    ("setting", "value", "reason"),
    [
        ("maxmemory", "1", "out of memory (maxmemory)"),
        ("min-replicas-to-write", "1", "refuses writes because too few replicas are connected"),
    ],
)
def test_a_node_that_refuses_writes_is_named(
    nodes: Cluster, client: Redlock, setting: str, value: str, reason: str
) -> None:
    with client.lock(NAME):
        with raw(nodes[1]) as redis:
            redis.config_set(setting, value)
        node = look(nodes).nodes[1]
        assert not node.votes
        assert node.reason.startswith(reason)
        assert node.reports, "it can be read"
        with raw(nodes[1]) as redis:
            assert not redis.exists(codec.PROBE)
            redis.config_set(setting, "0")
        assert look(nodes).nodes[1].votes


def test_without_a_quorum_the_state_is_unknown(
    nodes: Cluster, client: Redlock, capsys: pytest.CaptureFixture[str]
) -> None:
    with client.lock(NAME, ttl=10, wait_for_release=False):
        kill_all(nodes.servers[:3])
        assert main.main(["status", "--timeout", "5", "--nodes", ",".join(nodes.urls)]) == main.NO_QUORUM
        said = capsys.readouterr().out.splitlines()
        assert said[0] == "The state of the locks is unknown: 2 of 5 nodes report it, 3 are needed."
        assert [line for line in said if NAME in line and "unconfirmed" in line]
        assert [label(server) in "\n".join(said) for server in nodes.servers[:3]] == [True] * 3
        main.main(["status", "--timeout", "5", "--json", "--nodes", ",".join(nodes.urls)])
        told = json.loads(capsys.readouterr().out)
        assert (told["is_known"], told["problem"]) == (False, said[0])


def test_a_terminal_without_the_characters_of_a_name_is_enough(nodes: Cluster) -> None:
    environment = {**os.environ, "PYTHONIOENCODING": "ascii", "REDLOCK_NODES": ",".join(nodes.urls)}

    def said_by(*words: str) -> str:
        ended = run_python("-m", "redlock", *words, env=environment)
        assert not ended.stderr
        return ended.stdout

    with client_of(nodes.urls) as client, pytest.raises(LockLost), client.lock("\u0438\u043c\u044f"):
        assert "\\u0438\\u043c\\u044f" in said_by("status", "--timeout", "5")
        assert "\\u0438\\u043c\\u044f" in said_by("release", "--force", "--yes", "\u0438\u043c\u044f")
