"""The fence on SQLAlchemy 2: sessions and connections."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

from sqlalchemy import event
from sqlalchemy.engine import Connection
from sqlalchemy.exc import SQLAlchemyError

from redlock.errors import ConfigurationError
from redlock.fencing._fence import IN_TRANSACTION
from redlock.fencing._sqlalchemy_connection import EndGuard, dialect_of, prepare, roll_back_driver, run

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from sqlalchemy.orm import Session

    from redlock.fencing._statements import Dialect

_NO_ENGINE = (SQLAlchemyError, AssertionError, AttributeError, LookupError, NotImplementedError, TypeError)
"""The errors of a `get_bind` without arguments, also of the application's own or of its choice of a shard.

Not all exceptions: a signal handler may raise an exception there that is meant for the caller.
"""


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
            raise ConfigurationError(IN_TRANSACTION.format(what="the connection"))
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
        with self._guard.confirmed(self._connection, confirm):
            self._transaction.commit()

    def rollback(self) -> None:
        """Roll back, also a transaction that the body began; a broken connection has rolled back by itself."""
        try:
            with contextlib.suppress(Exception):
                self._connection.rollback()
            roll_back_driver(self._connection)
        finally:
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
        except _NO_ENGINE as error:
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
            raise ConfigurationError(IN_TRANSACTION.format(what="the session"))
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
        with self._guard.confirmed(self._connection, confirm):
            self._session.commit()
        self._end()

    def rollback(self) -> None:
        """Roll back; a broken connection has rolled back by itself."""
        try:
            with contextlib.suppress(Exception):
                self._session.rollback()
            if self._connection is not None:
                roll_back_driver(self._connection)
        finally:
            self._end()

    def _end(self) -> None:
        self._guard.stop()
        event.remove(self._session, "after_begin", self._refuse_second)
