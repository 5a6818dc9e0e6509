"""Servers and workers that are started for demos and tests."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

import pytest
from celery import Celery
from redis import Redis
from redis.exceptions import ResponseError

from redlock import ConfigurationError, RedlockError
from redlock.admin.cluster_status import cluster_status
from redlock.testing import redis_server
from redlock.testing.redis_server import cluster, free_port
from tests.integration.shell import is_running, talking
from tests.integration.tools import client_of, eventually, new_server, raw
from tests.servers import program
from workers.cluster import FLOWER_PORT, Plan, settings_of
from workers.settings import from_environment

STARTER = """
import os, pathlib, signal, sys
os.environ["TMPDIR"] = sys.argv[1]  # the killed process leaves a folder
from tests.integration.worker_fixture import Worker
worker = Worker(pathlib.Path(sys.argv[1]), dict(os.environ), ["-A", "workers.app", "worker", "--pool", "solo"])
print(worker.process.pid, flush=True)
signal.pause()
"""
SLOW_TO_LOAD = ("--key-load-delay", "1000", "--rdbcompression", "no")


def test_a_server_has_loaded_its_data_when_it_is_started() -> None:
    with new_server(*SLOW_TO_LOAD) as server:
        with raw(server) as redis:
            # A server that loads its data answers every 2 MB.
            redis.mset({f"key-{number}": "x" * 100_000 for number in range(200)})
            redis.save()
        server.kill()
        server.start()

        with raw(server) as redis:
            assert redis.dbsize() == 200


ADMINISTRATION = """
CONFIG SET dir /tmp; CONFIG SET bind 0.0.0.0; CONFIG SET protected-mode no; CONFIG REWRITE; MODULE LIST; DEBUG SLEEP 0;
ACL SETUSER default +@all; REPLICAOF NO ONE; SLAVEOF NO ONE; SAVE; BGSAVE; SHUTDOWN NOSAVE; MIGRATE h 1 k 0 9;
RESTORE k 0 x; RESTORE-ASKING k 0 x
"""


@pytest.mark.parametrize("version", ["Redis 6.2", "Redis 7.0", "Redis 8", "Valkey 8", "Valkey 9"])
def test_nodes_on_ports_give_other_users_no_administration(version: str) -> None:
    """Before Redis 7, CONFIG SET and SAVE would write any file as the user that started the nodes."""
    with cluster(1, ports=[free_port()], program=program(version)) as nodes, raw(nodes[0]) as redis:
        for words in ADMINISTRATION.split(";"):
            with pytest.raises(ResponseError, match=r"(?i)no permissions|not allowed"):
                redis.execute_command(*words.split())
        (node,) = cluster_status(nodes.urls, timeout=5.0).nodes
        assert (node.reason, node.missing, node.unreported) == ("", (), ())


@pytest.mark.parametrize(
    ("options", "added"),
    [
        (("--user", "lock"), ()),
        (("--aclfile", "/users"), ()),
        (("--requirepass", "secret"), ()),
        (("--include", "/file"), ()),
        (("--maxclients", "9"), redis_server.FOR_ANY_USER),
    ],
)
def test_only_options_with_users_change_what_nodes_refuse(
    monkeypatch: pytest.MonkeyPatch, options: tuple[str, ...], added: tuple[str, ...]
) -> None:
    monkeypatch.setattr(redis_server, "running", lambda servers, _: nullcontext(servers))
    for ports, expected in (([1], (*options, *added)), (None, options)):
        with cluster(1, ports=ports, options=options) as servers:
            assert servers[0]._options == expected
            servers[0].stop()


def test_nodes_with_users_of_their_own_keep_them() -> None:
    options = ("--requirepass", "long-and-secret")
    with pytest.raises(RedlockError, match="password"), cluster(1, ports=[free_port()], options=options):
        pass


@pytest.mark.skipif(sys.platform != "linux", reason="only its kernel kills the children")
def test_a_worker_ends_with_a_test_run_that_is_killed() -> None:
    # The path of a unix socket is short, and that of `tmp_path` is not.
    with tempfile.TemporaryDirectory(prefix="run-") as folder:
        with talking("-c", STARTER, folder) as (_, _, said):
            pid = int(said.readline())
            assert is_running(pid)
        eventually(lambda: not is_running(pid), "the end of the worker")


@pytest.fixture
def folder(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder of temporary files, with a name that the test chooses."""
    # The path of a unix socket is short, and that of `tmp_path` is not.
    with tempfile.TemporaryDirectory(prefix="t") as short:
        path = Path(short) / request.param
        path.mkdir()
        monkeypatch.setattr(tempfile, "tempdir", str(path))
        yield path


@pytest.mark.parametrize("folder", ["a b", "a,b", "a%41b", "a?b", "a#b", "a@b:c;d", "\u00e4\u00a0\n"], indirect=True)
def test_a_temporary_folder_may_have_any_name(folder: Path) -> None:
    plan = Plan(1, 1, think=None, ports=None, flower_port=FLOWER_PORT)
    with new_server() as sixth, cluster(3) as nodes:
        settings, lock = from_environment(settings_of(plan, sixth, nodes, ""))
        with client_of(lock.addresses).lock("door"):
            pass
        with Redis.from_url(settings.store_url) as store:
            store.set("counter", 1)
        with Celery(broker=settings.broker_url, backend=settings.result_url, set_as_current=False) as app:
            app.send_task("greet")
            app.backend.client.set("result", 1)
        with raw(sixth) as redis:
            assert [redis.exists("celery"), *redis.info("keyspace")] == [1, "db0", "db1", "db2"]
    assert list(folder.iterdir()) == []


@pytest.mark.skipif(sys.platform != "linux", reason="other systems refuse such a name")
@pytest.mark.parametrize("folder", [os.fsdecode(b"\xff")], indirect=True)
def test_a_temporary_folder_that_is_no_text_is_one_line(folder: Path) -> None:
    said = r"redis\.sock' is no UTF-8 text; set TMPDIR to another folder"
    with pytest.raises(ConfigurationError, match=said), new_server():
        pass
    assert list(folder.iterdir()) == []
