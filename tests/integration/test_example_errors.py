"""Each example gets over an error of a server that passes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from redis import Redis

from redlock.testing.redis_server import Cluster, Server
from tests.integration.test_examples import EXAMPLES, project
from tests.integration.threads import serving
from tests.integration.tools import eventually

PYTHON = Path(sys.executable)

FAILING = """
from redis.exceptions import RedisError
from redlock import LockLost
import {module} as example
errors = [RedisError("full"), LockLost("account", "for the test")]
update = example.FencedStore.update
def failing(self, name, lease, op_id, change):
    if not op_id.endswith(":debit") and errors:
        raise errors.pop()
    return update(self, name, lease, op_id, change)
"""
"""Both errors strike between the debit and the credit, or before the only update."""


@pytest.fixture
def environment(nodes: Cluster, broker: Server) -> dict[str, str]:
    urls = ",".join(nodes.urls)
    return {"REDLOCK_NODES": urls, "SHOP_NODES": urls, "BANK_REDIS": broker.url, "SHOP_REDIS": broker.url}


def test_an_error_after_the_debit_loses_no_money(environment: dict[str, str], tmp_path: Path) -> None:
    told = project("bank", PYTHON, tmp_path, **environment).run(
        "-c",
        FAILING.format(module="bank")
        + """
example.deposit.apply(("ann", 100), task_id="1")
example.FencedStore.update = failing
print(example.transfer.apply(("ann", "bob", 70), task_id="2").state, errors)
errors.append(RedisError("full"))
print(example.deposit.apply(("bob", 5), task_id="3").state, errors)
print(example.balance("ann"), example.balance("bob"))
""",
    )
    assert told.splitlines() == ["SUCCESS []", "SUCCESS []", "30 75"]


PAUSES = """
import bank, pathlib, types
from bank import *
update = FencedStore.update
def pausing(self, name, lease, op_id, change):
    if op_id.endswith(":credit"):
        pathlib.Path("debited").touch()
        while not pathlib.Path("is full").exists():
            time.sleep(0.01)  # between two looks at the condition
    return update(self, name, lease, op_id, change)
FencedStore.update = pausing
def sleep(seconds):
    pathlib.Path("waits").touch()
    time.sleep(seconds)
bank.time = types.SimpleNamespace(sleep=sleep)
"""


@pytest.mark.long(ci=True)
def test_a_transfer_outlives_a_redis_that_is_full(environment: dict[str, str], broker: Server, tmp_path: Path) -> None:
    bank = project("bank", PYTHON, tmp_path, **environment)
    assert bank.run("-c", "from bank import *; print(deposit.apply(('ann', 100)).get())") == "paid\n"
    (bank.directory / "pausing.py").write_text(PAUSES)
    with bank.running("-m", "celery", "-A", "pausing", "worker", "--concurrency", "1"):
        sent = bank.run("-c", "from bank import *; print(transfer.delay('ann', 'bob', 70).id)").strip()
        eventually((bank.directory / "debited").exists, "the debit")
        with Redis.from_url(broker.url) as admin:
            admin.config_set("maxmemory", "1")
            (bank.directory / "is full").touch()
            eventually((bank.directory / "waits").exists, "a retry that the broker refused")
            admin.config_set("maxmemory", "0")
        told = f"print(app.AsyncResult({sent!r}).get(timeout=99), balance('ann'), balance('bob'))"
        assert bank.run("-c", f"from bank import *; {told}") == "paid 30 70\n", bank.said


def test_a_charge_is_repeated_after_an_error(environment: dict[str, str], tmp_path: Path) -> None:
    told = project("fastapi_shop", PYTHON, tmp_path, **environment, SHOP_CHARGE_SECONDS="0").run(
        "-c",
        FAILING.format(module="shop")
        + """
example.FencedStore.update = failing
print(example.charge.apply((7, 10), task_id="1").get(), errors)
""",
    )
    assert told == "10 []\n"


def test_an_order_is_shipped_after_an_error(environment: dict[str, str], tmp_path: Path) -> None:
    shop = project("django_shop", PYTHON, tmp_path, **environment, SHOP_PACKING_SECONDS="0")
    shop.run("manage.py", "migrate", "orders")
    shop.run("manage.py", "migrate", "redlock_fencing")
    told = shop.run(
        "manage.py",
        "shell",
        "-c",
        """
from django.db import OperationalError
from redlock import LockLost
from orders import tasks
from orders.models import Order
errors, fenced = [OperationalError("database is locked"), LockLost("order:1", "for the test")], tasks.fenced
def failing(lease):
    if errors:
        raise errors.pop()
    return fenced(lease)
tasks.fenced = failing
print(tasks.ship.apply((Order.objects.create().pk,)).get(), errors)
""",
    )
    assert told.splitlines()[-1] == "shipped []"


@pytest.mark.parametrize(
    ("name", "base", "task"),
    [
        ("bank", "bank", "bank.transfer"),
        ("bank", "bank", "bank.deposit"),
        ("fastapi_shop", "shop", "shop.charge"),
        ("transfers", "patient", "transfers.transfer"),
    ],
)
def test_a_retry_waits_for_a_broker_that_takes_nothing(name: str, base: str, task: str, tmp_path: Path) -> None:
    told = project(name, PYTHON, tmp_path).run(
        "-c",
        f"""
import {base}, {task.split(".", maxsplit=1)[0]}
from types import SimpleNamespace
from celery import Task
from celery.exceptions import Reject
refusals, pauses = [Reject("the broker is full")] * 2, []
def retry(self, **options):
    if refusals:
        raise refusals.pop()
    return options
Task.retry = retry
{base}.time = SimpleNamespace(sleep=pauses.append)
print({task}.retry(countdown=3), pauses, {task}.max_retries, {task}.retry_backoff)
""",
    )
    assert told == "{'countdown': 3} [1, 1] None True\n"


class Unsteady(BaseHTTPRequestHandler):
    """An API that reads an order and hangs up, then sends halves of the answer and at last all of it."""

    server: Api

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.server.keys.append(self.headers["Idempotency-Key"])
        answer = [b"", b'"order', b'"bestellung-\xc3', b"12", b'"order-1"'][len(self.server.keys) - 1]
        if answer:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(answer)

    def log_message(self, *_: object) -> None:
        """Print nothing."""


class Api(HTTPServer):
    """Notes the keys of the calls."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Unsteady)
        self.keys = list[str]()


def test_an_order_is_sent_again_after_a_lost_answer(environment: dict[str, str], tmp_path: Path) -> None:
    api = Api()
    with serving(api):
        url = f"http://127.0.0.1:{api.server_address[1]}"
        told = project("foreign_api", PYTHON, tmp_path, **environment, ORDERS_API=url).run(
            "-c",
            """
import orders
from redlock import LockLost
errors, urlopen = [LockLost("foreign-api", "for the test")], orders.urlopen
def failing(*arguments, **options):
    if errors:
        raise errors.pop()
    return urlopen(*arguments, **options)
orders.urlopen = failing
print(orders.place_order.apply(("book",), task_id="task-1").get(), errors)
""",
        )
    assert (told, api.keys) == ("order-1 []\n", ["task-1"] * 5)


def test_a_backup_that_is_ended_leaves_no_part(tmp_path: Path) -> None:
    tar, backups = tmp_path / "tar", tmp_path / "backups"
    backups.mkdir()
    tar.write_text('#!/bin/sh\necho half >"$2"\necho begun\nexec sleep 600\n')
    tar.chmod(0o755)
    backup = subprocess.Popen(
        [EXAMPLES / "cron" / "backup.sh", tmp_path, backups],
        env=os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}", "REDLOCK_FENCE": "7"},
        stdout=subprocess.PIPE,
        start_new_session=True,
    )
    with backup:
        assert backup.stdout
        try:
            assert backup.stdout.readline() == b"begun\n"
            assert [*backups.iterdir()]
        finally:
            os.killpg(backup.pid, signal.SIGTERM)  # as `redlock run` does
        assert backup.wait(100) == 143
    assert not [*backups.iterdir()]
