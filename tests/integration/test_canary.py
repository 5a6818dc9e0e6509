"""A secret in each place where a secret can stand is in no output: errors, `repr`, commands, log, metrics."""

from __future__ import annotations

import contextlib
import json
import logging
import pickle
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from celery import Celery

from redlock import Redlock, _log
from redlock.admin import doctor, force_release
from redlock.admin.bootstrap import declare_nodes
from redlock.admin.cluster_status import cluster_status
from redlock.asyncio import Redlock as AsyncRedlock
from redlock.celery import client_for, locked, metrics, task_registry
from redlock.celery.conf import of_conf
from redlock.cli import main
from redlock.errors import LockContended, RedlockError
from redlock.settings import Settings, read
from redlock.testing import redis_server
from redlock.testing.redis_server import Cluster
from tests.integration.tools import client_of, eventually, raws
from workers.logs import MaskingFormatter
from workers.settings import Settings as ExampleSettings

SECRET = "Canary0q8Zt"  # noqa: S105 - not a real password
PIECES = ("Canary", "0q8Zt")
"""Half of the secret counts too, because an address can be cut in the middle."""

WRONG: list[Any] = [
    [f"redis://:{SECRET}@h:1", None],
    (f"redis://user:{SECRET}@h:1", 5),
    {f"redis://:{SECRET}@h:1"},
    {"redis": f"redis://:{SECRET}@h:1"},
    f"redis://:{SECRET}@h:1".encode(),
    [f"redis://:{SECRET}@h:1".encode()],
    f"redis://user:{SECRET}@h:port",
    f"redis://user:{SECRET}@h:1:2",
    f"redis://user:{SECRET}/x@h:1",
    f"redis://user:1{SECRET}?x@h:1",
    f"redis://user@corp:{SECRET}#x@h:1",
    f"redis://{SECRET}/x@h:1",
    f"redis://u:12/{SECRET}@h:1",
    f"redis://:12?{SECRET}@h:1",
    f"unix://user:{SECRET}/x@/run/a.sock",
    f"user:{SECRET}@h",
    f"user:{SECRET}@redis://h:1",
    f"http://user:{SECRET}@h:1",
    f"redis://:{SECRET}@[::1:1",
    f"redis://:{SECRET}@h:1/one",
    f"redis://h:1?password={SECRET}&db=x",
    f"redis://h:1?nonsense={SECRET}",
    f"redis://h:1?socket_timeout={SECRET}",
    f"rediss://h:1?ssl_password={SECRET}&ssl_min_version={SECRET}",
    f"rediss://h:1?ssl_cert_reqs={SECRET}",
]


def spilled(text: str) -> bool:
    return any(piece in text for piece in PIECES)


def all_of(error: BaseException) -> str:
    """The complete content of an error: text, arguments, traceback and all causes."""
    said = [*traceback.format_exception(error), str(error), repr(error), repr(error.args), repr(vars(error))]
    with contextlib.suppress(Exception):
        said.append(repr(pickle.dumps(error)))
    behind = [one for one in (error.__cause__, error.__context__) if one is not None]
    return "\n".join([*(line for line in said if line), *map(all_of, behind)])


def refused(call: Callable[[], object]) -> None:
    """Call a function whose error must not contain the secret."""
    with pytest.raises((RedlockError, SystemExit)) as caught:
        call()
    assert not spilled(all_of(caught.value)), str(caught.value)


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("value", WRONG, ids=lambda value: repr(value)[:60].replace(SECRET, "S"))
def test_a_wrong_address_is_refused_without_its_secret(value: Any, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: ANN401 - wrong types are the test
    refused(lambda: Redlock(value))
    refused(lambda: AsyncRedlock(value))
    refused(lambda: cluster_status(value))
    refused(lambda: of_conf({"redlock_nodes": value}).client())
    app = Celery(set_as_current=False)
    app.conf.redlock_nodes = value
    refused(lambda: client_for(app))
    if isinstance(value, str):
        monkeypatch.setenv("REDLOCK_NODES", value)
        settings = read(Settings, {"REDLOCK_NODES": value, "REDLOCK_PASSWORD": SECRET}, "REDLOCK_")
        assert not spilled(repr(settings))
        refused(settings.client)
        refused(lambda: declare_nodes([value]))
        refused(lambda: doctor.check(settings))


@pytest.mark.parametrize("name", ["ttl", "max_ttl", "node_timeout", "events", "username", "password", "prefix"])
@pytest.mark.parametrize(
    "value", [[f"redis://:{SECRET}@h:1"], {"password": SECRET}, f"redis://:{SECRET}@h\n:1".encode()]
)
def test_a_secret_under_a_wrong_name_is_not_repeated(name: str, value: object) -> None:
    refused(lambda: of_conf({f"redlock_{name}": value, "redlock_nodes": "a:1,b:1,c:1"}).client())
    if name not in {"username", "password", "prefix"}:
        refused(lambda: of_conf({f"redlock_{name}": f"redis://:{SECRET}@h:1"}).client())


@pytest.mark.parametrize("name", ["NODES", "PASSWORD", "USERNAME", "TTL"])
@pytest.mark.parametrize("value", [f"redis://:{SECRET}@h:1", SECRET, f"/{SECRET}"])
def test_a_secret_in_place_of_a_files_name_is_not_repeated(name: str, value: str) -> None:
    refused(lambda: read(Settings, {f"REDLOCK_{name}_FILE": value}, "REDLOCK_"))
    refused(lambda: of_conf({f"redlock_{name.lower()}_file": value}))


@pytest.fixture(scope="module")
def closed() -> Iterator[Cluster]:
    """Nodes that want the secret."""
    with redis_server.cluster() as nodes:
        for redis in raws(nodes.servers):
            redis.config_set("requirepass", SECRET)
        yield nodes


COMMANDS = [
    "status",
    "status --json",
    "doctor",
    "doctor --json --broker redis://:{0}@127.0.0.1:1/0 --store redis://:{0}@127.0.0.1:1/2",
    "doctor --database postgresql+psycopg://u:{0}@127.0.0.1:1/name",
    "doctor --database postgresql+psycopg://u:a@{0}/b@127.0.0.1:1/name",
    "doctor --database mariadb+pymysql://u:{0}@127.0.0.1:1/name?charset={0}",
    "init --yes",
    "release name --force --yes",
    "run name --wait 0 -- env",
    "run name --wait 0 --log-file {1} -- true",
    "run name --wait 0 -- nowhere/no-such-program",
    "simulate --delays 0 --hold 0 --retries 0 --log-file {1}",
    "status redis://:{0}@h:1",
    "status --timeout redis://:{0}@h:1",
    "doctor --ttl redis://:{0}@h:1",
    "doctor -A redis://:{0}@h:1",
    "redis://:{0}@h:1",
]


@pytest.mark.parametrize("password", [SECRET, f"wrong-{SECRET}"], ids=["right", "wrong"])
@pytest.mark.parametrize("how", ["address", "setting", "query"])
@pytest.mark.parametrize("command", COMMANDS)
def test_no_command_prints_the_secret(  # noqa: PLR0917 - fixtures
    closed: Cluster, command: str, how: str, password: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path,
    capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    nodes = {
        "address": [url.replace("://", f"://:{password}@") for url in closed.urls],
        "setting": closed.urls,
        "query": [f"{url}?password={password}" for url in closed.urls],
    }[how]
    monkeypatch.setenv("REDLOCK_NODES", ",".join(nodes))
    if how == "setting":
        (tmp_path / "secret").write_text(password)
        monkeypatch.setenv("REDLOCK_PASSWORD_FILE", str(tmp_path / "secret"))
    log = tmp_path / "log"
    with caplog.at_level(logging.DEBUG), contextlib.suppress(SystemExit):
        main.main(command.format(SECRET, log).split())
    said = "".join(capfd.readouterr()) + caplog.text + (log.read_text() if log.exists() else "")
    assert not spilled(said)
    if "env" in command and password == SECRET:
        assert f"REDLOCK_NODES={','.join(closed.urls)}\n" in said, "the program finds the same nodes"


@pytest.mark.parametrize("name", ["REDLOCK_password", "REDLOCK_password_file", "REDLOCK_nodes"])
def test_a_program_gets_no_password_under_another_spelling(
    closed: Cluster, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path, name: str
) -> None:
    monkeypatch.setenv("REDLOCK_NODES", ",".join(closed.urls))
    if name == "REDLOCK_nodes":
        monkeypatch.delenv("REDLOCK_NODES")
        monkeypatch.setenv(name, ",".join(f"{url}?password={SECRET}" for url in closed.urls))
    elif name == "REDLOCK_password":
        monkeypatch.setenv(name, SECRET)
    else:
        (tmp_path / SECRET).write_text(SECRET)
        monkeypatch.setenv(name, str(tmp_path / SECRET))
    assert main.main(["run", "name", "--wait", "0", "--", "env"]) == 0
    said = capfd.readouterr().out
    assert not spilled(said)
    assert f"REDLOCK_NODES={','.join(closed.urls)}\n" in said


def test_a_program_gets_the_passwords_with_an_option_only(
    closed: Cluster, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("REDLOCK_NODES", ",".join(closed.urls))
    monkeypatch.setenv("REDLOCK_PASSWORD", SECRET)
    again = [sys.executable, "-m", "redlock", *["run", "other", "--wait", "0", "--", "echo", "inside"]]
    assert main.main(["run", "name", "--wait", "0", "--pass-credentials", "--", *again]) == 0
    assert "inside\n" in capfd.readouterr().out


def test_the_life_of_a_lock_leaves_no_trace_of_the_secret(
    closed: Cluster, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REDLOCK_NODES", ",".join(closed.urls))
    monkeypatch.setenv("REDLOCK_PASSWORD", SECRET)
    # Later tests are not counted.
    monkeypatch.setattr(_log, "_watchers", {event: [*watchers] for event, watchers in _log._watchers.items()})
    settings = read(Settings, {"REDLOCK_NODES": ",".join(closed.urls), "REDLOCK_PASSWORD": SECRET}, "REDLOCK_")
    app = Celery(set_as_current=False)
    said: list[object] = [settings, ExampleSettings(broker_url=f"redis://:{SECRET}@h:1", flower_auth=f"ann:{SECRET}")]

    @app.task(name="canary")
    @locked("name")
    def body() -> None:
        said.extend(task_registry.TASK_LOCKS.listed())

    with caplog.at_level(logging.DEBUG), settings.client() as client:
        figures = metrics.start_counting([node.label for node in client._context.pool.nodes])
        with client.lock("name") as lease:
            target = force_release.target(client, "name")
            assert target is not None
            said += [client, client.lock("name"), lease, target, client.holder("name"), figures.text("w@h")]
            assert lease.owner not in repr(target) + repr(lease) + repr(
                lease.__dict__ if hasattr(lease, "__dict__") else ""
            )
        body()
        said += [cluster_status(settings.addresses), doctor.check(settings, broker=f"redis://:{SECRET}@127.0.0.1:1")]
        said += [vars(node) for node in cluster_status(settings.addresses).nodes]
    formatter = MaskingFormatter("%(message)s %(redlock_fields)s", defaults={"redlock_fields": ""})
    said += [
        caplog.text,
        json.dumps(cluster_status(settings.addresses).as_dict()),
        *map(formatter.format, caplog.records),
    ]
    assert "acquired" in caplog.text
    assert not spilled("\n".join(map(str, said)) + "\n".join(map(repr, said)))
    assert not spilled(app.conf.humanize())
    eventually(lambda: client_for(app).holder("name") is None, "the end")


def test_no_error_report_shows_the_token_of_another_holder(nodes: Cluster) -> None:
    """Such reports have the local variables of each frame."""
    with client_of(nodes.urls) as client, client_of(nodes.urls) as other, client.lock("name") as lease:
        with pytest.raises(LockContended) as caught:
            other.lease("name").acquire(50)
        variables = [repr(frame.f_locals) for frame, _ in traceback.walk_tb(caught.tb)]
        secret = lease.owner.partition(":")[0]
        assert any("Vote(" in text for text in variables[1:])
        assert not any(secret in text for text in variables[1:])
