"""Each invalid input on each fence: a clear error in one line, nothing is written, and the session can be used again.

The rows of Django are in `apps/django_fence.py`. A fenced store has no transaction, autocommit or tables, and its token
alone decides about an expired lease.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from typing import Any, NamedTuple

import psycopg
import pytest
from redis import Redis
from redis.exceptions import ResponseError
from sqlalchemy import Engine, create_engine, event, func, inspect, select, text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession, create_async_engine
from sqlalchemy.orm import Session

from redlock.errors import ConfigurationError, LockLost
from redlock.fencing import AsyncFencedStore, FencedStore
from redlock.fencing.conformance import Lease
from redlock.fencing.sql import fenced
from redlock.testing.redis_server import Server
from tests.integration.fence_adapters import ASYNC_DRIVERS, FENCE, JOURNAL, OPERATION

GOOD = Lease(7, "me")
TOO_LONG = Lease(7, "me", ("x" * 1_025,))


class Expired(Lease):
    def remaining(self) -> float:
        return 0.0


class Row(NamedTuple):
    """An invalid input: the lease, the state of the session, and the words of the error."""

    words: str
    lease: Any = GOOD
    state: str = ""
    error: type[Exception] = ConfigurationError


ROWS = {
    "an expired lease": Row("expired before the fenced transaction began", Expired(7, "me"), error=LockLost),
    "token 0": Row("fencing token 0 cannot be used; a token is a whole number from 1", Lease(0, "me")),
    "an open transaction": Row(
        "in a transaction already; the fence must be the first statement of a transaction of its own: "
        "commit or roll back first",
        state="open",
    ),
    "autocommit": Row("in autocommit mode, where a fence locks nothing; turn autocommit off", state="autocommit"),
    "a name that is too long": Row("has 1025 bytes; 1024 are the most", TOO_LONG),
    "a read-only database": Row("is read-only; a fenced transaction needs the primary server", state="read-only"),
    "a missing table": Row("create them with: CREATE TABLE redlock_fence", state="missing"),
}
READ_ONLY = {
    "postgresql": "SET default_transaction_read_only = on",
    "mariadb": "SET SESSION TRANSACTION READ ONLY",
    "mysql": "SET SESSION TRANSACTION READ ONLY",
    "sqlite": "PRAGMA query_only = ON",
}


def read_only(engine: Engine) -> None:
    """Make each new connection of this engine read-only."""

    @event.listens_for(engine, "connect")
    def set_up(connection: Any, _record: object) -> None:
        cursor = connection.cursor()
        cursor.execute(READ_ONLY[engine.dialect.name])
        cursor.close()
        connection.commit()


def options(state: str) -> dict[str, Any]:
    return {"execution_options": {"isolation_level": "AUTOCOMMIT"}} if state == "autocommit" else {}


class Threads:
    """A `Session` or a `Connection`."""

    def __init__(self, kind: type) -> None:
        self.kind = kind

    def refuse(self, url: Any, row: Row) -> str:
        """The message of the error; the session is usable afterwards."""
        engine = create_engine(url, **options(row.state))
        if row.state == "read-only":
            read_only(engine)
        with contextlib.closing(self.kind(engine)) as session:
            if row.state == "open":
                session.execute(text("SELECT 1"))
            for _ in range(2):
                with pytest.raises(row.error) as caught, fenced(session, row.lease, operation="op"):
                    pytest.fail("the body must not run")
                assert session.in_transaction() == (row.state == "open")
            session.rollback()
            assert session.execute(text("SELECT 1")).scalar_one() == 1
        engine.dispose()
        return str(caught.value)


class Tasks:
    """An `AsyncSession` or an `AsyncConnection`."""

    def __init__(self, kind: type) -> None:
        self.kind = kind

    def refuse(self, url: Any, row: Row) -> str:
        """The message of the error; the session is usable afterwards."""
        return asyncio.run(self._refuse(url, row))

    async def _refuse(self, url: Any, row: Row) -> str:
        made = create_async_engine(
            url.set(drivername=f"{url.get_backend_name()}+{ASYNC_DRIVERS[url.get_backend_name()]}"),
            **options(row.state),
        )
        if row.state == "read-only":
            read_only(made.sync_engine)
        async with self._opened(made) as session:
            if row.state == "open":
                await session.execute(text("SELECT 1"))
            with pytest.raises(row.error) as caught:
                async with fenced(session, row.lease, operation="op"):
                    pytest.fail("the body must not run")
            assert session.in_transaction() == (row.state == "open")
            await session.rollback()
            assert (await session.execute(text("SELECT 1"))).scalar_one() == 1
        await made.dispose()
        return str(caught.value)

    @contextlib.asynccontextmanager
    async def _opened(self, engine: Any) -> AsyncIterator[Any]:
        async with AsyncSession(engine) if self.kind is AsyncSession else engine.connect() as session:
            yield session


class Psycopg:
    def refuse(self, url: Any, row: Row) -> str:
        """The message of the error; the connection is usable afterwards."""
        address = url.set(drivername="postgresql").render_as_string()
        with psycopg.connect(address, autocommit=row.state == "autocommit") as connection:
            connection.read_only = row.state == "read-only"
            if row.state == "open":
                connection.execute("SELECT 1")
            with pytest.raises(row.error) as caught, fenced(connection, row.lease, operation="op"):
                pytest.fail("the body must not run")
            is_idle = connection.info.transaction_status is psycopg.pq.TransactionStatus.IDLE
            assert is_idle == (row.state != "open")
            connection.rollback()
            assert connection.execute("SELECT 1").fetchone() == (1,)
        return str(caught.value)


FENCES = {
    "Session": Threads(Session),
    "Connection": Threads(Engine.connect),  # type: ignore[arg-type]  # as good as a class
    "AsyncSession": Tasks(AsyncSession),
    "AsyncConnection": Tasks(AsyncConnection),
}


def written(engine: Engine) -> int:
    """The number of rows in the tables of the fence and in the journal, where the tables are there."""
    with engine.connect() as connection:
        present = inspect(connection).get_table_names()
        tables = [table for table in (FENCE, OPERATION, JOURNAL) if table.name in present]
        return sum(connection.execute(select(func.count()).select_from(table)).scalar_one() for table in tables)


def check(fence: Any, engine: Engine) -> None:
    for name, row in ROWS.items():
        if row.state == "missing":
            with engine.begin() as connection:
                connection.execute(text("DROP TABLE redlock_fence"))
                connection.execute(text("DROP TABLE redlock_operation"))
        told = fence.refuse(engine.url, row)
        assert row.words in told, name
        assert "\n" not in told, name
        assert written(engine) == 0, name


@pytest.mark.parametrize("fence", FENCES)
def test_each_invalid_input_has_an_error_and_no_effect(fence: str, engine: Engine) -> None:
    check(FENCES[fence], engine)


@pytest.mark.parametrize("database", ["postgresql"], indirect=True)
def test_psycopg_has_the_same_errors(engine: Engine) -> None:
    check(Psycopg(), engine)


STORE = {
    "token 0": (Row("fencing token 0 cannot be used", Lease(0, "me")), "name"),
    "no number": (Row("fencing token '7' cannot be used", Lease("7", "me")), "name"),  # type: ignore[arg-type]
    "a name that is too long": (Row("has 1025 bytes; 1024 are the most"), "x" * 1_025),
    # The subclass ReadOnlyError from Redis 7.0 on.
    "a read-only server": (Row("read only replica", state="read-only", error=ResponseError), "name"),
}


@pytest.fixture
def redis(broker: Server) -> Iterator[Redis]:
    with Redis.from_url(broker.url) as client:
        yield client
        client.replicaof("NO", "ONE")


@pytest.mark.parametrize(("row", "name"), STORE.values(), ids=STORE)
def test_the_stores_refuse_an_invalid_input(broker: Server, redis: Redis, row: Row, name: str) -> None:
    async def with_asyncio() -> None:
        async with AsyncFencedStore(broker.url) as store:
            await store.open(name, row.lease)

    if row.state == "read-only":
        redis.replicaof("127.0.0.1", 1)
    for refused in (lambda: FencedStore(redis).open(name, row.lease), lambda: asyncio.run(with_asyncio())):
        with pytest.raises(row.error, match=row.words) as caught:
            refused()
        assert "\n" not in str(caught.value)
    redis.replicaof("NO", "ONE")
    assert redis.dbsize() == 0
