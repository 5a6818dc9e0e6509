"""A fenced transaction on any SQL database: begin, raise the token, run the body, commit.

Invariants:
1. The fence is the first statement of a transaction that this module began, on the connection that the body uses.
2. A stale token, and every error at the fence, rolls back at once. The body has not run.
3. Serialization failures and deadlocks at the fence are repeated. Later failures go to the caller.
4. This module commits only the transaction that passed the fence; otherwise the block ends with an error.
5. The module never deletes a row of `redlock_fence`.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from redlock import _log, _validation
from redlock.errors import ConfigurationError, Stale
from redlock.fencing import _statements as sql
from redlock.fencing._nested import Block

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from redlock.fencing._arguments import Given
    from redlock.fencing._statements import Dialect

_TRIES = 4
_MOST_ROWS = 1_000_000_000
WEEK_SECONDS = 7 * 24 * 3600.0
"""The age of operation ids that are deleted by default."""
IN_AUTOCOMMIT = "the connection is in autocommit mode, where a fence locks nothing; turn autocommit off"
IN_TRANSACTION = (
    "{what} is in a transaction already; the fence must be the first statement of a transaction of its own: "
    "commit or roll back first, and read inside the block"
)
AFTER_THE_END = (
    "the fenced transaction ended inside the block, and this statement would be committed without the fence: "
    "leave commit and rollback to the `with` block"
)


class Transaction(Protocol):
    """The part of a driver's connection that the fence uses."""

    @property
    def dialect(self) -> Dialect:
        """The statements of its database."""

    def begin(self) -> None:
        """Begin a transaction, or raise `ConfigurationError` if the connection has begun a transaction already."""

    def prepare(self) -> None:
        """Send the statements that come before the fence; an exception rolls back, as at the fence."""

    def execute(self, statement: str, parameters: Mapping[str, Any]) -> Sequence[Sequence[Any]]:
        """Run a statement inside the transaction and return its rows, or an empty sequence."""

    def is_open(self) -> bool:
        """Whether the transaction that `begin` has begun is still open, as far as the driver knows."""

    def commit(self, confirm: Callable[[], None]) -> BaseException | None:
        """Commit right after `confirm`; listeners of a session run before, and may end the transaction.

        Returns the exception of a listener that ran after the commit.
        """

    def rollback(self, error: BaseException) -> None:
        """Roll back after this error; never raises because of a broken connection."""


class FencedSection(NamedTuple):
    """A fenced transaction that has passed its fence.

    Attributes:
        names: The resource names of the lease.
        token: The fencing token.
        fresh: False if the operation id was recorded by an earlier transaction: the body should change nothing.
    """

    names: tuple[str, ...]
    token: int
    fresh: bool = True


class Passed:
    """A transaction that has passed its fence and waits for its end.

    Args:
        transaction: The transaction.
        given: Its arguments.
        fresh: Whether its operation id is new.
        mark: The id of the transaction, where the database has such ids.
    """

    def __init__(self, transaction: Transaction, given: Given, *, fresh: bool, mark: object) -> None:
        self._transaction = transaction
        self.section = FencedSection(given.names, given.token, fresh)
        """The value of the `with` block."""
        self._mark = mark
        self._block = Block(given)

    def leave(self, exc: BaseException | None) -> None:
        """Commit, or roll back after an exception.

        Raises:
            ConfigurationError: The transaction that passed the fence has ended inside the block.
            BaseException: A listener has failed after the commit: the block counts as committed.
        """
        failure: BaseException | None = None
        with self._block.ending(exc):
            if exc is not None:
                self._transaction.rollback(exc)
                return
            try:
                if not self._transaction.is_open():
                    raise ConfigurationError(_ENDED)
                failure = self._transaction.commit(self._confirm)
            except BaseException as error:
                self._transaction.rollback(error)
                raise
        if failure is not None:
            try:
                raise failure
            finally:
                # The name would keep the exception and its frames alive until a garbage collection.
                failure = None

    def _confirm(self) -> None:
        try:
            rows = self._transaction.execute(self._transaction.dialect.confirm, {})
        except Exception as error:  # each driver has its own class for these errors; others are raised again
            code = sql.code_of(error)
            if code in sql.TRANSACTION_ENDED:
                raise ConfigurationError(_ENDED) from error
            if code in sql.TRANSACTION_ABORTED:
                raise ConfigurationError(_ABORTED) from error
            raise
        if rows and rows[0][0] != self._mark:
            raise ConfigurationError(_ENDED)


_ENDED = (
    "the fenced transaction ended inside the block, so later writes had no fence, and are rolled back unless the block "
    "committed them: leave commit and rollback to the `with` block, catch no deadlock inside it, and create no table "
    "inside it on MariaDB and MySQL"
)
_ABORTED = (
    "a statement failed inside the block and its error was caught, so PostgreSQL rolls the whole block back: let the "
    "error leave the block, or run the statement in a savepoint"
)


def enter(transaction: Transaction, given: Given) -> Passed:
    """Begin a transaction and pass the fence, or roll back and raise.

    Raises:
        Stale: A larger token was committed, or the same token belongs to another lease.
        ConfigurationError: The transaction cannot be fenced: see the message.
    """
    attempt = 0
    while True:
        attempt += 1
        transaction.begin()
        try:
            transaction.prepare()
            return _passed(transaction, given)
        except BaseException as error:
            transaction.rollback(error)
            if isinstance(error, Stale):
                _log.warning("STALE", resource=error.resource, token=error.token, seen=error.seen)
                raise
            code = sql.code_of(error)
            if code in sql.RETRYABLE and attempt < _TRIES:
                continue
            _explain(transaction, code, error)
            raise


def purge(transaction: Transaction, older_than: float, limit: int) -> None:
    """Delete up to `limit` operation ids that are older than `older_than` seconds, in a transaction of its own.

    Raises:
        ConfigurationError: The session is in a transaction, an argument is out of range, or the tables are missing.
    """
    seconds = _validation.number("older_than", older_than)
    limit = _validation.count("limit", limit, least=1, most=_MOST_ROWS)
    transaction.begin()
    try:
        transaction.prepare()
        transaction.execute(transaction.dialect.purge, {"seconds": math.ceil(seconds), "limit": limit})
        transaction.commit(lambda: None)
    except BaseException as error:
        transaction.rollback(error)
        _explain(transaction, sql.code_of(error), error)
        raise


def _passed(transaction: Transaction, given: Given) -> Passed:
    dialect = transaction.dialect
    seconds = -(-given.timeout_ms // 1000)
    limit = dialect.lock_timeout.format(ms=given.timeout_ms, seconds=seconds)
    prefix = limit if limit.endswith(" ") else ""
    if limit and not prefix:
        transaction.execute(limit, {})
    mark: object = None
    for name in given.names:
        key = name.encode().hex() if dialect.hex_names else name
        parameters = {"resource": key, "token": given.token, "owner": given.owner}
        rows = transaction.execute(prefix + dialect.fence, parameters)
        if dialect.verdict:
            (row,) = transaction.execute(dialect.verdict, {"resource": key})
            if (row[0], row[1]) != (given.token, given.owner):
                raise Stale(name, given.token, row[0])
        elif not rows:
            seen = transaction.execute(dialect.seen, {"resource": key})
            raise Stale(name, given.token, seen[0][0] if seen else given.token)
        else:
            mark = rows[0][-1]
    fresh = given.operation is None or _is_new(transaction, given.operation)
    if dialect.mark:
        transaction.execute(dialect.mark, {})
    return Passed(transaction, given, fresh=fresh, mark=mark)


def _is_new(transaction: Transaction, operation: str) -> bool:
    key = operation.encode().hex() if transaction.dialect.hex_names else operation
    try:
        rows = transaction.execute(transaction.dialect.operation, {"operation": key})
    except Exception as error:  # each driver has its own class for a duplicate key; others are raised again
        # MariaDB has no ON CONFLICT DO NOTHING, and INSERT IGNORE would hide other errors.
        if sql.code_of(error) in sql.DUPLICATE_KEY:
            return False
        raise
    return bool(rows) or bool(transaction.dialect.verdict)


def _explain(transaction: Transaction, code: str, error: BaseException) -> None:
    """Raise the remedy for an error with this code, if there is one."""
    dialect = transaction.dialect
    if code in sql.MISSING_TABLE:
        statements = "; ".join(dialect.create)
        raise ConfigurationError(
            f"the tables of the fence are missing in this {dialect.name} database, where names without a schema are "
            f"found; create them with: {statements}"
        ) from error
    if code in sql.READ_ONLY:
        raise ConfigurationError(
            f"this {dialect.name} database is read-only; a fenced transaction needs the primary server"
        ) from error
    if code in sql.TRANSACTION_OPEN:
        raise ConfigurationError(
            "a transaction is open; the fence must be the first statement, so commit or roll back first"
        ) from error
