"""`redlock.fencing.sql` on real databases: no interleaving loses an update, and the kit finds broken fences."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from sqlalchemy import Engine, create_engine

from redlock.fencing.conformance import INTERLEAVINGS, FencingConformance, Interleaving, check, random_interleavings
from tests.integration import broken_fences
from tests.integration.fence_adapters import (
    AsyncAdapter,
    ConnectionAdapter,
    PsycopgAdapter,
    SessionAdapter,
    mariadb_url,
    postgresql_url,
    sqlite_engine,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from redlock.fencing.conformance import Adapter

EXAMPLES = int(os.environ.get("FENCE_EXAMPLES", "12"))
"""Random interleavings; `make soak` runs more."""
PATIENCE = 0.1
"""Seconds after which a holder counts as waiting; too short only changes the order."""


def pg_engine(address: str, level: str) -> Engine:
    return create_engine(postgresql_url(address), isolation_level=level)


def maria_engine(path: str, level: str) -> Engine:
    return create_engine(mariadb_url(path), isolation_level=level)


def check_all(adapter: Adapter) -> None:
    for interleaving in INTERLEAVINGS.values():
        check(adapter, interleaving, patience=PATIENCE)


class TestSQLite(FencingConformance):
    """The class of the kit, as a user would write it."""

    @pytest.fixture
    def adapter(self, tmp_path: Any) -> Iterator[Adapter]:
        engine = sqlite_engine(str(tmp_path / "data"))
        yield SessionAdapter(engine)
        engine.dispose()


@pytest.mark.parametrize(
    ("kind", "level"),
    [
        (SessionAdapter, "READ COMMITTED"),
        (SessionAdapter, "REPEATABLE READ"),
        pytest.param(SessionAdapter, "SERIALIZABLE", marks=pytest.mark.long),
        pytest.param(ConnectionAdapter, "READ COMMITTED", marks=pytest.mark.long),
        pytest.param(ConnectionAdapter, "REPEATABLE READ", marks=pytest.mark.long),
        pytest.param(ConnectionAdapter, "SERIALIZABLE", marks=pytest.mark.long),
    ],
)
def test_no_interleaving_loses_an_update_on_postgresql(kind: Any, level: str, pg_address: str) -> None:
    engine = pg_engine(pg_address, level)
    try:
        check_all(kind(engine))
    finally:
        engine.dispose()


@pytest.mark.parametrize(
    "level",
    [
        "READ COMMITTED",
        pytest.param("REPEATABLE READ", marks=pytest.mark.long),
        pytest.param("SERIALIZABLE", marks=pytest.mark.long),
    ],
)
def test_no_interleaving_loses_an_update_with_psycopg(level: str, pg_address: str) -> None:
    from psycopg import IsolationLevel

    engine = pg_engine(pg_address, level)
    try:
        check_all(PsycopgAdapter(engine, pg_address, IsolationLevel[level.replace(" ", "_")]))
    finally:
        engine.dispose()


@pytest.mark.parametrize(
    ("kind", "level"),
    [
        (SessionAdapter, "REPEATABLE READ"),
        pytest.param(SessionAdapter, "READ COMMITTED", marks=pytest.mark.long),
        pytest.param(SessionAdapter, "SERIALIZABLE", marks=pytest.mark.long),
        pytest.param(ConnectionAdapter, "READ COMMITTED", marks=pytest.mark.long),
        pytest.param(ConnectionAdapter, "REPEATABLE READ", marks=pytest.mark.long),
    ],
)
def test_no_interleaving_loses_an_update_on_mariadb(kind: Any, level: str, maria_socket: str) -> None:
    engine = maria_engine(maria_socket, level)
    try:
        check_all(kind(engine))
    finally:
        engine.dispose()


@pytest.mark.parametrize(
    "level",
    [
        pytest.param("READ COMMITTED", marks=pytest.mark.long),
        "REPEATABLE READ",
        pytest.param("SERIALIZABLE", marks=pytest.mark.long),
    ],
)
def test_no_interleaving_loses_an_update_with_asyncpg(level: str, pg_address: str) -> None:
    engine = pg_engine(pg_address, level)
    try:
        check_all(AsyncAdapter(engine, postgresql_url(pg_address, "asyncpg"), level))
    finally:
        engine.dispose()


@pytest.mark.parametrize("level", ["REPEATABLE READ", pytest.param("READ COMMITTED", marks=pytest.mark.long)])
def test_no_interleaving_loses_an_update_with_aiomysql(level: str, maria_socket: str) -> None:
    engine = maria_engine(maria_socket, level)
    try:
        check_all(AsyncAdapter(engine, mariadb_url(maria_socket, "aiomysql"), level))
    finally:
        engine.dispose()


def test_random_interleavings_lose_no_update(pg_address: str) -> None:
    engine = pg_engine(pg_address, "READ COMMITTED")
    adapter = SessionAdapter(engine)

    @settings(max_examples=EXAMPLES, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
    @given(random_interleavings())
    def run(interleaving: Interleaving) -> None:
        check(adapter, interleaving, patience=0.02)

    try:
        run()
    finally:
        engine.dispose()


def complaints(adapter: Adapter) -> Iterator[str]:
    """The violations that the kit finds in an adapter."""
    for name, interleaving in INTERLEAVINGS.items():
        try:
            check(adapter, interleaving, patience=PATIENCE)
        except AssertionError as error:
            yield f"{name}: {error}"


@pytest.mark.parametrize(("kind", "level"), [(kind, level) for kind in broken_fences.ALL for level in kind.levels])
def test_the_kit_finds_a_broken_fence(kind: type[broken_fences.Broken], level: str, pg_address: str) -> None:
    engine = pg_engine(pg_address, level)
    try:
        complaint = next(complaints(kind(engine)), "")
    finally:
        engine.dispose()
    assert "read" in complaint
    assert any(word in complaint for word in ("lost", "larger token", "stale token", "had to pass", "neither Stale"))
