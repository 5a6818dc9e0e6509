"""Users with the fewest rights, passwords in files, TLS: everything works, and a canary password is visible nowhere.

Invariants:
1. The users are read from docs/operations.md, so the tests check the page itself.
2. The permissions that the doctor checks are in test_doctor.py, a pickled message in test_workers.py, and Flower's
   password in test_locks_page.py.
"""

from __future__ import annotations

import contextlib
import functools
import http
import logging
import re
import secrets
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from redis import Redis
from redis.exceptions import ResponseError

from redlock import RedlockError
from redlock._transport import codec
from redlock.admin import force_release
from redlock.admin.bootstrap import declare_nodes
from redlock.admin.cluster_status import cluster_status
from redlock.testing import redis_server
from redlock.testing.redis_server import Cluster, Server
from tests.integration import acl
from tests.integration.acl import commands
from tests.integration.flowers import Flower
from tests.integration.shell import run_python
from tests.integration.tools import (
    CANARY,
    ROOT,
    blocked_clients,
    client_of,
    eventually,
    holders,
    label,
    new_server,
    raw,
    raws,
    renew_now,
)
from tests.integration.worker_fixture import Worker, WorkerFixture, fresh_fixture
from tests.servers import program as server_program

NAME = "door"
SECRET = f"{CANARY}-{secrets.token_hex(8)}"
"""Not the canary of the other tests, which may stand in a visible place at the same time."""


def let_in(servers: Sequence[Server], user: str, *without: str) -> None:
    """Create the manual's user on these servers, without some of its commands."""
    acl.let_in(servers, user, SECRET, *without)


def as_user(nodes: Cluster, user: str = "lock") -> list[str]:
    return [f"{url}?username={user}&password={SECRET}" for url in nodes.urls]


def empty(nodes: Cluster) -> None:
    """Delete everything on these nodes except their users."""
    for redis in raws(nodes.servers):
        redis.flushall()


def in_use(nodes: Cluster, caplog: pytest.LogCaptureFixture, user: str) -> None:
    """Do all work of a user on empty nodes; an error fails the test."""
    caplog.clear()
    empty(nodes)
    operates = user == "operator"
    urls = as_user(nodes, user)
    declare_nodes(urls if operates else nodes.urls)
    before, status = refused(nodes.servers), functools.partial(cluster_status, timeout=5.0)

    def unless_refused(condition: Callable[[], bool], what: str) -> None:
        found = eventually(lambda: condition() or refused(nodes.servers) - before, what)
        assert found is True, f"{what}: refused were {found}"

    with client_of(urls, ttl=5.0) as client, client_of(urls, ttl=5.0) as other:
        with raw(nodes[0]) as redis:
            redis.set(codec.fence_key(NAME), str(2**51))
        waiter = threading.Thread(target=lambda: other.lock(NAME).acquire(blocking_timeout=30))
        try:
            # Different fences, so that an acquire needs two rounds.
            with client.lock(NAME, blocking=False) as lease:
                with raw(nodes[0]) as redis:
                    redis.delete(NAME)
                renew_now(client, lease)
                unless_refused(lambda: holders(nodes.servers, NAME) == [lease.owner] * 5, "renewal and repair")
                waiter.start()
                unless_refused(lambda: blocked_clients(nodes.servers) > 0, "a waiter")
                seen = status(urls, resources=200 if operates else 0)
        finally:
            # Before the client is closed, because a later status would open connections again.
            if waiter.is_alive():
                waiter.join()
        assert seen.voting == len(nodes.servers)
        if operates:
            assert {node.fsync for node in seen.nodes} == {"everysec"}, "what the nodes keep is not told"
            assert [held.resource for held in seen.locks] == [NAME], "what is locked is not told"
            taken = force_release.target(client, NAME)
            assert taken is not None
            assert force_release.take_away(client, taken) == len(nodes.servers)
    # A renewal is late after each pause of the machine.
    messages = [record.message for record in caplog.records if record.levelno > logging.INFO]
    assert [message for message in messages if not message.startswith("renewal-late")] == []


@pytest.mark.parametrize("version", ["Redis 6.2", "Redis 7.0", "Redis 8", "Valkey 8", "Valkey 9"])
def test_the_commands_of_the_manual_suffice_for_each_user(version: str, caplog: pytest.LogCaptureFixture) -> None:
    program = server_program(version)
    with redis_server.running([redis_server.Server(program=program) for _ in range(5)]) as nodes:
        for user in ("lock", "operator"):
            let_in(nodes.servers, user)
            in_use(nodes, caplog, user)
            # A server before 7.0 has no ACL DRYRUN, so the check reads its settings.
            asked = {"config"} if (user, version) == ("lock", "Redis 6.2") else set()
            assert refused(nodes.servers) == asked


def test_a_worker_may_read_no_setting_and_list_no_key() -> None:
    """`masterauth` and the passphrase of TLS are settings."""
    assert set(commands("operator")) - set(commands("lock")) == {"exists", "scan", "config|get"}
    assert set(commands("lock")) < set(commands("operator"))
    assert "config|get" not in commands("tasks")


def refused(servers: Sequence[Server]) -> set[str]:
    """The refused commands and logins on these servers."""
    found = set()
    for redis in raws(servers):
        found |= {str(entry["username" if entry["reason"] == "auth" else "object"]) for entry in redis.acl_log()}
    return found


FOREIGN = """
FLUSHALL; FLUSHDB; KEYS *; RANDOMKEY; RENAME a b; MIGRATE h 1 k 0 9; RESTORE k 0 x; DUMP k; SWAPDB 0 1; SAVE; BGSAVE;
SHUTDOWN NOSAVE; REPLICAOF h 1; CONFIG SET dir /tmp; CONFIG REWRITE; ACL LIST; ACL SETUSER u on; CLIENT LIST; MONITOR;
CLIENT KILL ID 1; MODULE LIST; OBJECT FREQ k; SCRIPT FLUSH; SCRIPT KILL; FUNCTION FLUSH; PERSIST k; EXPIRE k 1;
HGETALL k; LRANGE k 0 -1; SLOWLOG GET; LATENCY RESET; APPEND k x
"""


@pytest.mark.parametrize("user", ["lock", "operator", "tasks"])
def test_other_commands_are_refused_also_inside_a_script(shared: Cluster, user: str) -> None:
    let_in(shared.servers, user)
    with Redis.from_url(f"{shared[0].url}?username={user}&password={SECRET}") as redis:
        for words in (one.split() for one in FOREIGN.split(";")):
            with pytest.raises(ResponseError, match=r"(?i)no permissions|unknown command"):
                redis.execute_command(*words)
        for call in ("'FLUSHALL'", "'KEYS', '*'", "'RENAME', 'a', 'b'"):
            with pytest.raises(ResponseError, match=r"ACL|permission|not allowed|can't run this command"):
                redis.eval(f"return redis.call({call})", 0)


def test_the_worst_act_of_a_worker_is_as_the_threat_model_says() -> None:
    """A worker changes each key of its project, can occupy a node, and touches no key of another project."""
    with redis_server.running([redis_server.Server()]) as one:
        acl.let_in(one.servers, "lock", SECRET, keys="~shop:*")
        address = f"{one[0].url}?username=lock&password={SECRET}"
        with raw(one[0]) as admin, Redis.from_url(address) as worker, Redis.from_url(address) as occupied:
            admin.config_set("lua-time-limit", 20)
            worker.set(f"shop:{codec.fence_key(NAME)}", 2**53)
            worker.hset(f"shop:{codec.RECORD}", "fingerprint", "another")
            for command in (("SET", "other", "x"), ("EVAL", "return redis.call('SET', 'other', 'x')", 0)):
                with pytest.raises(ResponseError, match=r"(?i)no permissions|can't access"):
                    worker.execute_command(*command)
            worker.eval("redis.log(redis.LOG_WARNING, 'a line of a worker')", 0)
            assert "a line of a worker" in (one[0].directory / "redis.log").read_text()
            loop = threading.Thread(target=run_for_ever, args=(occupied,))
            loop.start()
            try:
                eventually(lambda: is_busy(worker), "the node to be occupied")
                with pytest.raises(ResponseError, match=r"(?i)no permissions"):
                    worker.script_kill()
            finally:
                eventually(lambda: ends_script(admin), "the end of the script")
                loop.join()
            assert worker.get(f"shop:{NAME}") is None


def run_for_ever(redis: Redis) -> None:
    """Run a script that only an administrator can end."""
    with contextlib.suppress(ResponseError):
        redis.eval("while true do end", 0)


def is_busy(redis: Redis) -> bool:
    """Whether the server runs a script and answers nothing else."""
    try:
        redis.get(f"shop:{NAME}")
    except ResponseError as error:
        return "BUSY" in str(error)
    return False


def ends_script(redis: Redis) -> bool:
    """Whether the server ended the running script at this call."""
    with contextlib.suppress(ResponseError):
        return bool(redis.script_kill())
    return False


NEEDED = [("lock", command) for command in commands("lock")]
NEEDED += [("operator", command) for command in commands("operator") if ("lock", command) not in NEEDED]


@pytest.mark.parametrize(("user", "command"), NEEDED)
def test_each_of_the_commands_is_needed(
    shared: Cluster, user: str, command: str, caplog: pytest.LogCaptureFixture
) -> None:
    let_in(shared.servers, user, command)
    with pytest.raises((RedlockError, AssertionError)):
        in_use(shared, caplog, user)
    # Redis 6.2 names the command without its subcommand; later servers tell beforehand that settings are out of reach.
    assert {command, command.partition("|")[0]} & refused(shared.servers) or command == "config|get"


def test_a_refused_waiter_reports_the_error_and_does_not_retry(
    shared: Cluster, caplog: pytest.LogCaptureFixture
) -> None:
    let_in(shared.servers, "lock", "blpop")
    empty(shared)
    declare_nodes(shared.urls)
    with client_of(shared.urls) as holder, client_of(as_user(shared)) as client, holder.lock(NAME):
        assert not client.lock(NAME).acquire(blocking_timeout=1)
    assert "node-down" in caplog.text
    assert "may not run what the lock needs" in caplog.text
    asked = 0
    for redis in raws(shared.servers):
        asked += sum(int(entry["count"]) for entry in redis.acl_log())
    assert 0 < asked <= 2 * len(shared.servers)


@pytest.fixture
def secret_fixture(tmp_path: Path) -> Iterator[WorkerFixture]:
    """Workers as the manual's users; their environment names files that have the passwords."""
    with fresh_fixture(tmp_path) as fixture:
        nodes, broker = fixture.nodes, fixture.broker
        let_in(nodes.servers, "lock")
        let_in(nodes.servers, "operator")
        let_in([broker], "tasks")
        address = broker.url.replace("://", f"://tasks:{SECRET}@")
        fixture.environment["REDLOCK_USERNAME"] = "lock"
        # With a variable of packages no program is a fork, whose environment /proc does not show.
        fixture.environment["KOMBU_LOG_DEBUG"] = ""
        values = {"REDLOCK_PASSWORD": SECRET}
        values |= {f"COUNTER_{name}_URL": f"{address}/{db}" for db, name in enumerate(("BROKER", "RESULT", "STORE"))}
        for name, value in values.items():
            fixture.environment.pop(name, None)
            fixture.environment[f"{name}_FILE"] = str(tmp_path / name)
            (tmp_path / name).write_text(f"{value}\n")
        yield fixture


def full_worker(fixture: WorkerFixture, directory: Path) -> Worker:
    """A worker with all default features of Celery."""
    directory.mkdir()
    worker = Worker(directory, fixture.environment, ["-A", "workers.app", "worker", "-n", "full@%h", "-c", "2", "-E"])
    fixture.adopt(worker)
    return worker


SHELL = """
from celery import group
from tasks import increment
from workers.app import app
values = [each["value"] for each in group(increment.s(1, "shell") for _ in range(9))().get(timeout=60)]
assert sorted(values) == list(range(1, 10))
assert increment.apply_async((1, "shell"), countdown=1).get(timeout=60)["value"] == 10
late = increment.apply_async((1, "shell"), countdown=600)
late.revoke()
late.forget()
assert len(app.control.inspect(timeout=100, limit=2).ping()) == 2
assert app.control.purge() == 0
"""


def ran(fixture: WorkerFixture, *arguments: str) -> str:
    """Both outputs of a program in the same environment."""
    done = run_python(*arguments, env=fixture.environment)
    return f"{done.stdout}{done.stderr}"


def open_to_all() -> str:
    """The command lines of all processes of this machine, and the environments of the test's processes."""
    shown = []
    for file in ("cmdline", "environ"):
        for path in Path("/proc").glob(f"[0-9]*/{file}"):
            with contextlib.suppress(OSError):
                shown.append(path.read_text(errors="replace"))
    return "\n".join(shown)


@pytest.mark.long
def test_workers_and_flower_work_and_show_no_password(secret_fixture: WorkerFixture, tmp_path: Path) -> None:
    fixture, nodes, broker = secret_fixture, secret_fixture.nodes, secret_fixture.broker
    plain = fixture.start_worker("-E")
    full = full_worker(fixture, tmp_path / "full")
    full.wait_until_ready()
    with Flower(
        tmp_path / "flower", fixture.environment | {"REDLOCK_USERNAME": "operator"}, "--conf=workers/flowerconfig.py"
    ) as flower:
        said = ran(fixture, "-c", SHELL)
        assert said == ""
        (name,) = re.findall(r"full@[\w.-]+", flower.get("/workers")[1])[:1]
        for page in ("/workers", f"/worker/{name}", "/tasks", "/broker", "/locks", "/locks/data"):
            status, text = flower.get(page)
            assert status == http.HTTPStatus.OK
            said += text
        said += ran(fixture, "-m", "celery", "-A", "workers.app", "report")
        said += ran(fixture, "-m", "celery", "-A", "workers.app", "inspect", "conf", "-d", name, "--timeout", "60")
        assert "worker_prefetch_multiplier" in said
        # Redis 6.2 refuses unknown commands by this name, such as CLIENT MAINT_NOTIFICATIONS.
        assert refused([broker, *nodes.servers]) <= {"client"}

        # A restarted server has forgotten its users, so each client is refused and reports the error.
        for server in nodes.servers[:3]:
            server.kill()
            server.start()
        task = fixture.increment("failing")[0]
        eventually(lambda: fixture.state(task) == "RETRY", "a task that finds no quorum")
        for command in ("doctor", "status", "release failing --force --yes", f"run {NAME} --wait 0 -- true"):
            said += ran(fixture, "-m", "redlock", *command.split())
        let_in(nodes.servers[:3], "lock")
        broker.kill()
        broker.start()
        # The worker may end; that is Celery's decision.
        for worker in (plain, full):
            eventually(lambda worker=worker: "Connection to broker lost" in worker.log, "a worker to see it")  # type: ignore[misc]  # binds the worker
        eventually(lambda: "tasks" in refused([broker]), "somebody to be refused as that user")
        failed = ran(fixture, "-c", SHELL)
        assert "Error" in failed
        said += failed
        shown = open_to_all()
    assert "COUNTER_BROKER_URL_FILE" in shown
    logs = "".join(worker.log + worker.output.read_text() for worker in (plain, full))
    assert "wrong user name or password" in logs
    kept = b"".join(path.read_bytes() for path in broker.directory.rglob("*") if path.is_file())
    assert b"failing" in kept
    for text in (shown, said, logs, kept.decode(errors="replace")):
        assert SECRET not in text


def test_a_client_without_a_password_keeps_no_memory(tmp_path: Path) -> None:
    """The users for Compose. The servers count the names of clients in no limit on the memory of clients."""
    rules = re.findall(r"`(user (?:default|health) [^`]+)`", (ROOT / "docs" / "operations.md").read_text())
    assert len(rules) == 2
    users = tmp_path / "users.acl"
    users.write_text("\n".join([*rules, "user test on >SECRET ~* +@all\n"]).replace("SECRET", SECRET))
    with contextlib.ExitStack() as stack:
        path = label(stack.enter_context(new_server("--aclfile", str(users))))
        for _ in range(30):
            client = stack.enter_context(socket.socket(socket.AF_UNIX))
            client.connect(path)
            with contextlib.suppress(ConnectionError):
                client.sendall(
                    b"*4\r\n$5\r\nHELLO\r\n$1\r\n2\r\n$7\r\nSETNAME\r\n$1000000\r\n" + b"x" * 1_000_000 + b"\r\n"
                )
                client.recv(1_000)
        with Redis(unix_socket_path=path, username="test", password=SECRET) as redis:
            assert redis.info("memory")["used_memory"] < 15_000_000
        with Redis(unix_socket_path=path, username="health", password=SECRET) as redis:
            assert redis.ping()
