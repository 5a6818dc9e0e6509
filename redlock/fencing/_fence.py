"""A fenced transaction on any SQL database: begin, raise the token, run the body, commit.

Invariants:
1. The fence is the first statement of a transaction that this module began, on the connection that the body uses.
2. A stale token, and every error at the fence, rolls back at once. The body has not run.
3. Serialization failures and deadlocks at the fence are repeated. Later ones go to the caller.
4. The module never deletes a row of `redlock_fence`.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from redlock.errors import ConfigurationError, LockLost, Stale
from redlock.fencing import _statements as sql

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from redlock.fencing._statements import Dialect

_TRIES = 4


class FencedLease(Protocol):
    """The part of a lease that a fence needs; `redlock.Lease` has it."""

    @property
    def names(self) -> tuple[str, ...]:
        """The resource names."""

    @property
    def fence(self) -> int:
        """The fencing token."""

    @property
    def owner(self) -> str:
        """The owner token."""

    def remaining(self) -> float:
        """Seconds until the deadline."""


class Transaction(Protocol):
    """A connection of some driver, as the fence uses it."""

    @property
    def dialect(self) -> Dialect:
        """The statements of its database."""

    def begin(self) -> None:
        """Begin a transaction, or raise `ConfigurationError` if the connection is in one already."""

    def prepare(self) -> None:
        """Send the statements that come before the fence; an exception here rolls back, as one at the fence does."""

    def execute(self, statement: str, parameters: Mapping[str, Any]) -> Sequence[Sequence[Any]]:
        """Run a statement inside the transaction and return its rows; none if it returns no rows."""

    def commit(self) -> None:
        """Commit."""

    def rollback(self) -> None:
        """Roll back; never raises because of a broken connection."""


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


class _Given(NamedTuple):
    """The validated arguments of a fence."""

    names: tuple[str, ...]
    token: int
    owner: str
    operation: str | None
    timeout_ms: int


def checked(lease: FencedLease, operation: str | None, lock_timeout: float | None) -> _Given:
    """Validate the arguments of a fence; the checks need no database.

    Raises:
        LockLost: The lease has expired.
        ConfigurationError: The token, a name, the operation id or the timeout cannot be used.
    """
    names = tuple(sorted(lease.names))
    if lease.remaining() <= 0:
        raise LockLost(", ".join(names), "the lease expired before the fenced transaction began")
    if lease.fence < 1:
        raise ConfigurationError(f"fencing token {lease.fence} cannot be used; a token is 1 or more")
    for name in names:
        if len(name.encode()) > sql.LONGEST_RESOURCE:
            raise ConfigurationError(f"resource name {name[:40]!r}... has more than {sql.LONGEST_RESOURCE} bytes")
    if operation is not None and not (isinstance(operation, str) and 0 < len(operation) <= sql.LONGEST_OPERATION):
        raise ConfigurationError(
            f"operation id {operation!r:.60} cannot be used; it must be text of 1 to {sql.LONGEST_OPERATION} characters"
        )
    seconds = getattr(lease, "ttl_ms", 5_000) / 1000 if lock_timeout is None else lock_timeout
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 0 < seconds <= 86_400:  # noqa: PLR2004 - a day
        raise ConfigurationError(
            f"lock_timeout is {seconds!r}; it must be a number of seconds, more than 0 and at most 86400"
        )
    owner = hashlib.sha256(lease.owner.encode()).hexdigest()
    return _Given(names, lease.fence, owner, operation, max(1, int(seconds * 1000)))


def enter(transaction: Transaction, given: _Given) -> FencedSection:
    """Begin a transaction and pass the fence, or roll back and raise.

    Raises:
        Stale: A larger token was committed, or the same token belongs to another lease.
        ConfigurationError: The transaction cannot be fenced: see the message.
    """
    for attempt in range(1, _TRIES + 1):
        transaction.begin()
        try:
            transaction.prepare()
            return _passed(transaction, given)
        except BaseException as error:
            transaction.rollback()
            code = sql.code_of(error)
            if code in sql.RETRYABLE and attempt < _TRIES:
                continue
            explained = _explained(transaction.dialect, code)
            if explained is not None:
                raise explained from error
            raise
    raise AssertionError("the last attempt returns or raises")


def _passed(transaction: Transaction, given: _Given) -> FencedSection:
    dialect = transaction.dialect
    seconds = -(-given.timeout_ms // 1000)
    limit = dialect.lock_timeout.format(ms=given.timeout_ms, seconds=seconds)
    prefix = limit if limit.endswith(" ") else ""
    if limit and not prefix:
        transaction.execute(limit, {})
    for name in given.names:
        key = name.encode() if dialect.binary_names else name
        parameters = {"resource": key, "token": given.token, "owner": given.owner}
        rows = transaction.execute(prefix + dialect.fence, parameters)
        if dialect.verdict:
            (row,) = transaction.execute(dialect.verdict, {"resource": key})
            if (row[0], row[1]) != (given.token, given.owner):
                raise Stale(name, given.token, row[0])
        elif not rows:
            seen = transaction.execute(dialect.seen, {"resource": key})
            raise Stale(name, given.token, seen[0][0] if seen else given.token)
    fresh = given.operation is None or _is_new(transaction, given.operation)
    return FencedSection(given.names, given.token, fresh)


def _is_new(transaction: Transaction, operation: str) -> bool:
    try:
        rows = transaction.execute(transaction.dialect.operation, {"operation": operation})
    except Exception as error:  # each driver has its own class for a duplicate key; others are raised again
        # MariaDB has no ON CONFLICT DO NOTHING, and INSERT IGNORE would hide other errors.
        if sql.code_of(error) in sql.DUPLICATE_KEY:
            return False
        raise
    return bool(rows) or bool(transaction.dialect.verdict)


def _explained(dialect: Dialect, code: str) -> ConfigurationError | None:
    if code in sql.MISSING_TABLE:
        statements = "; ".join(dialect.create)
        return ConfigurationError(
            f"the tables of the fence are missing in this {dialect.name} database; create them with: {statements}"
        )
    if code in sql.READ_ONLY:
        return ConfigurationError(
            f"this {dialect.name} database is read-only; a fenced transaction needs the primary server"
        )
    if code in sql.TRANSACTION_OPEN:
        return ConfigurationError(
            "a transaction is open; the fence must be the first statement, so commit or roll back first"
        )
    return None
