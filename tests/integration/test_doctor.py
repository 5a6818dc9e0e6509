"""`redlock doctor` on real servers: each bad set-up has its finding and level; a good set-up has no finding."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from celery import Celery
from kombu import Exchange, Queue

from redlock import ConfigurationError, Redlock, RedlockError
from redlock.admin import doctor
from redlock.admin.diagnostics import Level
from redlock.celery import locked
from redlock.cli import main
from redlock.settings import Settings
from redlock.testing.redis_server import Cluster, Server, cluster, free_port
from tests import servers
from tests.integration.tools import CANARY, client_of, kill_all, new_server, raw, sixth_redis


@pytest.fixture
def instead(nodes: Cluster) -> Iterator[Callable[..., list[str]]]:
    """The five nodes with another server in place of the first node: `instead("--requirepass", "x")`."""
    with ExitStack() as stack:

        def start(*options: str, address: str = "") -> list[str]:
            return [stack.enter_context(new_server(*options)).url + address, *nodes.urls[1:]]

        yield start


def found(urls: Sequence[str], **others: Any) -> dict[str, Level]:  # noqa: ANN401 - the arguments of the doctor
    """The code and level of each finding on these nodes, without the level FINE."""
    findings = doctor.check(Settings(nodes=",".join(urls)), timeout=5.0, **others)
    assert CANARY not in " ".join(map(str, findings))
    return {finding.code: finding.level for finding in findings if finding.level is not Level.FINE}


def test_five_good_nodes_are_fine(nodes: Cluster, client: Redlock) -> None:
    assert found(nodes.urls) == {}
    with client.lock("x"):
        assert found(nodes.urls) == {}


def test_a_replica(instead: Callable[..., list[str]]) -> None:
    assert found(instead("--replicaof", "127.0.0.1", "1")) == {"replica": Level.UNSAFE}


def test_a_node_in_cluster_mode(nodes: Cluster) -> None:
    with sixth_redis("--cluster-enabled", "yes") as server:
        assert found([server.url, *nodes.urls[1:]]) == {"cluster-mode": Level.UNSAFE}


def test_one_server_under_two_addresses(nodes: Cluster) -> None:
    with sixth_redis() as server:
        urls = [server.url, f"redis://localhost:{server.port}", *nodes.urls[2:]]
        assert found(urls)["duplicate-server"] is Level.WARNING
        urls = [server.url, *(f"redis://localhost:{server.port}/{number}" for number in range(3)), nodes.urls[4]]
        assert found(urls)["duplicate-server"] is Level.UNSAFE, "two servers are no quorum of five"


@pytest.mark.parametrize("policy", ["allkeys-lru", "volatile-ttl"])
def test_a_policy_that_drops_locks(nodes: Cluster, policy: str) -> None:
    with raw(nodes[0]) as redis:
        redis.config_set("maxmemory-policy", policy)
        assert found(nodes.urls) == {"eviction": Level.WARNING}
        redis.config_set("maxmemory", "100mb")
        assert found(nodes.urls) == {"eviction": Level.UNSAFE}


def test_a_memory_that_is_nearly_full(nodes: Cluster) -> None:
    with raw(nodes[0]) as redis:
        redis.config_set("maxmemory", str(int(redis.info("memory")["used_memory"] * 1.1)))
    assert found(nodes.urls) == {"memory": Level.WARNING}


def test_a_node_that_lost_its_memory(nodes: Cluster) -> None:
    for lost in range(1, 4):
        with raw(nodes[lost]) as redis:
            redis.flushall()
        worse = {"no-quorum": Level.NO_QUORUM} if lost == 3 else {}
        assert found(nodes.urls) == {"quarantine": Level.WARNING} | worse


@pytest.mark.parametrize(
    "command", ["blpop", "evalsha", "eval", "script|load", "hmget", "set", "rpush", "pexpire", "info"]
)
def test_a_user_who_may_not_run_what_the_lock_needs(instead: Callable[..., list[str]], command: str) -> None:
    servers.need_redis_7("ACL DRYRUN")
    rules = ("--user", "limited", "on", f">{CANARY}", "~*", "+@all", f"-{command}")
    urls = instead(*rules, address=f"?username=limited&password={CANARY}")
    assert found(urls) == {"permissions": Level.WARNING}
    (finding,) = [one for one in doctor.check(Settings(nodes=",".join(urls)), timeout=5.0) if one.code == "permissions"]
    if command != "info":
        assert command.upper().replace("|", " ") in finding.what


def test_a_user_who_may_not_touch_the_locks_own_keys(instead: Callable[..., list[str]]) -> None:
    servers.need_redis_7("ACL DRYRUN")
    urls = instead(
        *("--user", "limited", "on", f">{CANARY}", "~account:*", "+@all"),
        address=f"?username=limited&password={CANARY}",
    )
    assert found(urls) == {"permissions": Level.WARNING}


def test_a_user_who_may_do_no_more_than_the_lock_needs_is_fine(instead: Callable[..., list[str]]) -> None:
    needed = "eval evalsha script|load info time hmget hset get set del pttl pexpire llen rpush blpop".split()  # noqa: SIM905 - commands are read best so
    urls = instead(
        *("--user", "limited", "on", f">{CANARY}", "~*", "-@all", *(f"+{command}" for command in needed)),
        address=f"?username=limited&password={CANARY}",
    )
    assert found(urls) == {"quarantine": Level.WARNING}, "it is new, and that is all"


@pytest.mark.parametrize("address", ["", "?password=wrong", "?username=nobody&password=wrong"])
def test_a_missing_or_a_wrong_password(instead: Callable[..., list[str]], address: str) -> None:
    assert found(instead("--requirepass", CANARY, address=address)) == {"access": Level.WARNING}


def test_clients_that_disagree(nodes: Cluster) -> None:
    with client_of(nodes.urls, max_ttl=20) as other, other.lock("x"):
        assert found(nodes.urls) == {"fingerprint": Level.UNSAFE, "no-quorum": Level.NO_QUORUM}
    with client_of(nodes.urls) as client, pytest.raises(RedlockError, match="all clients must agree"):
        client.lock("x").acquire(blocking=False)


def test_an_even_number_of_nodes() -> None:
    with cluster(4) as four:
        assert found(four.urls) == {"number": Level.WARNING}


def test_a_dead_minority_is_a_warning_a_majority_is_no_quorum(nodes: Cluster) -> None:
    nodes[0].kill()
    nodes[1].kill()
    assert found(nodes.urls) == {"unreachable": Level.WARNING}
    nodes[2].kill()
    assert found(nodes.urls) == {"unreachable": Level.WARNING, "no-quorum": Level.NO_QUORUM}


def test_a_broker_and_a_store_that_keep_their_data(nodes: Cluster, broker: Server) -> None:
    assert found(nodes.urls, broker=f"{broker.url}/0", store=f"{broker.url}/2") == {}
    with raw(broker) as redis:
        redis.config_set("appendfsync", "everysec")
        assert found(nodes.urls, broker=broker.url) == {}
        assert found(nodes.urls, store=broker.url) == {"persistence": Level.WARNING}
        redis.config_set("maxmemory", "100mb")
        redis.config_set("maxmemory-policy", "allkeys-lru")
        assert found(nodes.urls, broker=broker.url) == {"eviction": Level.WARNING}
        assert found(nodes.urls, store=broker.url)["eviction"] is Level.UNSAFE


def test_every_check_that_was_made_or_left_out_has_a_line(
    nodes: Cluster, broker: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = Settings(nodes=",".join(nodes.urls))
    findings = doctor.check(settings, broker=broker.url, store=broker.url, timeout=5.0)
    answers = {finding.code: finding.what for finding in findings if finding.code in {"broker", "store"}}
    assert answers["broker"].endswith("answers and keeps its tasks")
    assert answers["store"].endswith("answers and keeps its updates")
    app = Celery(set_as_current=False)
    app.conf.broker_url = None
    assert found(nodes.urls, app=app) == {"not-checked": Level.WARNING}
    app.conf.broker_read_url = "unix:///nowhere/read.sock"
    app.conf.broker_write_url = [broker.url]
    (unreachable,) = [one for one in doctor.check(settings, app=app, timeout=5.0) if one.level is not Level.FINE]
    assert (unreachable.code, "read.sock" in unreachable.where) == ("unreachable", True)
    for name in ("READ", "WRITE"):
        monkeypatch.setenv(f"CELERY_BROKER_{name}_URL", f"unix:///nowhere/{name}.sock")
    silent = [one.where for one in doctor.check(settings, app=app, timeout=5.0) if one.code == "unreachable"]
    assert [where.rpartition("/")[2] for where in silent] == ["READ.sock", "WRITE.sock"], "as Celery does"


def test_a_broker_that_is_a_lock_node_too_or_can_not_be_checked(nodes: Cluster) -> None:
    assert found(nodes.urls, broker=nodes[0].url)["shared-server"] is Level.WARNING
    assert found(nodes.urls, broker="sqs://") == {"not-checked": Level.WARNING}
    assert found(nodes.urls, broker="unix:///nowhere/redis.sock") == {"unreachable": Level.WARNING}
    assert found(nodes.urls, broker="redis+socket:///nowhere/x.sock?virtual_host=0") == {"unreachable": Level.WARNING}


def test_a_visibility_timeout_shorter_than_a_lease_is_a_warning(nodes: Cluster) -> None:
    with sixth_redis() as broker:
        assert found(nodes.urls, broker=f"{broker.url}/0?visibility_timeout=3") == {"visibility-timeout": Level.WARNING}
        assert found(nodes.urls, broker=f"{broker.url}/0?visibility_timeout=30") == {}


def test_a_visibility_timeout_is_compared_with_an_apps_tasks(nodes: Cluster) -> None:
    with sixth_redis() as broker:
        app = Celery(set_as_current=False, broker=f"{broker.url}/0", task_time_limit=5_000)
        # Shared tasks of other test files in this process become tasks of every app.
        for name in list(app.tasks):
            if not name.startswith("celery."):
                del app.tasks[name]
        assert found(nodes.urls, broker=f"{broker.url}/0", app=app) == {}

        @app.task(shared=False)
        @locked("x")
        def long() -> None:
            """A task that may run for longer than an hour."""

        assert found(nodes.urls, broker=f"{broker.url}/0", app=app) == {"visibility-timeout": Level.WARNING}


def test_a_direct_exchange_beside_quorum_queues_is_a_warning(nodes: Cluster) -> None:
    broker = f"amqp://127.0.0.1:{free_port()}//"
    queue = Queue("pay", Exchange("pay"), "pay", queue_arguments={"x-queue-type": "quorum"})
    app, broken = (Celery(set_as_current=False, broker=broker, task_queues=queues) for queues in ([queue], 5))
    for each in (app, broken):
        each.task(shared=False, name="pay")(locked("x")(free_port))
    both = {"unreachable": Level.WARNING, "direct-exchange": Level.WARNING}
    assert found(nodes.urls, broker=broker, app=app) == both
    with pytest.raises(ConfigurationError, match="the queues of the Celery app can't be read"):
        found(nodes.urls, broker=broker, app=broken)


@pytest.mark.parametrize("dead", [0, 1, 3])
def test_the_command_ends_with_the_worst_as_its_status(
    nodes: Cluster, capsys: pytest.CaptureFixture[str], dead: int
) -> None:
    kill_all(nodes.servers[:dead])
    arguments = ["doctor", "--nodes", ",".join(nodes.urls), "--timeout", "5"]
    status = {0: 0, 1: 1, 3: 3}[dead]
    assert main.main(arguments) == status
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith(["FINE", "WARNING", "UNSAFE", "NO QUORUM"][status])
    assert main.main([*arguments, "--json"]) == status
    told = json.loads(capsys.readouterr().out)
    assert told["level"] == ["fine", "warning", "unsafe", "no_quorum"][status]
    assert len(told["findings"]) == len(lines)


def test_the_command_ends_with_2_where_it_is_unsafe(nodes: Cluster, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["doctor", "--nodes", ",".join(nodes.urls), "--timeout", "5", "--ttl", "60"]
    assert main.main(words) == Level.UNSAFE
    assert "ttl is 60.0 s, longer than max_ttl" in capsys.readouterr().out


@pytest.mark.parametrize(("what", "status"), [("broker", Level.WARNING), ("store", main.BAD_INPUT)])
def test_an_address_that_cannot_be_read_is_named(
    nodes: Cluster, capsys: pytest.CaptureFixture[str], what: str, status: int
) -> None:
    for address in (f"redis://:{CANARY}@[::1", f"redis://:{CANARY}@h:x", f"rediss://h:1?ssl_cert_reqs={CANARY}"):
        assert main.main(["doctor", "--nodes", ",".join(nodes.urls), "--timeout", "5", f"--{what}", address]) == status
        said = "".join(capsys.readouterr())
        assert f"the address of the {what}: " in said
        assert ("5 of 5 vote" in said) == (what == "broker"), "a broker hides no finding about the nodes"
        assert CANARY not in said


@pytest.mark.parametrize(
    ("app", "said"),
    [
        ("Celery('shop', include=['failing_tasks'])", "the tasks of the Celery app can't be imported: RuntimeError"),
        ("Celery('shop', config_source='failing_tasks')", "can't be loaded: RuntimeError"),
        ("Celery('shop', include=['exiting_tasks'])", "the tasks of the Celery app can't be imported: SystemExit: 0"),
        ("Celery('shop', config_source='exiting_tasks')", "can't be loaded: SystemExit: 0"),
        ("__import__('exiting_tasks')", "can't be imported: SystemExit: 0"),
        (f"Celery('shop', broker={CANARY.encode()!r})", "the app's broker_url is bytes"),
        (f"Celery('shop', broker={{'{CANARY}': 1}})", "the app's broker_url is dict"),
        (f"Celery('shop', broker=['memory://', b'{CANARY}'])", "the app's broker_url has bytes in its list"),
    ],
)
def test_an_app_that_fails_shows_no_source_and_no_secret(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, app: str, said: str
) -> None:
    (tmp_path / "failing_tasks.py").write_text(f"raise RuntimeError('redis://u:{CANARY}@h:1 is down')")
    (tmp_path / "exiting_tasks.py").write_text("import sys\nsys.exit(0)")
    (tmp_path / "failing_shop.py").write_text(f"from celery import Celery\napp = {app}")
    monkeypatch.syspath_prepend(tmp_path)
    try:
        assert main.main(["doctor", "-A", "failing_shop", "--nodes", f"127.0.0.1:{free_port()}"]) == main.BAD_INPUT
    finally:
        sys.modules.pop("failing_shop", None)
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1
    assert CANARY not in error
