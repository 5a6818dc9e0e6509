"""The fence on a plain connection of psycopg 3."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

from psycopg.pq import TransactionStatus

from redlock.errors import ConfigurationError
from redlock.fencing import _statements as sql

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

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
        """Check that the next statement begins a transaction; psycopg sends BEGIN before it."""
        if self._connection.autocommit:
            raise ConfigurationError(
                "the connection is in autocommit mode, where a fence locks nothing; turn autocommit off"
            )
        if self._connection.info.transaction_status is not TransactionStatus.IDLE:
            raise ConfigurationError(
                "the connection is in a transaction already; the fence must be the first statement of a transaction "
                "of its own: commit or roll back first, and read inside the block"
            )

    def prepare(self) -> None:
        """Nothing comes before the fence."""

    def execute(self, statement: str, parameters: Mapping[str, Any]) -> Sequence[Sequence[Any]]:
        """Run a statement with a cursor that returns tuples, whatever row factory the connection has."""
        from psycopg.rows import tuple_row  # noqa: PLC0415 - beside its only use

        with self._connection.cursor(row_factory=tuple_row) as cursor:
            cursor.execute(sql.pyformat(statement).encode(), parameters or None)
            return cursor.fetchall() if cursor.description else []

    def commit(self) -> None:
        """Commit the fenced transaction and no other."""
        status = self._connection.info.transaction_status
        if status is TransactionStatus.IDLE:
            raise ConfigurationError(
                "the body ended the fenced transaction; leave commit and rollback to the `with` block"
            )
        self._connection.commit()

    def rollback(self) -> None:
        """Roll back; a broken connection has rolled back by itself."""
        with contextlib.suppress(Exception):
            self._connection.rollback()
