"""A fence in a SQL database: the transaction checks the fencing token before it reads, so no update is lost.

    from redlock.fencing.sql import fenced

    with redlock.lock("account:42") as lease, fenced(session, lease):
        account = session.get(Account, 42)
        account.balance += amount

The fence is one row per resource in the table `redlock_fence`. Fenced transactions on one resource run one after
another, and a smaller token never runs after a larger one was committed. Importing this module imports no database
package.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from redlock.errors import ConfigurationError
from redlock.fencing import _arguments, _fence
from redlock.fencing._arguments import FencedLease
from redlock.fencing._fence import FencedSection
from redlock.fencing._statements import dialect_for

if TYPE_CHECKING:
    from sqlalchemy import MetaData, Table

__all__ = ["FencedLease", "FencedSection", "add_tables", "create_statements", "fenced", "purge_operations"]

_SUPPORTED = "a Session or Connection of SQLAlchemy 2, or a Connection of psycopg 3"
_ASYNC = "an AsyncSession or AsyncConnection of SQLAlchemy 2"


class fenced:  # noqa: N801 - used as a function, as `contextlib.suppress` is
    """A transaction under a fencing token: begin, fence, body, commit; an exception rolls back.

    The row of the fence decides, not the deadline of the lease: the lease is only checked when the block is entered.
    Load objects inside the block; objects from before the block are older than the fence.

    Args:
        session: The database: a `Session` or `Connection` of SQLAlchemy, their asyncio forms (with `async with`), or a
            `Connection` of psycopg 3, outside of any transaction.
        lease: The lease that gives token and resource names: from a `with` block, or `current_lease()`.
        operation: An id of 1 to 255 characters that is recorded in the same transaction. `section.fresh` is False if an
            earlier transaction recorded it: a task that is delivered again then changes nothing. The id belongs to the
            database, so two blocks of a task need two ids.
        lock_timeout: Seconds to wait for another fenced transaction on the same resource; the TTL of the lease by
            default. MySQL and SQLite use their own settings instead.

    Raises:
        Stale: A larger token was committed before; nothing was written.
        LockLost: The lease had expired when the block was entered.
        ConfigurationError: The session is in a transaction, in autocommit mode or read-only, or the tables are missing.
            Or the block is inside another fenced block, and one of the two has no operation id. Or the body uses a
            second connection of the session, such as that of a replica.

    Example:
        >>> from sqlalchemy import create_engine, text
        >>> engine = create_engine("sqlite://")
        >>> with engine.begin() as connection:
        ...     for statement in create_statements("sqlite"):
        ...         _ = connection.execute(text(statement))
        >>> class Lease:
        ...     names, fence, owner = ("account:42",), 7, "secret"
        ...     def remaining(self): return 5.0
        >>> with engine.connect() as connection, fenced(connection, Lease(), operation="payment-1") as section:
        ...     print(section.token, section.fresh)
        7 True
    """

    def __init__(
        self,
        session: Any,  # noqa: ANN401 - of whichever driver
        lease: FencedLease,
        *,
        operation: str | None = None,
        lock_timeout: float | None = None,
    ) -> None:
        self._given_session = session
        self._session = session
        self._lease = lease
        self._operation = operation
        self._lock_timeout = lock_timeout
        self._passed: _fence.Passed | None = None

    def __enter__(self) -> FencedSection:
        self._session = _unwrapped(self._given_session)
        if _is_async(self._session):
            raise ConfigurationError(
                f"{type(self._session).__name__} works with asyncio; write `async with fenced(...)`"
            )
        given = _arguments.checked(self._lease, self._operation, self._lock_timeout)
        self._passed = _fence.enter(_transaction(self._session), given)
        return self._passed.section

    def __exit__(self, _type: object, exc: BaseException | None, _traceback: object) -> None:
        self._entered().leave(exc)

    async def __aenter__(self) -> FencedSection:
        self._session = _unwrapped(self._given_session)
        if not _is_async(self._session):
            raise ConfigurationError(
                f"{type(self._session).__name__} cannot be fenced with `async with`; that needs {_ASYNC}; "
                f"`with` needs {_SUPPORTED}"
            )
        given = _arguments.checked(self._lease, self._operation, self._lock_timeout)
        passed: _fence.Passed = await self._session.run_sync(lambda one: _fence.enter(_transaction(one), given))
        self._passed = passed
        return passed.section

    async def __aexit__(self, _type: object, exc: BaseException | None, _traceback: object) -> None:
        passed = self._entered()
        await self._session.run_sync(lambda _: passed.leave(exc))

    def _entered(self) -> _fence.Passed:
        passed, self._passed = self._passed, None
        assert passed is not None, "the block was entered"
        return passed


def _is_async(session: object) -> bool:
    return hasattr(session, "run_sync")


def _comes_from(session: object, package: str) -> bool:
    return any(kind.__module__.partition(".")[0] == package for kind in type(session).__mro__)


def _unwrapped(session: Any) -> Any:  # noqa: ANN401 - of whichever driver
    """The session of this thread or task, where a scoped session stands for it."""
    # By name: an import of SQLAlchemy's asyncio module fails without greenlet.
    kinds = {kind.__name__ for kind in type(session).__mro__}
    if _comes_from(session, "sqlalchemy") and kinds & {"scoped_session", "async_scoped_session"}:
        return session()
    return session


def _transaction(session: Any) -> _fence.Transaction:  # noqa: ANN401 - of whichever driver
    if _comes_from(session, "sqlalchemy"):
        from sqlalchemy.engine import Connection as SqlConnection  # noqa: PLC0415 - only for users of SQLAlchemy
        from sqlalchemy.orm import Session  # noqa: PLC0415 - as above

        from redlock.fencing import _sqlalchemy  # noqa: PLC0415 - as above

        if isinstance(session, Session):
            return _sqlalchemy.SessionTransaction(session)
        if isinstance(session, SqlConnection):
            return _sqlalchemy.ConnectionTransaction(session)
    if _comes_from(session, "psycopg"):
        from psycopg import Connection  # noqa: PLC0415 - only for users of psycopg

        from redlock.fencing._psycopg import PsycopgTransaction  # noqa: PLC0415 - as above

        if isinstance(session, Connection):
            return PsycopgTransaction(session)
    raise ConfigurationError(f"{type(session).__name__} cannot be fenced; give {_SUPPORTED}")


def create_statements(database: str) -> tuple[str, ...]:
    """The SQL that creates the tables of the fence.

    Args:
        database: "postgresql", "mariadb", "mysql" or "sqlite".

    Raises:
        ConfigurationError: There is no fence for this database.
    """
    return dialect_for(database).create


def add_tables(metadata: MetaData) -> tuple[Table, Table]:
    """Add the tables of the fence to SQLAlchemy metadata, for `create_all` and for Alembic's autogenerate.

    The tables have no schema, also where the metadata has a schema: the statements of the fence name no schema.

    Returns:
        The tables `redlock_fence` and `redlock_operation`.
    """
    from redlock.fencing import _sqlalchemy_tables  # noqa: PLC0415 - only for users of SQLAlchemy

    return _sqlalchemy_tables.tables(metadata)


def purge_operations(session: Any, *, older_than: float = _fence.WEEK_SECONDS, limit: int = 1_000) -> None:  # noqa: ANN401 - of whichever driver
    """Delete up to `limit` operation ids that are older than `older_than` seconds, in a transaction of its own.

    Choose a time that is longer than any redelivery takes, and a limit above the number of new ids between two calls.
    The rows of `redlock_fence` must never be deleted: an old token would pass again. With asyncio write
    `await session.run_sync(purge_operations)`.

    Raises:
        ConfigurationError: The session is in a transaction already, an argument is out of range, or the tables are
            missing.
    """
    session = _unwrapped(session)
    if _is_async(session):
        raise ConfigurationError(
            f"{type(session).__name__} works with asyncio; write `await session.run_sync(purge_operations)`"
        )
    _fence.purge(_transaction(session), older_than, limit)
