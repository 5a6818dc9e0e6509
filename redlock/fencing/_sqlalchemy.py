"""The fence on SQLAlchemy 2: sessions and connections."""

from __future__ import annotations

import contextlib
import functools
import weakref
from typing import TYPE_CHECKING, Any

from sqlalchemy import event, text
from sqlalchemy.engine import Connection, Engine

from redlock.errors import ConfigurationError
from redlock.fencing import _statements as sql

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from sqlalchemy.orm import Session

    from redlock.fencing._statements import Dialect

_OPEN = (
    "{what} is in a transaction already; the fence must be the first statement of a transaction of its own: "
    "commit or roll back first, and read inside the block"
)

_FENCED = "redlock_fenced"


def dialect_of(bind: Engine | Connection) -> Dialect:
    """The statements for the database of this engine or connection."""
    name = bind.dialect.name
    if name == "mysql" and getattr(bind.dialect, "is_mariadb", False):
        name = "mariadb"
    try:
        return sql.DIALECTS[name]
    except KeyError:
        known = ", ".join(sorted(sql.DIALECTS))
        raise ConfigurationError(f"there is no fence for the database {name!r}; there is one for {known}") from None


class ConnectionTransaction:
    """A transaction on a SQLAlchemy `Connection`."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._transaction: Any = None
        self._guard = EndGuard()

    @property
    def dialect(self) -> Dialect:
        """The statements for the database."""
        return dialect_of(self._connection)

    def begin(self) -> None:
        """Begin, after the checks that only the outermost transaction of a real connection passes."""
        if self._connection.in_transaction():
            raise ConfigurationError(_OPEN.format(what="the connection"))
        self._transaction = self._connection.begin()

    def prepare(self) -> None:
        """Refuse autocommit, and send the statements that come before the fence."""
        self._guard.start(self._connection)
        prepare(self._connection, self.dialect)

    def execute(self, statement: str, parameters: Mapping[str, Any]) -> Sequence[Sequence[Any]]:
        """Run a statement on this connection."""
        return run(self._connection, statement, parameters)

    def is_open(self) -> bool:
        """Whether the transaction that `begin` has begun is still open."""
        return bool(self._transaction.is_active)

    def commit(self, confirm: Callable[[], None]) -> None:
        """Commit right after `confirm`."""
        with confirmed(self._connection, confirm):
            self._transaction.commit()
        self._guard.stop()

    def rollback(self) -> None:
        """Roll back, also a transaction that the body began; a broken connection has rolled back by itself."""
        with contextlib.suppress(Exception):
            self._connection.rollback()
        roll_back_driver(self._connection)
        self._guard.stop()


class SessionTransaction:
    """A transaction on a SQLAlchemy `Session`."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._transaction: Any = None
        self._connection: Connection | None = None
        self._root: Any = None
        self._second: ConfigurationError | None = None
        self._guard = EndGuard()
        try:
            self._bind = session.get_bind()
        except Exception as error:  # an application may have a `get_bind` of its own
            raise ConfigurationError(
                "the session has no engine of its own; a fence needs a session that is bound to the one database "
                "that has the data and the tables of the fence"
            ) from error
        if session.twophase:
            raise ConfigurationError(
                "the session uses two-phase commit, and a prepared transaction holds the fence row without an end; "
                "fence a session without twophase"
            )

    @property
    def dialect(self) -> Dialect:
        """The statements for the database; MariaDB and MySQL differ from the first connection on."""
        return dialect_of(self._bind)

    def begin(self) -> None:
        """Begin, and watch for a second connection until the end."""
        session, bind = self._session, self._bind
        if session.in_transaction() or (isinstance(bind, Connection) and bind.in_transaction()):
            raise ConfigurationError(_OPEN.format(what="the session"))
        self._transaction, self._connection = session.begin(), None
        event.listen(session, "after_begin", self._refuse_second)

    def prepare(self) -> None:
        """Open the connection, refuse autocommit, and send the statements that come before the fence."""
        self._connection = self._session.connection(bind_arguments={"bind": self._bind})
        self._root = self._connection.get_transaction()
        # Objects from before are older than the fence, also those of the application's own listeners.
        self._session.expire_all()
        self._guard.start(self._connection)
        prepare(self._connection, self.dialect)

    def _refuse_second(self, _session: Session, _transaction: object, connection: Connection) -> None:
        """Refuse a connection besides the fenced one: a replica lags, and data elsewhere commits alone."""
        ours = self._session.get_transaction() is self._transaction
        if self._connection in (None, connection) or not ours:
            return
        self._second = ConfigurationError(
            "the session takes a second connection inside the block, and the fence covers only the first: use a "
            "session that is bound to one engine, and read from no replica inside the block"
        )
        raise self._second

    def execute(self, statement: str, parameters: Mapping[str, Any]) -> Sequence[Sequence[Any]]:
        """Run a statement on the session's connection, without autoflush."""
        assert self._connection is not None, "begin() comes first"
        return run(self._connection, statement, parameters)

    def is_open(self) -> bool:
        """Whether the transaction that `begin` has begun is still open, in the session and on its connection."""
        return self._session.get_transaction() is self._transaction and self._root.is_active

    def commit(self, confirm: Callable[[], None]) -> None:
        """Flush, and commit right after `confirm`, unless the body has caught the refusal of a second connection."""
        assert self._connection is not None, "begin() comes first"
        if self._second is not None:
            raise self._second
        with confirmed(self._connection, confirm):
            self._session.commit()
        self._end()

    def rollback(self) -> None:
        """Roll back; a broken connection has rolled back by itself."""
        with contextlib.suppress(Exception):
            self._session.rollback()
        if self._connection is not None:
            roll_back_driver(self._connection)
        self._end()

    def _end(self) -> None:
        self._guard.stop()
        event.remove(self._session, "after_begin", self._refuse_second)


class EndGuard:
    """Refuses statements after the end of the transaction, where the driver would commit each by itself."""

    def __init__(self) -> None:
        self._connection: Connection | None = None
        self._begun = False

    def start(self, connection: Connection) -> None:
        """Begin to look at each statement; the drivers that begin the next transaction by themselves need no guard."""
        if connection.dialect.driver == "asyncpg" or dialect_of(connection) is sql.SQLITE:
            self._connection, self._begun = connection, False
            event.listen(connection, "before_cursor_execute", self._look)

    def stop(self) -> None:
        """End that, also if it has not begun."""
        connection, self._connection = self._connection, None
        if connection is not None:
            event.remove(connection, "before_cursor_execute", self._look)

    def _look(self, connection: Connection, *_: object) -> None:
        driver = driver_of(connection)
        if driver.is_in_transaction() if hasattr(driver, "is_in_transaction") else driver.in_transaction:
            self._begun = True  # from the second statement on: BEGIN or the first statement begins
        elif self._begun:
            raise ConfigurationError(
                "the fenced transaction ended inside the block, and this statement would be committed without the "
                "fence: leave commit and rollback to the `with` block"
            )


def driver_of(connection: Connection) -> Any:  # noqa: ANN401 - of whichever driver
    """The connection of the driver, below SQLAlchemy's form of it for asyncio; also for a detached connection."""
    driver: Any = connection.connection.dbapi_connection
    return connection.dialect.get_driver_connection(driver)


def prepare(connection: Connection, dialect: Dialect) -> None:
    """Refuse autocommit and a shared connection, and send what must come before the fence."""
    refuse_shared(connection)
    begun = getattr(driver_of(connection), "in_transaction", False)
    if _sqlite_autocommits(connection, begun=begun) if dialect is sql.SQLITE else _autocommits(connection):
        raise ConfigurationError(
            "the connection is in autocommit mode, where a fence locks nothing; turn autocommit off"
        )
    if dialect is sql.SQLITE and not begun:
        # The driver would begin with the first write only, and not at all for reads. Where the application's recipe
        # has begun, the fence as the first statement is enough.
        connection.exec_driver_sql("BEGIN IMMEDIATE")
    if dialect.before_begin:
        connection.exec_driver_sql(dialect.before_begin)


def refuse_shared(connection: Connection) -> None:
    """Refuse a driver's connection with another open block, as with `StaticPool`: both would be one transaction."""
    found = connection.info.get(_FENCED)
    other = None if found is None else found()
    if other not in (None, connection) and other.in_transaction():
        raise ConfigurationError(
            "another fenced block is open on the same connection of the driver, which the pool of the engine gives to "
            "several users at once: use a pool that gives each user a connection, such as QueuePool with a file"
        )
    connection.info[_FENCED] = weakref.ref(connection)  # weak: a signal can end a block before its body


def _autocommits(connection: Connection) -> bool:
    driver: Any = connection.connection.dbapi_connection
    detect = getattr(connection.dialect, "detect_autocommit_setting", None)
    if detect is not None and driver is not None:
        with contextlib.suppress(NotImplementedError):  # every dialect has the method; some only raise this
            return bool(detect(driver))
    # SQLAlchemy before 2.0.43: the level that PostgreSQL and MariaDB report says nothing of autocommit.
    for one in (driver, driver_of(connection)):
        if one.get_autocommit() if hasattr(one, "get_autocommit") else getattr(one, "autocommit", None) is True:
            return True
    return getattr(driver, "isolation_level", "") == "autocommit"


def _sqlite_autocommits(connection: Connection, *, begun: bool) -> bool:
    """Whether the driver's commit does nothing, or no transaction has begun; SQLAlchemy looks for the latter only."""
    driver: Any = connection.connection.dbapi_connection
    inner = getattr(driver_of(connection), "_conn", None)
    if inner is None:
        autocommit = _autocommit_of(driver)
    else:
        # aiosqlite has no property for this, and its connection answers in its own thread only.
        autocommit = driver.run_async(lambda one: one._execute(_autocommit_of, inner))  # noqa: SLF001 - see above
    return autocommit is True or (driver.isolation_level is None and not begun)


def _autocommit_of(driver: Any) -> object:  # noqa: ANN401 - of sqlite3, or of a module in its place
    return getattr(driver, "autocommit", None)  # from Python 3.12 on


@contextlib.contextmanager
def confirmed(connection: Connection, confirm: Callable[[], None]) -> Iterator[None]:
    """Call `confirm` right before each COMMIT inside, after the flush and the listeners of the session."""

    def last(_connection: Connection) -> None:
        confirm()

    event.listen(connection, "commit", last)
    try:
        yield
    finally:
        event.remove(connection, "commit", last)


def roll_back_driver(connection: Connection) -> None:
    """Roll back below SQLAlchemy, which takes a transaction whose COMMIT was refused or has failed for ended."""
    with contextlib.suppress(Exception):  # a broken connection has rolled back by itself
        if not connection.closed and not connection.invalidated:
            connection.connection.rollback()


def run(connection: Connection, statement: str, parameters: Mapping[str, Any]) -> Sequence[Sequence[Any]]:
    """Run a statement and fetch all of its rows: SQLite cannot commit while rows are unread."""
    result = connection.execute(_compiled(statement), dict(parameters))
    return [tuple(row) for row in result] if result.returns_rows else []


_compiled = functools.lru_cache(64)(text)
"""Statements as SQLAlchemy objects: to make one takes longer than to send it."""
