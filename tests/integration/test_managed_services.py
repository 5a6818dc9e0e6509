"""Nodes of managed services, where commands are forbidden to the user or do not exist: the lock works without them."""

from __future__ import annotations

import contextlib
import http
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from redlock import QuorumUnavailable
from redlock.admin import doctor
from redlock.admin.bootstrap import declare_nodes
from redlock.admin.cluster_status import cluster_status
from redlock.admin.diagnostics import Level
from redlock.cli.status_table import table
from redlock.settings import Settings
from redlock.testing.redis_server import Cluster, Server, cluster, running
from tests.integration.flowers import Flower
from tests.integration.shell import run_python
from tests.integration.threads import started
from tests.integration.tools import client_of, eventually, holders, new_server, raw, raws, sixth_redis, stands_on_all
from tests.integration.worker_fixture import WorkerFixture
from tests.servers import present, program

NAME = "invoice:9"
PARTS = ("-info", "+info|server", "+info|replication")
SILENT = "INFO memory, INFO persistence, INFO clients"
FORBIDDEN = {
    "CONFIG": (["-config"], "CONFIG GET", Level.FINE),
    "ACL": (["-acl"], "", Level.FINE),
    "CLIENT": (["-client"], "", Level.FINE),
    "SCAN": (["-scan"], "SCAN", Level.FINE),
    "administration": (["-@admin"], "CONFIG GET", Level.FINE),
    "danger, except INFO": (["-@dangerous", "+info"], "CONFIG GET", Level.FINE),
    "parts of INFO": ([*PARTS], SILENT, Level.WARNING),
    "parts of INFO, and CONFIG": ([*PARTS, "-config"], f"CONFIG GET, {SILENT}", Level.WARNING),
}
"""The rules of a user, the commands that the doctor misses, and the level of its finding."""
NEEDED = {
    "-info": "INFO server, INFO replication",
    "-info +info|server": "INFO replication",
    "-info +info|replication": "INFO server",
    "-time": "TIME",
    "-script": "SCRIPT LOAD",
    "-evalsha": "EVALSHA",
}
"""Rules of a user without a vote, and the commands in the doctor's finding."""


@pytest.fixture(scope="module")
def services() -> Iterator[Cluster]:
    """Three nodes of the versions that this machine has."""
    # Before 7.0 a node can't report which permissions are missing.
    programs = [path for version, path in present().items() if "Redis 6." not in version]
    with running([Server(program=programs[place % len(programs)]) for place in range(3)]) as nodes:
        yield nodes


def as_user(nodes: Cluster, *rules: str) -> list[str]:
    """The addresses of these nodes, emptied, with a user of these rules."""
    for redis in raws(nodes.servers):
        redis.flushall()
        redis.execute_command("ACL", "SETUSER", "tenant", "reset", "on", ">secret", "~*", "&*", "+@all", *rules)
    declare_nodes(nodes.urls)
    return [f"{url}?username=tenant&password=secret" for url in nodes.urls]


def missed(urls: Sequence[str]) -> dict[str, Level]:
    """The commands that the doctor misses, with the level of the finding. Other findings fail the test."""
    findings = doctor.check(Settings(nodes=",".join(urls)), timeout=5.0)
    assert {each.code for each in findings if each.level is not Level.FINE} <= {"not-reported"}
    found = {}
    for each in findings:
        if each.code == "not-reported":
            assert each.where == "nodes", "the same on each node"
            found[each.what.removeprefix("no answer to ").partition(";")[0]] = each.level
    return found


def works(nodes: Cluster, urls: Sequence[str], *, lists: bool) -> None:
    """Acquire, show, wait for, extend and release a lock."""
    got: list[bool] = []
    with client_of(urls) as client, client_of(urls) as other:
        with client.lock(NAME) as lease:
            waiter = started(lambda: got.append(other.lock(NAME).acquire(blocking_timeout=100)))
            eventually(lambda: any(node.blocked for node in cluster_status(nodes.urls, timeout=5.0).nodes), "a waiter")
            lease.extend(5.0)
            status = cluster_status(urls, timeout=5.0)
        waiter.join()
    assert got == [True]
    assert (status.voting, [lock.resource for lock in status.locks]) == (len(urls), [NAME] if lists else [])
    assert ("SCAN is forbidden, or was renamed" in table(status)) is not lists


@pytest.mark.parametrize("command", FORBIDDEN)
def test_the_lock_works_where_a_command_is_forbidden(services: Cluster, command: str) -> None:
    rules, absent, level = FORBIDDEN[command]
    urls = as_user(services, *rules)
    works(services, urls, lists=command != "SCAN")
    assert missed(urls) == ({absent: level} if absent else {})


@pytest.mark.parametrize("command", ["CONFIG", "ACL", "CLIENT", "SCAN"])
@pytest.mark.parametrize("version", ["Redis 7.0", "Redis 8", "Valkey 9"])
def test_the_lock_works_where_a_command_was_renamed(version: str, command: str) -> None:
    with cluster(3, options=("--rename-command", command, ""), program=program(version)) as nodes:
        works(nodes, nodes.urls, lists=command != "SCAN")
        absent = {"CONFIG": "CONFIG GET", "SCAN": "SCAN"}.get(command)
        assert missed(nodes.urls) == ({absent: Level.FINE} if absent else {})


def test_a_name_of_the_client_is_wanted_and_not_needed(services: Cluster) -> None:
    urls = [f"{url}&client_name=shop" for url in as_user(services, "-client")]
    with client_of(urls) as client, client.lock(NAME):
        pass
    urls = [f"{url}?client_name=shop" for url in services.urls]
    with client_of(urls) as client, client.lock(NAME), raw(services[0]) as redis:
        assert "shop" in {each["name"] for each in redis.client_list()}


@pytest.mark.parametrize("rules", NEEDED)
def test_the_doctor_names_each_command_that_the_lock_needs(services: Cluster, rules: str) -> None:
    urls = as_user(services, *rules.split())
    with client_of(urls) as client, pytest.raises(QuorumUnavailable):
        client.lock(NAME).acquire(blocking=False)
    findings = doctor.check(Settings(nodes=",".join(urls)), timeout=5.0)
    said = f"the user may not run what the lock needs: {NEEDED[rules]}"
    assert {each.what for each in findings if each.code == "permissions"} == {said}
    assert "not-reported" not in {each.code for each in findings}


def test_a_promoted_replica_abstains_like_a_new_node(nodes: Cluster) -> None:
    with sixth_redis() as master, sixth_redis() as replica:
        declare_nodes([master.url])
        rest = nodes.urls[1:]
        with client_of([master.url, *rest]) as client, client.lock(NAME) as lease:
            with raw(replica) as redis:
                redis.replicaof("127.0.0.1", master.port)
                eventually(lambda: redis.get(NAME) == lease.owner, "a copy of the lock")
                redis.replicaof("NO", "ONE")
            with client_of([replica.url, *rest]) as after, after.lock("other") as other:
                stands_on_all(nodes.servers[1:], "other")
                assert holders([replica, *nodes.servers[1:]], "other") == [None, *[other.owner] * 4]
            (first, *_) = cluster_status([replica.url, *rest], timeout=5.0).nodes
            assert first.reason.startswith("new, restarted or emptied: abstains")


def test_a_node_without_info_is_refused_with_the_reason() -> None:
    with contextlib.ExitStack() as stack:
        renamed = ("--rename-command", "INFO", "")
        urls = [stack.enter_context(new_server(*renamed)).url for _ in range(3)]
        with client_of(urls) as client, pytest.raises(QuorumUnavailable, match="unknown command"):
            client.lock(NAME).acquire(blocking=False)
        findings = doctor.check(Settings(nodes=",".join(urls)), timeout=5.0)
        assert len([each for each in findings if re.search("unknown command .INFO", each.what)]) == 4


@pytest.mark.long
def test_a_worker_and_flower_work_on_managed_services(tmp_path: Path) -> None:
    def without(*commands: str) -> list[str]:
        return [word for command in commands for word in ("--rename-command", command, "")]

    with (
        cluster(3, options=without("CONFIG", "ACL")) as nodes,
        sixth_redis(*without("CONFIG", "ACL", "INFO")) as broker,
        WorkerFixture(nodes, broker, tmp_path) as fixture,
    ):
        fixture.environment["REDLOCK_NODE_TIMEOUT"] = "1"
        worker = fixture.start_worker("-E")
        assert fixture.result(fixture.increment("hits")[0])["value"] == 1
        with Flower(tmp_path / "flower", fixture.environment, "--conf=workers/flowerconfig.py") as flower:
            for page in ("/workers", "/tasks", "/broker", "/locks", "/locks/data"):
                assert flower.get(page)[0] == http.HTTPStatus.OK
        words = ("-m", "redlock", "doctor", "-A", "workers.app", "--store", f"{broker.url}/2")
        told = run_python(*words, env=fixture.environment).stdout
        for what in ("broker", "store"):
            assert re.search(rf"(?m)^WARNING +{what} \S+: no answer to CONFIG GET", told), told
        assert not re.search("(?m)^(UNSAFE|NO QUORUM)", told), told
        assert "Traceback" not in worker.log
