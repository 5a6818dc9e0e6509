"""`fenced` for Django: begin, fence, body, commit, on one database of the project.

Invariants:
1. The fence is the first statement of the outermost transaction of the connection. In a `TestCase` the block is a
   savepoint.
2. Django cannot expire objects from before the block. Load objects inside the block.
3. With SQLite Django commits each statement outside a transaction. So after the end of the transaction the block
   refuses each statement.
4. A function of `on_commit` that raises has not undone the commit: the block counts as committed.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import weakref
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from django.db import connections, transaction

from redlock._masking import quoted
from redlock.errors import ConfigurationError
from redlock.fencing import _arguments, _fence
from redlock.fencing import _statements as sql
from redlock.fencing.django import blocks, routers

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from redlock.fencing._arguments import FencedLease
    from redlock.fencing._fence import FencedSection
    from redlock.fencing._statements import Dialect

P = ParamSpec("P")
R = TypeVar("R")


class fenced:  # noqa: N801 - used as a function, as `transaction.atomic` is
    """A durable `atomic` block under a fencing token; a decorated function has a block for each call.

    Args:
        lease: The lease, or a function without arguments that returns the lease: `redlock.celery.current_lease`.
        using: The alias of the database that has the data; the tables of the fence must be in the same database.
        operation: An id of 1 to 255 characters that is recorded in the same transaction. `section.fresh` is False if an
            earlier transaction recorded it. The id belongs to the database, so two blocks of a task need two ids.
        lock_timeout: Seconds to wait for another fenced transaction on the same resource; the TTL of the lease by
            default. MySQL and SQLite use their own settings instead.

    Raises:
        Stale: A larger token was committed before; nothing was written.
        LockLost: The lease had expired when the block was entered.
        ConfigurationError: The block is inside another `atomic` block (or `ATOMIC_REQUESTS`), autocommit is off, the
            database is read-only, a router with `db_for_read` is not behind `FencedRouter`, or the tables are missing.
            Or it is inside a fenced block of another database, and one of the two has no operation id.
    """

    def __init__(
        self,
        lease: FencedLease | Callable[[], FencedLease],
        *,
        using: str = "default",
        operation: str | None = None,
        lock_timeout: float | None = None,
    ) -> None:
        self._lease = lease
        self._using = using
        self._operation = operation
        self._lock_timeout = lock_timeout
        # By connection, so that threads may share the object, as they may share `atomic`.
        self._entered: weakref.WeakKeyDictionary[Any, _fence.Passed] = weakref.WeakKeyDictionary()

    def __enter__(self) -> FencedSection:
        begun = DjangoTransaction(self._using)
        blocks.refuse_fenced(self._using)
        routers.refuse_replicas()
        lease = self._lease() if callable(self._lease) else self._lease
        given = _arguments.checked(lease, self._operation, self._lock_timeout)
        passed = _fence.enter(begun, given)
        self._entered[connections[self._using]] = passed
        return passed.section

    def __exit__(self, _type: object, exc: BaseException | None, _traceback: object) -> None:
        entered = self._entered.pop(connections[self._using], None)
        if entered is None:
            raise ConfigurationError(
                "the fenced block was entered in another thread, and a connection of Django belongs to its thread; the "
                "block is not committed: enter and leave it in one thread"
            )
        entered.leave(exc)

    def __call__(self, function: Callable[P, R]) -> Callable[P, R]:
        """Decorate a function: each call is a fenced transaction of its own.

        Raises:
            ConfigurationError: The function is `async def` or a generator, or a call returns a coroutine or a
                generator: its body would run after the block. Or there is an operation id: every call would have the
                same, and the function could not see `section.fresh`.
        """
        if self._operation is not None:
            raise ConfigurationError(
                f"@fenced on {_name(function)} has an operation id, which would be the same in every call; write "
                "`with fenced(..., operation=...) as section:` inside the function, and look at section.fresh"
            )
        kinds = (inspect.iscoroutinefunction, inspect.isgeneratorfunction, inspect.isasyncgenfunction)
        if any(is_kind(function) for is_kind in kinds):
            raise ConfigurationError(
                f"@fenced is on {_name(function)}, which is `async def` or a generator; {_WITHOUT_FENCE}"
            )

        @functools.wraps(function)
        def call(*args: P.args, **kwargs: P.kwargs) -> R:
            with fenced(self._lease, using=self._using, lock_timeout=self._lock_timeout):
                result = function(*args, **kwargs)
                _refuse_later(function, result)
                return result

        return call


_NEEDS_ROLLBACK = (
    "the fenced block is marked for rollback by set_rollback(True) or by a database error that the body caught, so "
    "nothing is written: let an exception leave the block"
)
_WITHOUT_FENCE = "its body would run without the fence: use a plain function"


def _name(function: object) -> str:
    return getattr(function, "__qualname__", None) or f"{function!r:.60}"


def _refuse_later(function: object, result: object) -> None:
    """Refuse a coroutine or generator as the result of a decorated function, and roll the block back."""
    if inspect.isawaitable(result) or inspect.isgenerator(result) or inspect.isasyncgen(result):
        if inspect.iscoroutine(result):
            result.close()  # Python warns of a coroutine that was never awaited
        raise ConfigurationError(
            f"@fenced is on {_name(function)}, which returns {type(result).__name__}; {_WITHOUT_FENCE}"
        )


class DjangoTransaction:
    """A transaction on one of Django's connections, as the fence uses it."""

    def __init__(self, using: str) -> None:
        if using not in connections:
            known = ", ".join(connections)
            raise ConfigurationError(f"using is {quoted(using)}; it must be an alias in DATABASES: {known}")
        self._using = using
        self._connection: Any = connections[using]
        self._atomic: Any = None
        self._in_test_case = False
        """Whether the outermost block is that of Django's `TestCase`, which never commits."""
        self._is_committed = False

    @property
    def dialect(self) -> Dialect:
        """The statements for the database."""
        vendor = self._connection.vendor
        if vendor == "mysql" and self._connection.mysql_is_mariadb:
            vendor = "mariadb"
        return sql.dialect_for(vendor)

    def begin(self) -> None:
        """Begin the outermost transaction of the connection."""
        connection, around = self._connection, self._connection.atomic_blocks
        self._in_test_case = bool(around) and all(getattr(block, "_from_testcase", False) for block in around)
        if connection.in_atomic_block and not self._in_test_case:
            raise ConfigurationError(
                "fenced() is inside an atomic block, and the fence must be the first statement of a transaction: "
                "move it outside, and decorate views with transaction.non_atomic_requests under ATOMIC_REQUESTS"
            )
        if not connection.in_atomic_block and not connection.get_autocommit():
            raise ConfigurationError(
                f"autocommit is off for the database {self._using!r}: Django would not commit the block; turn it on"
            )
        self._atomic = blocks.FencedAtomic(self._using, savepoint=True, durable=True)
        self._atomic.__enter__()

    def prepare(self) -> None:
        """Send the statements that come before the fence; a test case has begun long before."""
        if not self._in_test_case:
            transaction.on_commit(self._note_commit, using=self._using)  # before each function of the body
        if self._connection.vendor == "sqlite":
            self._connection.execute_wrappers.append(self._refuse_after_end)
        if self.dialect.before_begin and not self._in_test_case:
            self.execute(self.dialect.before_begin, {})

    def execute(self, statement: str, parameters: Mapping[str, Any]) -> Sequence[Sequence[Any]]:
        """Run a statement on the connection."""
        with self._connection.cursor() as cursor:
            cursor.execute(sql.pyformat(statement), dict(parameters) or None)
            return cursor.fetchall() if cursor.description else []

    def is_open(self) -> bool:
        """Whether the block is open: Django refuses commit and rollback inside it."""
        return self._atomic is not None

    def commit(self, confirm: Callable[[], None]) -> BaseException | None:
        """Commit right after `confirm`; a failed commit has rolled back. Return a failure after the commit."""
        try:
            confirm()
        except transaction.TransactionManagementError as error:
            raise ConfigurationError(_NEEDS_ROLLBACK) from error
        self._end_refusal()
        atomic, self._atomic = self._atomic, None
        try:
            atomic.__exit__(None, None, None)
        except BaseException as error:
            if not self._is_committed:
                raise
            return error
        return None

    def _end_refusal(self) -> None:
        with contextlib.suppress(ValueError):  # another database, or the block was left before
            self._connection.execute_wrappers.remove(self._refuse_after_end)

    def _note_commit(self) -> None:
        self._is_committed = True

    def _refuse_after_end(self, execute: Callable[..., object], *call: object) -> object:
        """Refuse a statement after the end of the transaction: SQLite would commit each by itself."""
        connection = self._connection
        # A block that a signal ended between fence and body stays behind; a new connection has no blocks.
        if self._atomic in connection.atomic_blocks and not getattr(connection.connection, "in_transaction", False):
            raise ConfigurationError(_fence.AFTER_THE_END)
        return execute(*call)

    def rollback(self, _error: BaseException) -> None:
        """Roll back, where the block is still open."""
        self._end_refusal()
        atomic, self._atomic = self._atomic, None
        if atomic is not None:
            atomic.__exit__(Exception, Exception(), None)


def purge_operations(*, using: str = "default", older_than: float = _fence.WEEK_SECONDS, limit: int = 1_000) -> None:
    """Delete up to `limit` operation ids that are older than `older_than` seconds.

    Choose a time that is longer than any redelivery takes, and a limit above the number of new ids between two calls.

    Raises:
        ConfigurationError: The call is inside an atomic block, an argument is out of range, or the tables are missing.
    """
    _fence.purge(DjangoTransaction(using), older_than, limit)
