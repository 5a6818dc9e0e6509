"""The cost of the SQL fence per transaction: read, write and commit a row, without and with the fence in turns.

No commit waits for the disk: that time is the same on both sides, and hides the difference.
"""

from __future__ import annotations

import contextlib
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg
from sqlalchemy import create_engine, text
from sqlalchemy.orm import Session

from benchmarks.report import Table, median, spread
from redlock.fencing.conformance import Lease
from redlock.fencing.sql import create_statements, fenced
from tests.integration.databases import has_mariadb, mariadb, postgresql

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from benchmarks.bench import Bench
    from benchmarks.report import Cell

    Connected = tuple[Any, Callable[[str], Any]]

_LEASE = Lease(1_764_316_800_000_000, "bench", ("account:42",))
_READ, _WRITE = "SELECT value FROM bench", "UPDATE bench SET value = {}"


def run(bench: Bench) -> list[Table]:
    """The table: a row for each driver and database."""
    transactions = 50 * bench.rounds(40)
    rows: list[list[Cell]] = []
    raw: dict[str, dict[str, list[float]]] = {}
    for name, connect in _connections():
        bench.say(name)
        with connect as (connection, execute):
            plain, with_fence = _measure(connection, execute, transactions)
        raw[name] = {"plain": plain, "fenced": with_fence}
        without, fence = median(plain) or 0.0, median(with_fence) or 0.0
        rows.append([name, without, spread(plain), fence, spread(with_fence), fence - without])
    columns = ("", "without us", "min .. max", "with us", "min .. max", "the fence us")
    title = "a transaction that reads and writes one row, medians; one local connection"
    return [Table("fence", title, columns, rows, bars="the fence us", raw=raw)]


def _measure(connection: Any, execute: Callable[[str], Any], transactions: int) -> tuple[list[float], list[float]]:  # noqa: ANN401 - of each driver
    found: tuple[list[float], list[float]] = ([], [])
    for number in range(2 * transactions + 20):
        fence = number % 2
        began = time.perf_counter()
        with fenced(connection, _LEASE) if fence else contextlib.nullcontext():
            value = execute(_READ).fetchone()[0]
            execute(_WRITE.format(value + 1))
        if not fence:
            connection.commit()
        if number >= 20:  # noqa: PLR2004 - the first ones fill caches
            found[fence].append((time.perf_counter() - began) * 1e6)
    return found


def _connections() -> Iterator[tuple[str, contextlib.AbstractContextManager[Connected]]]:
    with postgresql() as address:
        yield "PostgreSQL, psycopg", _psycopg(address)
        yield "PostgreSQL, SQLAlchemy", _sqlalchemy(address.replace("postgresql://", "postgresql+psycopg://"))
    if has_mariadb():
        with mariadb() as socket:
            yield "MariaDB, SQLAlchemy and PyMySQL", _sqlalchemy(f"mariadb+pymysql://root@/test?unix_socket={socket}")
    with tempfile.TemporaryDirectory(prefix="redlock-bench-") as directory:
        yield "SQLite, SQLAlchemy", _sqlalchemy(f"sqlite:///{Path(directory, 'data')}")


def _tables(database: str) -> tuple[str, ...]:
    return (*create_statements(database), "CREATE TABLE bench (value integer)", "INSERT INTO bench VALUES (0)")


@contextlib.contextmanager
def _psycopg(address: str) -> Iterator[Connected]:
    with psycopg.connect(address) as connection:
        for statement in _tables("postgresql"):
            connection.execute(statement.encode())
        connection.execute("SET synchronous_commit = off")
        connection.commit()
        yield connection, lambda statement: connection.execute(statement.encode())
        connection.execute("DROP TABLE bench, redlock_fence, redlock_operation")


@contextlib.contextmanager
def _sqlalchemy(url: str) -> Iterator[Connected]:
    engine = create_engine(url)
    asynchronous = {"postgresql": "SET synchronous_commit = off", "sqlite": "PRAGMA synchronous = off"}
    with engine.begin() as connection:
        for statement in _tables(engine.dialect.name):
            connection.execute(text(statement))
    with Session(engine) as session:
        if engine.dialect.name in asynchronous:
            session.connection().exec_driver_sql(asynchronous[engine.dialect.name])
            session.commit()
        yield session, lambda statement: session.execute(text(statement))
    engine.dispose()
