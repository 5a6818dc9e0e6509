"""`examples/transfers` without a worker: each transfer once, under both locks, with balances from after the fence."""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from redlock.testing.redis_server import Cluster
from tests.integration.tools import PATIENT, ROOT, in_a_fork


@pytest.fixture
def environment(pg_address: str, nodes: Cluster) -> Iterator[dict[str, str]]:
    """The variables of the example, with an empty database of its own."""
    with psycopg.connect(pg_address, autocommit=True) as connection:
        connection.execute("CREATE DATABASE transfers")
        yield {
            "REDLOCK_NODES": ",".join(nodes.urls),
            "REDLOCK_NODE_TIMEOUT": PATIENT,
            "PGHOST": pg_address.partition("host=")[2],
            "PGUSER": "postgres",
            "PGDATABASE": "transfers",
        }
        connection.execute("DROP DATABASE transfers WITH (FORCE)")


@pytest.mark.parametrize("kind", ["transfers", "ledger.tasks"])
def test_a_transfer_is_made_once_and_reads_after_its_fence(kind: str, environment: dict[str, str]) -> None:
    # In a child, because the example is Celery's current app and Django's only project.
    answers = ["paid", "refused", "paid", "paid", "refused"]
    assert in_a_fork(lambda: transfers(kind, environment)) == [answers, [55, 55], [["account:ann", "account:bob"]]]


def create_tables() -> None:
    """The tables of the Django project, without its migrations, which take longer than the test."""
    models: Any = importlib.import_module("django.apps").apps.get_models()
    with importlib.import_module("django.db").connection.schema_editor() as editor:
        for model in models:
            editor.create_model(model)


def transfers(kind: str, environment: dict[str, str]) -> object:
    """The answers of five deliveries, the balances at the end, and the resources of the leases."""
    os.environ.update(environment)
    folder = ROOT / "examples" / "transfers"
    os.chdir(folder)
    sys.path.insert(0, str(folder))
    example: Any = importlib.import_module(kind)
    # The program `celery` has the folder on its path only while it imports the app.
    sys.path.remove(str(folder))
    if kind == "ledger.tasks":
        create_tables()
    example.open_accounts({"ann": 100, "bob": 0})
    fenced, leases, failures = example.fenced, set(), list[Exception]()

    @contextlib.contextmanager
    def observed(*given: Any, **options: Any) -> Iterator[object]:  # noqa: ANN401 - as `fenced`
        leases.add(given[-1].names)
        if failures:
            raise failures.pop()
        # Another program adds 1 to both accounts right before the fence.
        with psycopg.connect("", autocommit=True) as connection:
            connection.execute("UPDATE account SET balance = balance + 1")
        with fenced(*given, **options) as section:
            yield section

    def transfer(task: str, *arguments: object) -> object:
        return example.transfer.apply(arguments, task_id=task).get()

    example.fenced = observed  # the example looks its name up at each call
    answers = [transfer("first", "ann", "bob", 70), transfer("second", "ann", "bob", 40)]
    failures += [example.OperationalError("", {}, Exception()), example.InternalError("", {}, Exception())]
    failures.append(example.LockLost("account:ann", "for the test"))
    answers += [transfer("third", "bob", "ann", 20)]
    answers += [transfer("first", "ann", "bob", 70), transfer("second", "ann", "bob", 40)]
    return answers, [example.balance("ann"), example.balance("bob")], sorted(leases)
