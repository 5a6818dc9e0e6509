"""The fence on SQLAlchemy 2: sessions and connections."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

from sqlalchemy import event
from sqlalchemy.engine import Connection
from sqlalchemy.exc import SQLAlchemyError

from redlock.errors import ConfigurationError
from redlock.fencing._fence import IN_TRANSACTION
from redlock.fencing._sqlalchemy_connection import EndGuard, dialect_of, drop_cursors, prepare, roll_back_driver, run

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from sqlalchemy.orm import Session

    from redlock.fencing._statements import Dialect

_NO_ENGINE = (SQLAlchemyError, AssertionError, AttributeError, LookupError, NotImplementedError, TypeError)
"""The errors of a `get_bind` without arguments, also of the application's own or of its choice of a shard.

Not all exceptions: a signal handler may raise an exception there that is meant for the caller.
"""


class _Transaction:
    """The parts that are equal for a connection and a session.

    Args:
        owner: The connection or session, which commits and rolls back.
    """

    def __init__(self, owner: Connection | Session) -> None:
        self._owner = owner
        self._bind: Any = owner
        self._connection: Any = None
        self._transaction: Any = None
        self._guard = EndGuard()

    @property
    def dialect(self) -> Dialect:
        """The statements for the database; MariaDB and MySQL differ from the first connection on."""
        return dialect_of(self._bind)

    def prepare(self) -> None:
        """Refuse autocommit, and send the statements that come before the fence."""
        self._guard.start(self._connection)
        prepare(self._connection, self.dialect)

    def execute(self, statement: str, parameters: Mapping[str, Any]) -> Sequence[Sequence[Any]]:
        """Run a statement on the connection, without autoflush."""
        return run(self._connection, statement, parameters)

    def commit(self, confirm: Callable[[], None]) -> BaseException | None:
        """Flush a session, and commit right after `confirm`. Return the exception of a listener after the commit."""
        root = self._connection.get_transaction()
        try:
            with self._guard.confirmed(self._connection, confirm):
                self._owner.commit()
        except BaseException as error:
            # SQLAlchemy keeps a transaction whose commit has failed.
            if not self._guard.is_confirmed or self._connection.get_transaction() is root:
                raise
            self.rollback(error)
            return error
        self._end()
        return None

    def rollback(self, error: BaseException) -> None:
        """Roll back, also a transaction that the body began; a broken connection has rolled back by itself."""
        try:
            if self._connection is not None:
                drop_cursors(self._connection, error)
            with contextlib.suppress(Exception):
                self._owner.rollback()
            if self._connection is not None:
                roll_back_driver(self._connection)
        finally:
            self._end()

    def _end(self) -> None:
        self._guard.stop()


class ConnectionTransaction(_Transaction):
    """A transaction on a SQLAlchemy `Connection`."""

    def begin(self) -> None:
        """Begin, after the checks that only the outermost transaction of a real connection passes."""
        if self._owner.in_transaction():
            raise ConfigurationError(IN_TRANSACTION.format(what="the connection"))
        self._connection, self._transaction = self._owner, self._owner.begin()

    def is_open(self) -> bool:
        """Whether the transaction that `begin` has begun is still open."""
        return bool(self._transaction.is_active)


class SessionTransaction(_Transaction):
    """A transaction on a SQLAlchemy `Session`."""

    def __init__(self, session: Session) -> None:
        super().__init__(session)
        self._session = session
        self._root: Any = None
        self._second: ConfigurationError | None = None
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
        super().prepare()

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

    def is_open(self) -> bool:
        """Whether the transaction that `begin` has begun is still open, in the session and on its connection."""
        return self._session.get_transaction() is self._transaction and self._root.is_active

    def commit(self, confirm: Callable[[], None]) -> BaseException | None:
        """Commit, unless the body has caught the refusal of a second connection."""
        if self._second is not None:
            raise self._second
        return super().commit(confirm)

    def _end(self) -> None:
        super()._end()
        event.remove(self._session, "after_begin", self._refuse_second)
