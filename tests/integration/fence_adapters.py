"""Adapters of the conformance kit for the fences of this package.

Each adapter keeps one integer per name in `account` and a row per write in `journal`, beside the tables of the fence.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any

from sqlalchemy import BigInteger, Column, Engine, Integer, String, Table, event, insert, select, update
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from redlock.fencing import _statements
from redlock.fencing.conformance import Lease, Write
from redlock.fencing.sql import add_tables, fenced

if TYPE_CHECKING:
    from collections.abc import Coroutine, Iterator
    from contextlib import AbstractContextManager


class Base(DeclarativeBase):
    """The tables of the test."""


class Account(Base):
    """One integer."""

    __tablename__ = "account"
    name: Mapped[str] = mapped_column(String(40, collation=None), primary_key=True)
    value: Mapped[int]


JOURNAL = Table(
    "journal",
    Base.metadata,
    Column("number", Integer, primary_key=True, autoincrement=True),
    Column("resource", String(40)),
    Column("token", BigInteger),
    Column("read", Integer),
)
FENCE, OPERATION = add_tables(Base.metadata)
NAMES = {"account": "account", "acc": "acc-lower", "ACC": "acc-upper", "acc ": "acc-blank"}
"""Keys of the data that no collation folds: I8 is about the names in the fence."""


class SessionAdapter:
    """The fence of this package on a SQLAlchemy session."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        Base.metadata.drop_all(engine)
        Base.metadata.create_all(engine)

    def reset(self) -> None:
        with self.engine.begin() as connection:
            for table in reversed(Base.metadata.sorted_tables):
                connection.execute(table.delete())
            connection.execute(insert(Account), [{"name": name, "value": 0} for name in NAMES.values()])

    def open(self) -> Any:
        return Session(self.engine, expire_on_commit=False)

    def close(self, session: Any) -> None:
        session.close()

    def fenced(self, session: Any, lease: Lease) -> AbstractContextManager[object]:
        return fenced(session, lease, lock_timeout=20)

    def look(self, session: Any, resource: str) -> None:
        session.get(Account, NAMES[resource])

    def read(self, session: Any, resource: str) -> int:
        account = session.get(Account, NAMES[resource])
        return int(account.value)

    def write(self, session: Any, write: Write, value: int) -> None:
        # An INSERT besides: an UPDATE alone would let the database find the conflict that the fence overlooked.
        session.execute(insert(JOURNAL).values(write._asdict()))
        session.execute(
            update(Account)
            .where(Account.name == NAMES[write.resource])
            .values(value=value)
            .execution_options(synchronize_session=False)
        )

    def retryable(self, error: Exception) -> bool:
        return _statements.code_of(error) in _statements.RETRYABLE

    def committed(self) -> list[Write]:
        with self.engine.connect() as connection:
            return [
                Write(*row) for row in connection.execute(select(JOURNAL.c.resource, JOURNAL.c.token, JOURNAL.c.read))
            ]

    def value(self, resource: str) -> int:
        with self.engine.connect() as connection:
            return int(connection.execute(select(Account.value).where(Account.name == NAMES[resource])).scalar_one())


class ConnectionAdapter(SessionAdapter):
    """The fence of this package on a SQLAlchemy connection."""

    def open(self) -> Any:
        return self.engine.connect()

    def look(self, session: Any, resource: str) -> None:
        self.read(session, resource)

    def read(self, session: Any, resource: str) -> int:
        return int(session.execute(select(Account.value).where(Account.name == NAMES[resource])).scalar_one())


class AsyncAdapter(SessionAdapter):
    """The fence of this package on an `AsyncSession`; each holder has an event loop and an engine of its own."""

    def __init__(self, engine: Engine, url: str, level: str) -> None:
        super().__init__(engine)
        self._url, self._level = url, level

    def open(self) -> Any:
        return AsyncHolder(self._url, self._level)

    def close(self, session: Any) -> None:
        session.close()

    @contextlib.contextmanager
    def fenced(self, session: Any, lease: Lease) -> Iterator[None]:
        block = fenced(session.session, lease, lock_timeout=20)
        session.run(block.__aenter__())
        try:
            yield
        except BaseException as error:
            session.run(block.__aexit__(type(error), error, None))
            raise
        session.run(block.__aexit__(None, None, None))

    def look(self, session: Any, resource: str) -> None:
        session.run(session.session.get(Account, NAMES[resource]))

    def read(self, session: Any, resource: str) -> int:
        account = session.run(session.session.get(Account, NAMES[resource], populate_existing=True))
        return int(account.value)

    def write(self, session: Any, write: Write, value: int) -> None:
        session.run(session.session.run_sync(super().write, write, value))


class AsyncHolder:
    """An event loop with an `AsyncSession`."""

    def __init__(self, url: str, level: str) -> None:
        self._loop = asyncio.new_event_loop()
        self._engine = create_async_engine(url, isolation_level=level)
        self.session = AsyncSession(self._engine, expire_on_commit=False)

    def run(self, work: Coroutine[Any, Any, Any]) -> Any:
        return self._loop.run_until_complete(work)

    def close(self) -> None:
        self.run(self.session.close())
        self.run(self._engine.dispose())
        self._loop.close()


class PsycopgAdapter(SessionAdapter):
    """The fence of this package on a plain connection of psycopg 3."""

    def __init__(self, engine: Engine, address: str, level: Any) -> None:
        super().__init__(engine)
        self._address, self._level = address, level

    def open(self) -> Any:
        import psycopg

        connection = psycopg.connect(self._address)
        connection.isolation_level = self._level
        return connection

    def look(self, session: Any, resource: str) -> None:
        self.read(session, resource)

    def read(self, session: Any, resource: str) -> int:
        (value,) = session.execute("SELECT value FROM account WHERE name = %s", (NAMES[resource],)).fetchone()
        return int(value)

    def write(self, session: Any, write: Write, value: int) -> None:
        session.execute("INSERT INTO journal (resource, token, read) VALUES (%s, %s, %s)", write)
        session.execute("UPDATE account SET value = %s WHERE name = %s", (value, NAMES[write.resource]))


def postgresql_url(address: str, driver: str = "psycopg") -> str:
    """The address of a PostgreSQL server for SQLAlchemy."""
    return address.replace("postgresql://", f"postgresql+{driver}://")


def mariadb_url(socket: str, driver: str = "pymysql") -> str:
    """The address of the database `test` on a MariaDB server for SQLAlchemy."""
    return f"mariadb+{driver}://root@/test?unix_socket={socket}"


def sqlite_engine(path: str) -> Engine:
    """SQLite with a write-ahead log, in which a holder waits for another holder."""
    from sqlalchemy import create_engine

    engine = create_engine(f"sqlite:///{path}", connect_args={"timeout": 20})

    @event.listens_for(engine, "connect")
    def set_up(connection: Any, _record: object) -> None:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = OFF")

    return engine
