"""`async with fenced(...)` on asyncpg, aiomysql and aiosqlite: as `with`, also when a task is cancelled."""

from __future__ import annotations

import asyncio
import contextlib
import gc
from collections.abc import AsyncIterator
from functools import partial

import pytest
from sqlalchemy import Engine, event, text
from sqlalchemy.exc import PendingRollbackError
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_scoped_session, async_sessionmaker
from sqlalchemy.ext.asyncio import create_async_engine as create
from sqlalchemy.orm import Session

from redlock.errors import ConfigurationError, Stale
from redlock.fencing.conformance import Lease
from redlock.fencing.sql import fenced, purge_operations
from tests.integration.fence_adapters import ASYNC_DRIVERS, Account, assert_refused, balance, waits
from tests.integration.tools import eventually

TOKEN = 1_764_316_800_000_000
LEASE, LATER, LATE = Lease(TOKEN, "me"), Lease(TOKEN + 1, "later"), Lease(TOKEN - 1, "late")


@contextlib.asynccontextmanager
async def asynchronous(engine: Engine) -> AsyncIterator[AsyncEngine]:
    """An asynchronous engine on the same database."""
    made = create(engine.url.set(drivername=f"{engine.dialect.name}+{ASYNC_DRIVERS[engine.dialect.name]}"))
    try:
        yield made
    finally:
        await made.dispose()


async def test_an_async_session_is_fenced(engine: Engine) -> None:
    async with asynchronous(engine) as made:
        async with AsyncSession(made, expire_on_commit=False) as session:
            for fresh in (True, False):
                async with fenced(session, LEASE, operation="op") as section:
                    assert (section.names, section.token, section.fresh) == (("account",), TOKEN, fresh)
                    if fresh:
                        (await session.get_one(Account, "account")).value += 1
            with pytest.raises(Stale):
                async with fenced(session, LATE):
                    pytest.fail("the body must not run")
            assert_refused(session, LEASE, "write `async with")
            with pytest.raises(ConfigurationError, match="run_sync"):
                purge_operations(session)
            await session.run_sync(purge_operations)
    assert balance(engine) == 11


async def test_an_async_connection_is_fenced(engine: Engine) -> None:
    async with asynchronous(engine) as made:
        async with made.connect() as connection:
            async with fenced(connection, LEASE):
                await connection.execute(text("UPDATE account SET value = 12 WHERE name = 'account'"))
            with pytest.raises(ConfigurationError, match="ended inside the block"):
                async with fenced(connection, LEASE):
                    await connection.commit()
    assert balance(engine) == 12


async def test_nothing_is_written_after_the_end_with_asyncio(engine: Engine) -> None:
    """asyncpg would commit each further statement by itself."""
    async with asynchronous(engine) as made:
        async with made.connect() as connection:
            for _ in range(2):
                with pytest.raises(ConfigurationError, match="ended inside the block"):
                    async with fenced(connection, LEASE):
                        await connection.execute(text("COMMIT"))
                        with contextlib.suppress(ConfigurationError):
                            await connection.execute(text("UPDATE account SET value = 99 WHERE name = 'account'"))
                assert not connection.in_transaction()
            async with fenced(connection, LEASE):
                await connection.execute(text("UPDATE account SET value = 11 WHERE name = 'account'"))
            assert await connection.scalar(text("SELECT value FROM account WHERE name = 'account'")) == 11
    assert balance(engine) == 11


async def test_an_async_scoped_session_is_fenced(engine: Engine) -> None:
    async with asynchronous(engine) as made:
        scoped = async_scoped_session(async_sessionmaker(made), scopefunc=asyncio.current_task)
        async with fenced(scoped, LEASE):
            (await scoped.get_one(Account, "account")).value = 13
        await scoped.remove()
    assert balance(engine) == 13


async def cancel(task: asyncio.Task[None], session: AsyncSession) -> None:
    """Cancel the task, which must end and leave its session without a transaction."""
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not session.in_transaction()


async def test_a_cancelled_body_is_rolled_back(engine: Engine) -> None:
    async with asynchronous(engine) as made:
        inside = asyncio.Event()

        async def body(session: AsyncSession) -> None:
            async with fenced(session, LATER):
                (await session.get_one(Account, "account")).value = 99
                await session.flush()
                inside.set()
                await asyncio.Event().wait()

        async with AsyncSession(made) as session:
            task = asyncio.create_task(body(session))
            await inside.wait()
            await cancel(task, session)
            async with fenced(session, LEASE):
                pass
    assert balance(engine) == 10


@pytest.mark.parametrize(
    ("start", "caught"),
    [("INSERT INTO redlock_fence", False), ("SELECT account", False), ("SELECT account", True)],
)
async def test_a_cancelled_statement_frees_the_database(engine: Engine, start: str, *, caught: bool) -> None:
    """For SQLite a closed connection is open while a cursor has unread rows."""
    async with asynchronous(engine) as made:
        cancelled: list[bool] = []

        def cancel_once(_connection: object, _cursor: object, statement: str, *_: object) -> None:
            if start in statement and not cancelled:
                cancelled.append(task.cancel())

        async def body() -> None:
            async with AsyncSession(made) as session, fenced(session, LEASE):
                with contextlib.suppress(*[asyncio.CancelledError] * caught):
                    await session.get_one(Account, "account")

        event.listen(made.sync_engine, "before_cursor_execute", cancel_once)
        gc.disable()
        try:
            task = asyncio.create_task(body())
            with pytest.raises(PendingRollbackError if caught else asyncio.CancelledError):
                await task
            with Session(engine) as other, fenced(other, LATER):
                other.get_one(Account, "account").value = 11
        finally:
            gc.enable()
    assert balance(engine) == 11


@pytest.mark.parametrize("database", ["postgresql", "mariadb"], indirect=True)
async def test_a_cancelled_wait_leaves_no_transaction(engine: Engine) -> None:
    async with asynchronous(engine) as made:

        async def wait(session: AsyncSession) -> None:
            async with fenced(session, LATER, operation="second"):
                pytest.fail("the body must not run")

        async with AsyncSession(made) as first, AsyncSession(made) as second:
            async with fenced(first, LEASE, operation="first"):
                task = asyncio.create_task(wait(second))
                # InnoDB shows a new list only after a tenth of a second without a query.
                await asyncio.to_thread(eventually, partial(waits, engine), "a holder at the row", every=0.2)
                await cancel(task, second)
            async with fenced(second, LATER):
                pass
