"""Lock nodes that the tests of a file share, database servers of the fence, and an engine on each kind of database."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, create_engine

from redlock import Redlock
from redlock.asyncio import _cancel_scope
from redlock.testing.redis_server import Cluster, cluster
from tests.integration.browser import Browser
from tests.integration.databases import has_mariadb, mariadb, postgresql
from tests.integration.fence_adapters import (
    SNAPSHOT_ISOLATION,
    mariadb_url,
    postgresql_url,
    sqlite_engine,
    with_accounts,
)
from tests.integration.tools import PATIENT, client_of, limit_releases, new_server

_COUNTS = {(3, 10): [False], (3, 11): [True, False]}.get(sys.version_info[:2], [True])
"""The ways to recognise a cancellation from outside: by counts, or by messages as in Python 3.10."""


@pytest.fixture(autouse=True)
def _commands_are_patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """For the commands that tests run in this process or with its environment, no node is silent on a busy machine."""
    monkeypatch.setenv("REDLOCK_NODE_TIMEOUT", PATIENT)


@pytest.fixture(autouse=True)
def _releases_are_patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A release waits for the reply of a node that is late."""
    limit_releases(monkeypatch, 3_000)


@pytest.fixture(scope="module")
def shared() -> Iterator[Cluster]:
    """Five lock nodes for all tests of a file that break none."""
    with cluster() as nodes:
        yield nodes


@pytest.fixture
def rival(nodes: Cluster) -> Iterator[Redlock]:
    """Another process' client of the same nodes, as far as the nodes can tell."""
    with client_of(nodes.urls) as redlock:
        yield redlock


@pytest.fixture
def new_servers() -> Iterator[Cluster]:
    """Three servers that no client and no operator knows."""
    with new_server() as first, new_server() as second, new_server() as third:
        yield Cluster([first, second, third])


@pytest.fixture(scope="module")
def started_browser() -> Iterator[Browser]:
    """A browser for all tests of a file."""
    with Browser() as browser:
        yield browser


@pytest.fixture
def browser(started_browser: Browser) -> Iterator[Browser]:
    with started_browser.page() as browser:
        yield browser


@pytest.fixture(params=_COUNTS, ids=lambda counts: "counts" if counts else "messages")
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each way in which `on_lost="cancel"` recognises a cancellation from outside."""
    monkeypatch.setattr(_cancel_scope, "COUNTS", request.param)


@pytest.fixture(scope="session")
def pg_address() -> Iterator[str]:
    with postgresql() as address:
        yield address


@pytest.fixture(scope="session")
def maria_socket() -> Iterator[str]:
    """The socket of a MariaDB server with the database `test`."""
    if not has_mariadb():
        pytest.skip("no MariaDB server")
    with mariadb() as path:
        yield path


@pytest.fixture(scope="session", params=["sqlite", "postgresql", "mariadb"])
def database(request: pytest.FixtureRequest) -> str:
    """The address of each database for SQLAlchemy; empty for SQLite, which needs no server."""
    if request.param == "postgresql":
        return postgresql_url(request.getfixturevalue("pg_address"))
    if request.param == "mariadb":
        return mariadb_url(request.getfixturevalue("maria_socket"))
    return ""


@pytest.fixture
def engine(database: str, tmp_path: Path) -> Iterator[Engine]:
    """An engine on each database, with the tables of the fence and an account of 10."""
    made = create_engine(database) if database else sqlite_engine(str(tmp_path / "data"))
    with with_accounts(made) as engine:
        yield engine


@pytest.fixture
def leveled(database: str, level: str, tmp_path: Path) -> Iterator[Engine]:
    """An engine whose transactions have this isolation level; SQLite has one level."""
    options: dict[str, Any] = {}
    if level == SNAPSHOT_ISOLATION:
        level, options = "REPEATABLE READ", {"init_command": "SET SESSION innodb_snapshot_isolation = ON"}
    if database:
        made = create_engine(database, connect_args=options, execution_options={"isolation_level": level})
    else:
        made = sqlite_engine(str(tmp_path / "data"))
    yield made
    made.dispose()
