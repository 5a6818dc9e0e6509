"""The checks, listeners and statements of a fence on one SQLAlchemy connection.

Invariants:
1. A connection in autocommit mode, or with another open block, is refused before the fence.
2. Listeners are on one connection, never on its engine: other threads use the engine at the same time.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import traceback
import weakref
from typing import TYPE_CHECKING, Any

from sqlalchemy import event, text
from sqlalchemy.exc import InvalidRequestError

from redlock.errors import ConfigurationError
from redlock.fencing import _statements as sql
from redlock.fencing._fence import AFTER_THE_END, IN_AUTOCOMMIT

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from sqlalchemy.engine import Connection, Engine

    from redlock.fencing._statements import Dialect

_FENCED = "redlock_fenced"
_WITH_CURSORS = {"sqlalchemy", "aiosqlite"}


def dialect_of(bind: Engine | Connection) -> Dialect:
    """The statements for the database of this engine or connection."""
    name = bind.dialect.name
    if name == "mysql" and getattr(bind.dialect, "is_mariadb", False):
        name = "mariadb"
    return sql.dialect_for(name)


class EndGuard:
    """Refuses statements after the end of the transaction, where the driver would commit each by itself."""

    def __init__(self) -> None:
        self._connection: Connection | None = None
        self.is_confirmed = False

    def start(self, connection: Connection) -> None:
        """Begin to look at each statement; the drivers that begin the next transaction by themselves need no guard."""
        needed = connection.dialect.driver == "asyncpg" or dialect_of(connection) is sql.SQLITE
        if needed and listens(connection, "before_cursor_execute", self._look):
            self._connection, self._begun = connection, False

    def stop(self) -> None:
        """Take the listener away, if there is any."""
        connection, self._connection = self._connection, None
        if connection is not None:
            event.remove(connection, "before_cursor_execute", self._look)

    @contextlib.contextmanager
    def confirmed(self, connection: Connection, confirm: Callable[[], None]) -> Iterator[None]:
        """Call `confirm` and stop right before each COMMIT inside, after the flush and the listeners of the session.

        After COMMIT, a listener of `after_commit` may use the connection.
        """

        def last(_connection: Connection) -> None:
            confirm()
            self.is_confirmed = True
            self.stop()

        if not listens(connection, "commit", last):
            # `is_confirmed` stays false: the session flushes after this, and a failed flush rolls back.
            confirm()
            self.stop()
            yield
            return
        try:
            yield
        finally:
            event.remove(connection, "commit", last)

    def _look(self, connection: Connection, *_: object) -> None:
        driver = driver_of(connection)
        if driver.is_in_transaction() if hasattr(driver, "is_in_transaction") else driver.in_transaction:
            self._begun = True  # from the second statement on: BEGIN or the first statement begins
        elif self._begun:
            raise ConfigurationError(AFTER_THE_END)


def driver_of(connection: Connection) -> Any:  # noqa: ANN401 - of whichever driver
    """The connection of the driver, below SQLAlchemy's adapter for asyncio; also for a detached connection."""
    driver: Any = connection.connection.dbapi_connection
    return connection.dialect.get_driver_connection(driver)


def prepare(connection: Connection, dialect: Dialect) -> None:
    """Refuse autocommit and a shared connection, and send the statements that come before the fence."""
    refuse_shared(connection)
    begun = getattr(driver_of(connection), "in_transaction", False)
    if _sqlite_autocommits(connection, begun=begun) if dialect is sql.SQLITE else _autocommits(connection):
        raise ConfigurationError(IN_AUTOCOMMIT)
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
    if detect is not None:
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


def listens(connection: Connection, name: str, function: Callable[..., None]) -> bool:
    """Whether the connection takes the listener: not before SQLAlchemy 2.0.38 if the engine has execution options."""
    try:
        event.listen(connection, name, function)
    except InvalidRequestError:
        return False
    return True


def roll_back_driver(connection: Connection) -> None:
    """Roll back below SQLAlchemy, which takes a transaction for ended if its COMMIT was refused or has failed."""
    with contextlib.suppress(Exception):  # a broken connection has rolled back by itself
        if not connection.closed and not connection.invalidated:
            connection.connection.rollback()


def drop_cursors(connection: Connection, error: BaseException | None) -> None:
    """Drop the cursors of an invalidated connection: SQLite keeps its transaction while a cursor has unread rows.

    The frames of SQLAlchemy and of the driver hold the cursor, in a cycle with the exception that invalidated the
    connection, such as `CancelledError`. If the body has caught that, only the garbage collector finds the cycle.
    """
    if not connection.invalidated or dialect_of(connection) is not sql.SQLITE:
        return
    is_caught = True
    while error is not None:
        is_caught = is_caught and isinstance(error, Exception)
        for frame, _ in traceback.walk_tb(error.__traceback__):
            if str(frame.f_globals.get("__name__")).partition(".")[0] in _WITH_CURSORS:
                with contextlib.suppress(RuntimeError):  # the frame is running
                    frame.clear()
        error = error.__context__
    if is_caught:
        gc.collect()


def run(connection: Connection, statement: str, parameters: Mapping[str, Any]) -> Sequence[Sequence[Any]]:
    """Run a statement and fetch all of its rows: SQLite cannot commit while rows are unread."""
    result = connection.execute(_compiled(statement), dict(parameters))
    return [tuple(row) for row in result] if result.returns_rows else []


_compiled = functools.lru_cache(64)(text)
"""Statements as SQLAlchemy objects: making a statement takes longer than sending."""
