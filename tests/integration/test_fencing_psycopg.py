"""`redlock.fencing.sql` on a plain connection of psycopg 3: each mode works, or is refused with a clear error."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from psycopg.rows import dict_row
from sqlalchemy import Engine

from redlock.errors import ConfigurationError, Stale
from redlock.fencing.conformance import Lease
from redlock.fencing.sql import fenced, purge_operations
from tests.integration.fence_adapters import assert_refused, balance

LEASE = Lease(1_764_316_800_000_000, "me")
pytestmark = pytest.mark.parametrize("database", ["postgresql"], indirect=True)


@pytest.fixture
def address(engine: Engine) -> str:
    return engine.url.set(drivername="postgresql").render_as_string()


@pytest.fixture
def connection(address: str) -> Iterator[psycopg.Connection]:
    with psycopg.connect(address) as made:
        yield made


@pytest.mark.parametrize(
    "options", [{"row_factory": dict_row}, {"cursor_factory": psycopg.RawCursor}, {"prepare_threshold": 0}]
)
def test_every_kind_of_cursor_works(address: str, options: Any) -> None:
    with psycopg.connect(address, **options) as connection:
        with fenced(connection, LEASE, operation="op") as section:
            assert section.fresh
        assert_refused(connection, Lease(8, "late"), error=Stale)
        purge_operations(connection)


def test_pipeline_mode_is_refused(connection: psycopg.Connection) -> None:
    with connection.pipeline():
        assert_refused(connection, LEASE, "pipeline mode")


def test_a_pipeline_in_the_body_is_committed(connection: psycopg.Connection, engine: Engine) -> None:
    with fenced(connection, LEASE), connection.pipeline():
        connection.execute("UPDATE account SET value = 11")
    assert balance(engine) == 11


def test_a_closed_connection_is_named(connection: psycopg.Connection) -> None:
    connection.close()
    assert_refused(connection, LEASE, "is closed")


def test_writes_after_a_commit_in_the_body_are_undone(connection: psycopg.Connection, engine: Engine) -> None:
    with pytest.raises(ConfigurationError, match="ended inside the block"), fenced(connection, LEASE):
        connection.commit()
        connection.execute("UPDATE account SET value = 99")
    assert balance(engine) == 10


def test_a_commit_at_the_end_of_the_body_is_told(connection: psycopg.Connection) -> None:
    with pytest.raises(ConfigurationError, match="ended inside the block"), fenced(connection, LEASE):
        connection.commit()


def test_a_caught_error_is_told(connection: psycopg.Connection, engine: Engine) -> None:
    with pytest.raises(ConfigurationError, match="its error was caught"), fenced(connection, LEASE):
        connection.execute("UPDATE account SET value = 99")
        with pytest.raises(psycopg.Error):
            connection.execute("SELECT nothing")
    assert balance(engine) == 10


def test_a_connection_that_ends_in_the_body_is_told(
    connection: psycopg.Connection, address: str, engine: Engine
) -> None:
    with psycopg.connect(address, autocommit=True) as other:
        with pytest.raises(psycopg.OperationalError), fenced(connection, LEASE):
            connection.execute("UPDATE account SET value = 99")
            other.execute("SELECT pg_terminate_backend(%s)", (connection.info.backend_pid,))
    assert balance(engine) == 10


async def test_an_async_connection_is_refused(address: str) -> None:
    with pytest.raises(ConfigurationError, match="needs an AsyncSession or AsyncConnection"):
        async with await psycopg.AsyncConnection.connect(address) as connection, fenced(connection, LEASE):
            pytest.fail("the body must not run")
