"""The fence on a plain connection of psycopg 3."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

from psycopg import Cursor
from psycopg.pq import PipelineStatus, TransactionStatus
from psycopg.rows import tuple_row

from redlock.errors import ConfigurationError
from redlock.fencing import _statements as sql
from redlock.fencing._fence import IN_AUTOCOMMIT, IN_TRANSACTION

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from psycopg import Connection

    from redlock.fencing._statements import Dialect


class PsycopgTransaction:
    """A transaction on a connection of psycopg 3."""

    def __init__(self, connection: Connection[Any]) -> None:
        self._connection = connection

    @property
    def dialect(self) -> Dialect:
        """The statements for PostgreSQL."""
        return sql.POSTGRESQL

    def begin(self) -> None:
        """Check that the next statement begins a transaction; psycopg sends BEGIN first."""
        if self._connection.closed:
            raise ConfigurationError("the connection is closed; open a new one")
        if self._connection.info.pipeline_status is not PipelineStatus.OFF:
            raise ConfigurationError(
                "the connection is in pipeline mode, where statements before the fence may be under way; "
                "open the pipeline inside the block"
            )
        if self._connection.autocommit:
            raise ConfigurationError(IN_AUTOCOMMIT)
        if self._connection.info.transaction_status is not TransactionStatus.IDLE:
            raise ConfigurationError(IN_TRANSACTION.format(what="the connection"))

    def prepare(self) -> None:
        """Nothing comes before the fence."""

    def is_open(self) -> bool:
        """Whether the connection is in a transaction."""
        return self._connection.info.transaction_status is not TransactionStatus.IDLE

    def execute(self, statement: str, parameters: Mapping[str, Any]) -> Sequence[Sequence[Any]]:
        """Run a statement with a plain cursor; the cursor and row factory of the connection do not matter."""
        with Cursor(self._connection, row_factory=tuple_row) as cursor:
            cursor.execute(sql.pyformat(statement).encode(), parameters or None)
            return cursor.fetchall() if cursor.description else []

    def commit(self, confirm: Callable[[], None]) -> None:
        """Commit right after `confirm`."""
        confirm()
        self._connection.commit()

    def rollback(self, _error: BaseException) -> None:
        """Roll back; a broken connection has rolled back by itself."""
        with contextlib.suppress(Exception):
            self._connection.rollback()
