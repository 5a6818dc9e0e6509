"""Checks the database with the fence for the doctor: its tables, and the timeouts that free a frozen holder's row.

Invariants:
1. A check creates, changes and deletes nothing in the database.
2. No finding contains a password.
3. A database package is imported only for the check of a database.
"""

from __future__ import annotations

import asyncio
import importlib.util
import re
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import unquote

from redlock._masking import mask
from redlock.admin.diagnostics import Finding, Level, warning
from redlock.admin.time_limit import ANSWERS, Overdue, within
from redlock.errors import ConfigurationError
from redlock.fencing._statements import DIALECTS, MISSING_TABLE, READ_ONLY, code_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    Query = Callable[[str], list[Any]]

_LOCKED = "a holder that is frozen inside a transaction keeps its resource locked"
_LONG = 10
"""Leases that a wait may last before the doctor warns."""
_HOUR_US = 3_600_000_000
_TIMEOUTS = {
    "psycopg": ("connect_timeout",),
    "psycopg2": ("connect_timeout",),
    "asyncpg": ("timeout", "command_timeout"),
    "pymysql": ("connect_timeout", "read_timeout"),
    "mysqldb": ("connect_timeout", "read_timeout"),
    "aiomysql": ("connect_timeout",),
    "pysqlite": ("timeout",),
    "aiosqlite": ("timeout",),
}
"""The options of the drivers that limit the wait for an answer, in seconds."""
_STATEMENT_LIMITS = {
    "postgresql": "SET LOCAL statement_timeout = '{0}s'",
    "mariadb": "SET SESSION lock_wait_timeout = {0}",
    "mysql": "SET SESSION lock_wait_timeout = {0}",
}
"""The server ends a statement that waits for a table that another connection has locked."""
_AROUND_PATH = re.compile(r"^file:(//[^/]*)?|#.*")
"""The parts of SQLite's URI of a file that are no path."""
_PARAMETERS = {"resource": "", "token": 0, "owner": "", "operation": "", "seconds": 0, "limit": 0}
_GRANT = "grant SELECT, INSERT, UPDATE on redlock_fence and SELECT, INSERT, DELETE on redlock_operation"
_DENIED = frozenset({"42501", "1142", "1143"})
"""The codes of the errors of a user without privileges on a table or column."""
_OVERDUE = frozenset({"57014", "1205"})
"""The codes of the errors at these limits."""


class _Database(NamedTuple):
    """A connected database: its place for messages, its kind, and a function that runs a query."""

    where: str
    kind: str
    query: Query
    ttl: float


def check(url: str, *, ttl: float, timeout: float) -> list[Finding]:
    """Check the database behind a SQLAlchemy address.

    Args:
        url: The address, such as `postgresql+psycopg://user@host/name`.
        ttl: Seconds that a lease lasts.
        timeout: Seconds to wait for an answer; drivers round to whole seconds. The whole check has five times as long.

    Raises:
        ConfigurationError: The address is invalid, or there is no fence for such a database.
    """
    if importlib.util.find_spec("sqlalchemy") is None:
        what = "it was not contacted, because SQLAlchemy is not installed here"
        return [warning("not-checked", "database", what, "pip install 'celery-redlock[sqlalchemy]'")]
    from sqlalchemy.engine import make_url  # noqa: PLC0415 - only for users of SQLAlchemy
    from sqlalchemy.exc import ArgumentError  # noqa: PLC0415 - as above

    right = (
        "write postgresql+psycopg://user@host/name, mariadb+pymysql://user@host/name or sqlite:///file, "
        "and in a user name or password %40 for @"
    )
    try:
        address = make_url(url)
        kind = address.get_backend_name()
    except (ArgumentError, ValueError):
        address = None
    # A second @ belongs to a password that was not percent-encoded. Its rest would be taken for the host, and shown.
    if address is None or url.count("@") > 1:
        raise ConfigurationError(f"the address of the database cannot be read; {right}")
    if kind not in DIALECTS:
        raise ConfigurationError(f"there is no fence for the database {kind!r:.40}; {right}")
    where = f"database {address.host or 'local'}/{address.database or ''}"
    if kind == "sqlite" and not _file(address).is_file():
        return [warning("unreachable", f"database {address.database}", "there is no such file", "fix the address")]
    found: list[Finding] = []
    try:
        failure = within(ANSWERS * timeout, lambda: _failure(address, where, ttl, timeout, found))
    except Overdue:
        failure = [_silent(where, ANSWERS * timeout)]
    if failure is None:
        raise ConfigurationError(f"an option in the address of the database cannot be used; {right}")
    findings = [*found, *failure]
    return [finding for finding in findings if finding.level is not Level.FINE] or findings


def _file(address: Any) -> Path:
    """The file of a SQLite database. SQLAlchemy also takes an address with the URI of a file."""
    name = address.database or ""
    is_uri = "uri" in address.query and name.startswith("file:")
    return Path(unquote(_AROUND_PATH.sub("", name)) if is_uri else name)


def _failure(address: Any, where: str, ttl: float, timeout: float, found: list[Finding]) -> list[Finding] | None:
    """The end of the check, which adds to `found`; None if a driver does not take the options of the address.

    This runs in a thread, where no signal handler raises an exception.
    """
    from sqlalchemy.exc import NoSuchModuleError, SQLAlchemyError  # noqa: PLC0415 - only for users of SQLAlchemy

    try:
        _connected(address, where, ttl, timeout, found)
    except (TimeoutError, asyncio.TimeoutError):
        return [_silent(where, timeout)]
    except (ModuleNotFoundError, NoSuchModuleError) as error:
        return [warning("not-checked", where, f"its driver is missing: {error}", "install the driver")]
    except (SQLAlchemyError, OSError) as error:
        reason = _reason(error)
        if code_of(error) in _OVERDUE or "is locked" in reason or "timed out" in reason:
            return [_silent(where, timeout)]
        return [warning("unreachable", where, reason or type(error).__name__, "start it, or fix its address")]
    except (AttributeError, LookupError, OverflowError, TypeError, ValueError):
        # The error of the driver may repeat a value of the address.
        return None
    return []


def _reason(error: BaseException) -> str:
    return mask(str(getattr(error, "orig", None) or error).partition("\n")[0])


def _connected(address: Any, where: str, ttl: float, timeout: float, found: list[Finding]) -> None:
    from sqlalchemy import create_engine  # noqa: PLC0415 - only for users of SQLAlchemy
    from sqlalchemy.ext.asyncio import create_async_engine  # noqa: PLC0415 - as above
    from sqlalchemy.pool import NullPool  # noqa: PLC0415 - as above

    driver = address.get_dialect()
    seconds = max(1, round(timeout))
    limits = dict.fromkeys(_TIMEOUTS.get(driver.driver, ()), seconds)
    if not getattr(driver, "is_async", False):
        with create_engine(address, connect_args=limits, poolclass=NullPool).connect() as connection:
            _examine(connection, where, ttl, seconds, found)
        return

    async def main() -> None:
        engine = create_async_engine(address, connect_args=limits, poolclass=NullPool)
        async with engine.connect() as connection:
            await connection.run_sync(_examine, where, ttl, seconds, found)

    asyncio.run(main())


def _examine(connection: Any, where: str, ttl: float, seconds: int, found: list[Finding]) -> None:
    def query(statement: str) -> list[Any]:
        result = connection.exec_driver_sql(statement)
        return [tuple(row) for row in result] if result.returns_rows else []

    kind = "mariadb" if getattr(connection.dialect, "is_mariadb", False) else connection.dialect.name
    if kind in _STATEMENT_LIMITS:
        connection.exec_driver_sql(_STATEMENT_LIMITS[kind].format(seconds))
    database = _Database(where, kind, query, ttl)
    by_kind = {"postgresql": _postgresql, "mariadb": _mysql, "mysql": _mysql, "sqlite": _sqlite}
    # Each finding by itself, because a later query may be overdue.
    found.extend(by_kind[kind](database))
    if kind == "sqlite":
        connection.rollback()  # other connections may write during the later queries
    found.extend(_tables(connection, database))


def _postgresql(database: _Database) -> Iterator[Finding]:
    (settings,) = database.query(
        "SELECT current_setting('server_version'), pg_is_in_recovery(), current_setting('transaction_read_only'), "
        "(SELECT setting::bigint FROM pg_settings WHERE name = 'idle_in_transaction_session_timeout'), "
        "coalesce((SELECT setting::bigint FROM pg_settings WHERE name = 'transaction_timeout'), 0), "
        "current_setting('default_transaction_isolation')"
    )
    version, is_replica, read_only, idle_ms, transaction_ms, isolation = settings
    yield from _refusals(database, is_replica=is_replica, read_only=read_only == "on")
    limits = {"idle_in_transaction_session_timeout": idle_ms / 1000, "transaction_timeout": transaction_ms / 1000}
    yield from _waits(database, "idle_in_transaction_session_timeout", limits)
    yield _fine(database, f"PostgreSQL {version}, {isolation}")
    tables = database.query(
        "SELECT relname, relpersistence::text FROM pg_class WHERE oid IN "
        "(to_regclass('redlock_fence'), to_regclass('redlock_operation'))"
    )
    for table, persistence in tables:
        if persistence != "p":
            what = f"table {table} is not logged: a crash empties it, and old tokens pass"
            yield Finding(Level.UNSAFE, "unlogged", database.where, what, f"ALTER TABLE {table} SET LOGGED")


def _mysql(database: _Database) -> Iterator[Finding]:
    found = dict(
        database.query(
            "SHOW VARIABLES WHERE Variable_name IN ('version', 'read_only', 'idle_transaction_timeout', "
            "'idle_write_transaction_timeout', 'wait_timeout', 'innodb_lock_wait_timeout', 'transaction_isolation', "
            "'tx_isolation')"
        )
    )
    yield from _refusals(database, is_replica=False, read_only=found.get("read_only") not in {"OFF", "0"})
    names = ("idle_transaction_timeout", "idle_write_transaction_timeout", "wait_timeout")
    limits = {name: float(found.get(name, 0)) for name in names}
    setting = "idle_transaction_timeout" if database.kind == "mariadb" else "wait_timeout"
    yield from _waits(database, setting, limits)
    lock_wait = float(found["innodb_lock_wait_timeout"])
    if database.kind == "mysql" and lock_wait > _LONG * database.ttl:
        what = f"innodb_lock_wait_timeout is {lock_wait:g} s: so long the next holder waits for a frozen one"
        yield warning("timeout", database.where, what, f"set it to about the ttl, {database.ttl:g} s")
    isolation = found.get("transaction_isolation") or found.get("tx_isolation")
    yield _fine(database, f"{DIALECTS[database.kind].name} {found['version']}, {isolation}")
    tables = database.query(
        "SELECT table_name, engine FROM information_schema.tables WHERE table_schema = DATABASE() "
        "AND table_name IN ('redlock_fence', 'redlock_operation')"
    )
    for table, engine in tables:
        if str(engine).lower() != "innodb":
            what = f"table {table} has the engine {engine}, which has no transactions: the fence locks nothing"
            yield Finding(Level.UNSAFE, "engine", database.where, what, f"ALTER TABLE {table} ENGINE=InnoDB")


def _sqlite(database: _Database) -> Iterator[Finding]:
    from sqlalchemy.exc import DBAPIError  # noqa: PLC0415 - only for users of SQLAlchemy

    ((version,),) = database.query("SELECT sqlite_version()")
    ((journal,),) = database.query("PRAGMA journal_mode")
    not_checked = "not checked: the busy timeout, which each connection sets"
    yield _fine(database, f"SQLite {version}, journal mode {journal}; {not_checked}")
    try:
        database.query("INSERT INTO redlock_operation VALUES ('', '')")  # a change, so SQLite makes its journal
    except DBAPIError as error:  # a file that is locked takes writes
        yield from _refusals(database, is_replica=False, read_only=code_of(error) in READ_ONLY)


def _refusals(database: _Database, *, is_replica: bool, read_only: bool) -> Iterator[Finding]:
    if is_replica:
        yield warning("replica", database.where, "it is a replica, and refuses the fence", "name its primary server")
    elif read_only:
        yield warning("read-only", database.where, "it is read-only, and refuses the fence", "let this user write")


def _waits(database: _Database, setting: str, limits: Mapping[str, float]) -> Iterator[Finding]:
    """The finding about the shortest limit, if that is too long; 0 is no limit."""
    fix = f"set {setting} to about the ttl, {database.ttl:g} s"
    seconds, shortest = min(((limit, name) for name, limit in limits.items() if limit), default=(0.0, ""))
    if not shortest:
        yield warning("timeout", database.where, f"{setting} is off: {_LOCKED} without an end", fix)
    elif seconds > _LONG * database.ttl:
        yield warning("timeout", database.where, f"{shortest} is {seconds:g} s: {_LOCKED} for so long", fix)


def _tables(connection: Any, database: _Database) -> Iterator[Finding]:
    from sqlalchemy import text  # noqa: PLC0415 - only for users of SQLAlchemy
    from sqlalchemy.exc import DBAPIError  # noqa: PLC0415 - as above

    dialect = DIALECTS[database.kind]
    limit = time.time_ns() // 1_000 + _HOUR_US
    try:
        for statement in (dialect.fence, dialect.operation, dialect.purge):  # checks privileges, and runs nothing
            connection.execute(text(f"EXPLAIN {statement}"), _PARAMETERS)
        # The last query: in a large table it may be overdue.
        ((ahead,),) = database.query(f"SELECT count(*) FROM redlock_fence WHERE token > {limit}")  # noqa: S608 - a number
    except DBAPIError as error:
        if code_of(error) in MISSING_TABLE:
            statements = "; ".join(dialect.create)
            yield warning("tables", database.where, "the tables of the fence are missing", f"run {statements}")
        elif code_of(error) in _DENIED:
            yield warning("privileges", database.where, f"the fence cannot write: {_reason(error)}", _GRANT)
        elif code_of(error) not in READ_ONLY:  # reported before
            raise
        return
    if ahead:
        what = f"{ahead} resources have a token more than an hour ahead of this clock, so every lease is stale there"
        yield warning("token-ahead", database.where, what, "see docs/fencing.md, 'A token far ahead'")


def _fine(database: _Database, what: str) -> Finding:
    return Finding(Level.FINE, "database", database.where, f"{what}; it has the tables of the fence")


def _silent(where: str, seconds: float) -> Finding:
    what = f"no answer within {seconds:g} s: it is down or overloaded, or a table of the fence is large or locked"
    return warning("no-answer", where, what, "look at its log and its locks; --timeout gives it more time")
