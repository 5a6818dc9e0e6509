"""Adapters of the conformance kit for the fences of this package.

Each adapter keeps a row per write in `journal`, beside the tables of the fence. The adapters of the ORM have an integer
per name in `account` besides. The others compute the value from the journal and only insert: at REPEATABLE READ
PostgreSQL finds the conflict of two updates by itself, also where the fence is broken.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Coroutine, Iterator
from contextlib import AbstractContextManager
from typing import Any, ClassVar

import pytest
from sqlalchemy import BigInteger, Column, Engine, Integer, String, Table, event, func, insert, select, text, update
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from redlock.errors import ConfigurationError
from redlock.fencing import _statements
from redlock.fencing.conformance import Lease, Write
from redlock.fencing.sql import add_tables, fenced
from tests.integration.databases import MYSQL


class Base(DeclarativeBase):
    """The tables of the test."""


class Account(Base):
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
RESOURCES = {name: resource for resource, name in NAMES.items()}
_WAITING = {
    "postgresql": "SELECT count(*) FROM pg_locks WHERE NOT granted",
    "mysql": "SELECT count(*) FROM information_schema.innodb_trx WHERE trx_state = 'LOCK WAIT'",
}
SNAPSHOT_ISOLATION = "REPEATABLE READ with innodb_snapshot_isolation"
"""The default of MariaDB from 11.6 on."""
ASYNC_DRIVERS = {"sqlite": "aiosqlite", "postgresql": "asyncpg", "mariadb": "aiomysql", "mysql": "aiomysql"}


def balance(engine: Engine) -> int:
    with Session(engine) as session:
        return session.get_one(Account, "account").value


def tokens(engine: Engine) -> int:
    """The number of tokens that the fence knows."""
    with engine.connect() as connection:
        return int(connection.execute(select(func.count()).select_from(FENCE)).scalar_one())


def waits(engine: Engine) -> bool:
    """Whether a statement waits for a lock of the database."""
    with engine.connect() as connection:
        statement = _WAITING[engine.dialect.name.replace("mariadb", "mysql")]
        return bool(connection.execute(text(statement)).scalar_one())


def assert_refused(
    session: Any, lease: Any, words: str | None = None, error: type[Exception] = ConfigurationError, **options: Any
) -> Exception:
    """Check that the fence refuses this lease before the body; the error."""
    with pytest.raises(error, match=words) as caught, fenced(session, lease, **options):
        pytest.fail("the body must not run")
    return caught.value


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
        session.execute(insert(JOURNAL).values(_row(write)))
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
            rows = connection.execute(select(JOURNAL.c.resource, JOURNAL.c.token, JOURNAL.c.read))
            return [Write(RESOURCES[name], token, read) for name, token, read in rows]

    def value(self, resource: str) -> int:
        with self.engine.connect() as connection:
            return int(connection.execute(select(Account.value).where(Account.name == NAMES[resource])).scalar_one())


def _row(write: Write) -> dict[str, Any]:
    return write._asdict() | {"resource": NAMES[write.resource]}


class ConnectionAdapter(SessionAdapter):
    """The fence of this package on a SQLAlchemy connection."""

    def open(self) -> Any:
        return self.engine.connect()

    def look(self, session: Any, resource: str) -> None:
        self.read(session, resource)

    def read(self, session: Any, resource: str) -> int:
        statement = select(func.count()).select_from(JOURNAL).where(JOURNAL.c.resource == NAMES[resource])
        return int(session.execute(statement).scalar_one())

    def write(self, session: Any, write: Write, value: int) -> None:
        session.execute(insert(JOURNAL).values(_row(write)))

    def value(self, resource: str) -> int:
        return max((write.read + 1 for write in self.committed() if write.resource == resource), default=0)


class AsyncAdapter(SessionAdapter):
    """The fence of this package on an `AsyncSession`; each holder has an event loop and an engine of its own."""

    drivers: ClassVar[dict[str, str]] = ASYNC_DRIVERS

    def open(self) -> Any:
        return AsyncHolder(self.engine, self.drivers[self.engine.dialect.name])

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


class AsyncPsycopgAdapter(AsyncAdapter):
    """The same with psycopg 3, which has an asynchronous side too."""

    drivers: ClassVar[dict[str, str]] = {"postgresql": "psycopg"}


class AsyncHolder:
    def __init__(self, engine: Engine, driver: str) -> None:
        self._loop = asyncio.new_event_loop()
        url = engine.url.set(drivername=f"{engine.dialect.name}+{driver}")
        level = engine.get_execution_options().get("isolation_level")
        options = {"isolation_level": level} if level else {"connect_args": {"timeout": 20}}
        self._engine = create_async_engine(url, **options)
        self.session = AsyncSession(self._engine, expire_on_commit=False)

    def run(self, work: Coroutine[Any, Any, Any]) -> Any:
        return self._loop.run_until_complete(work)

    def close(self) -> None:
        self.run(self.session.close())
        self.run(self._engine.dispose())
        self._loop.close()


class PsycopgAdapter(ConnectionAdapter):
    """The fence of this package on a plain connection of psycopg 3."""

    def open(self) -> Any:
        import psycopg

        connection = psycopg.connect(self.engine.url.render_as_string().replace("+psycopg", ""))
        level = str(self.engine.get_execution_options()["isolation_level"])
        connection.isolation_level = psycopg.IsolationLevel[level.replace(" ", "_")]
        return connection

    def read(self, session: Any, resource: str) -> int:
        (value,) = session.execute("SELECT count(*) FROM journal WHERE resource = %s", (NAMES[resource],)).fetchone()
        return int(value)

    def write(self, session: Any, write: Write, value: int) -> None:
        session.execute(
            "INSERT INTO journal (resource, token, read) VALUES (%(resource)s, %(token)s, %(read)s)", _row(write)
        )


def postgresql_url(address: str, driver: str = "psycopg") -> str:
    """The address of a PostgreSQL server for SQLAlchemy."""
    return address.replace("postgresql://", f"postgresql+{driver}://")


def mariadb_url(socket: str, driver: str = "pymysql") -> str:
    """The address of the database `test` on a server of MariaDB or MySQL for SQLAlchemy."""
    return f"{'mysql' if MYSQL else 'mariadb'}+{driver}://root@/test?unix_socket={socket}"


@contextlib.contextmanager
def with_accounts(engine: Engine) -> Iterator[Engine]:
    """The engine with new tables of the fence and an account of 10, until the end of the block."""
    Base.metadata.drop_all(engine)
    Base.metadata.create_all(engine)
    with engine.begin() as connection:
        connection.execute(insert(Account), [{"name": "account", "value": 10}, {"name": "acc-lower", "value": 0}])
    yield engine
    engine.dispose()


def sqlite_engine(path: str) -> Engine:
    """SQLite with a write-ahead log, in which a holder waits for another holder."""
    from sqlalchemy import create_engine

    engine = create_engine(f"sqlite:///{path}", connect_args={"timeout": 20})

    @event.listens_for(engine, "connect")
    def set_up(connection: Any, _record: object) -> None:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = OFF")

    return engine
