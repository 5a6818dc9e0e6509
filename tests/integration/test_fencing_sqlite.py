"""SQLite: a driver's commit that does nothing or fails, the end inside the block, and a shared connection."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, create_engine, event, text
from sqlalchemy.exc import IntegrityError, OperationalError
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.orm import Session
from sqlalchemy.pool import StaticPool

from redlock.errors import ConfigurationError
from redlock.fencing.conformance import Lease
from redlock.fencing.sql import fenced
from tests.integration.fence_adapters import Account, Base, assert_refused, balance, sqlite_engine, with_accounts

LEASE = Lease(7, "me")
has_autocommit = pytest.mark.skipif(sys.version_info < (3, 12), reason="sqlite3 has no `autocommit` before Python 3.12")


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    with with_accounts(sqlite_engine(str(tmp_path / "data"))) as engine:
        yield engine


@pytest.fixture
def make(engine: Engine) -> Iterator[Callable[..., Engine]]:
    """Makes engines with options on the same file, and disposes of them."""
    with contextlib.ExitStack() as stack:

        def made(**options: Any) -> Engine:
            created = create_engine(engine.url, **options)
            stack.callback(created.dispose)
            return created

        yield made


def set_on_connect(engine: Engine, name: str, value: object) -> Engine:
    event.listen(engine, "connect", lambda connection, _: setattr(connection, name, value))
    return engine


def begins_itself(engine: Engine) -> Engine:
    """The recipe of SQLAlchemy's manual for SQLite."""
    event.listen(engine, "begin", lambda connection: connection.exec_driver_sql("BEGIN"))
    return set_on_connect(engine, "isolation_level", None)


def refuse(engine: Engine, times: int = 2) -> None:
    for _ in range(times):
        with Session(engine) as session:
            assert_refused(session, LEASE, "autocommit mode")
            assert not session.in_transaction()


def is_unlocked(engine: Engine) -> bool:
    with engine.begin() as connection:
        connection.execute(text("UPDATE account SET value = value + 1"))
    return True


@has_autocommit
def test_a_driver_that_ignores_commit_is_refused(make: Callable[..., Engine], engine: Engine) -> None:
    """With `autocommit=True` the commit of sqlite3 does nothing, although BEGIN has begun a transaction."""
    refuse(make(connect_args={"autocommit": True}))
    refuse(set_on_connect(make(), "autocommit", True))  # noqa: FBT003 - the value of an attribute
    # Once: the rollback of the driver does nothing either.
    refuse(begins_itself(make(connect_args={"autocommit": True})), times=1)
    assert is_unlocked(engine)


@has_autocommit
@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"autocommit": True}, pytest.raises(ConfigurationError, match="autocommit mode")),
        ({"autocommit": False}, contextlib.nullcontext()),
    ],
)
async def test_aiosqlite_in_autocommit_mode_is_refused(engine: Engine, options: dict[str, bool], expected: Any) -> None:
    made = create_async_engine(engine.url.set(drivername="sqlite+aiosqlite"), connect_args=options)
    async with made.connect() as connection:
        with expected:
            async with fenced(connection, LEASE):
                await connection.execute(text("UPDATE account SET value = value + 1 WHERE name = 'account'"))
    await made.dispose()
    assert balance(engine) == (10 if options["autocommit"] else 11)
    assert is_unlocked(engine)


def test_a_detached_connection_is_fenced(make: Callable[..., Engine], engine: Engine) -> None:
    for made in (make(), begins_itself(make())):
        with made.connect() as connection:
            connection.detach()
            with fenced(connection, LEASE):
                connection.execute(text("UPDATE account SET value = value + 1 WHERE name = 'account'"))
    assert balance(engine) == 12


@has_autocommit
def test_a_driver_that_begins_itself_is_fenced(make: Callable[..., Engine], engine: Engine) -> None:
    with Session(make(connect_args={"autocommit": False})) as session, fenced(session, LEASE):
        session.get_one(Account, "account").value += 1
    assert balance(engine) == 11
    assert is_unlocked(engine)


def test_two_blocks_on_one_driver_connection_are_refused(make: Callable[..., Engine], engine: Engine) -> None:
    """The inner commit would commit the half of the outer block."""
    made = make(poolclass=StaticPool)
    with made.connect() as outer, made.connect() as inner:
        for _ in range(2):
            with pytest.raises(ConfigurationError, match="ended inside"), fenced(outer, LEASE, operation="outer"):
                outer.execute(text("UPDATE account SET value = 99"))
                assert_refused(inner, Lease(8, "inner"), "same connection of the driver", operation="inner")
        with fenced(inner, Lease(8, "inner")):
            inner.execute(text("UPDATE account SET value = value + 1 WHERE name = 'account'"))
    assert balance(engine) == 11


async def test_tasks_that_share_a_database_in_memory_are_refused() -> None:
    """Asyncio engines of SQLite in memory give all tasks the same connection of the driver."""
    made = create_async_engine("sqlite+aiosqlite://")
    inside, refused = asyncio.Event(), asyncio.Event()
    async with made.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)

    async def first() -> None:
        with pytest.raises(ConfigurationError, match="ended inside"):
            async with made.connect() as connection, fenced(connection, LEASE):
                inside.set()
                await refused.wait()

    async def second() -> None:
        await inside.wait()
        with pytest.raises(ConfigurationError, match="same connection of the driver"):
            async with made.connect() as connection, fenced(connection, Lease(8, "second")):
                pytest.fail("the body must not run")
        refused.set()

    await asyncio.wait_for(asyncio.gather(first(), second()), 60)
    async with made.connect() as connection:
        assert await connection.scalar(text("SELECT count(*) FROM redlock_fence")) == 0
    await made.dispose()


@pytest.mark.parametrize("statement", ["COMMIT", "ROLLBACK", "INSERT OR ROLLBACK INTO account VALUES ('account', 1)"])
@pytest.mark.parametrize("kind", ["plain", "recipe", pytest.param("autocommit=False", marks=has_autocommit)])
def test_nothing_is_written_after_the_end(
    make: Callable[..., Engine], engine: Engine, kind: str, statement: str
) -> None:
    made = make(connect_args={"autocommit": False} if kind == "autocommit=False" else {})
    if kind == "recipe":
        begins_itself(made)
    with made.connect() as connection:
        for _ in range(2):
            with pytest.raises(ConfigurationError, match="ended inside the block"), fenced(connection, LEASE):
                with contextlib.suppress(IntegrityError):
                    connection.execute(text(statement))
                with pytest.raises(ConfigurationError, match="would be committed without the fence"):
                    connection.execute(text("UPDATE account SET value = 99"))
        with fenced(connection, LEASE):
            connection.execute(text("UPDATE account SET value = value + 1 WHERE name = 'account'"))
        connection.execute(text("UPDATE account SET value = value + 1 WHERE name = 'account'"))
        connection.commit()
    assert balance(engine) == 12


@pytest.mark.parametrize("kind", ["connection", "session", "session on a connection"])
def test_a_commit_that_fails_is_rolled_back(tmp_path: Path, kind: str) -> None:
    """In the default journal mode a reader makes COMMIT fail; SQLAlchemy takes such a transaction for ended."""
    plain = create_engine(f"sqlite:///{tmp_path / 'data'}", connect_args={"timeout": 0.01})
    with with_accounts(plain) as engine, engine.connect() as reader, engine.connect() as connection:
        target: Any = connection if kind == "connection" else Session(engine if kind == "session" else connection)
        reader.exec_driver_sql("BEGIN")
        assert reader.scalar(text("SELECT value FROM account WHERE name = 'account'")) == 10
        with pytest.raises(OperationalError, match="locked"), fenced(target, LEASE, operation="op"):
            target.execute(text("UPDATE account SET value = 99"))
        reader.rollback()
        assert is_unlocked(engine)
        with fenced(target, LEASE, operation="op") as section:
            assert section.fresh
            target.execute(text("UPDATE account SET value = value + 1 WHERE name = 'account'"))
        assert balance(engine) == 12
        target.close()


@pytest.mark.parametrize("kind", ["session", "session-on-connection"])
def test_a_listener_after_the_commit_may_use_the_connection(engine: Engine, kind: str) -> None:
    seen = []
    with engine.connect() as connection, Session(engine if kind == "session" else connection) as session:

        @event.listens_for(session, "after_commit")
        def look(_: Session) -> None:
            seen.append(connection.execute(text("SELECT 1")).scalar())
            connection.rollback()

        with fenced(session, LEASE):
            session.execute(text("UPDATE account SET value = 1"))
    with engine.connect() as connection:
        assert connection.execute(text("SELECT MAX(value) FROM account")).scalar() == 1
    assert seen == [1]


def test_an_interrupted_rollback_leaves_no_guard_behind(engine: Engine) -> None:
    def interrupt(_: object) -> None:
        event.remove(connection, "rollback", interrupt)
        raise KeyboardInterrupt

    with engine.connect() as connection:
        event.listen(connection, "rollback", interrupt)
        with pytest.raises(KeyboardInterrupt), fenced(connection, LEASE):
            raise ValueError
        connection.connection.rollback()
        for _ in range(2):
            assert connection.execute(text("SELECT 1")).scalar() == 1
