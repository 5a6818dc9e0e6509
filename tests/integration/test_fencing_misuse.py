"""Wrong uses of `redlock.fencing.sql`: a clear error each, and no write."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from sqlalchemy import Engine, create_engine, event, func, select, text
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session, scoped_session, sessionmaker

from redlock.errors import ConfigurationError, Stale
from redlock.fencing.conformance import Lease
from redlock.fencing.sql import create_statements, fenced, purge_operations
from tests.integration.fence_adapters import OPERATION, Account, assert_refused, sqlite_engine, tokens, with_accounts

LEASE = Lease(7, "me")


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    with with_accounts(sqlite_engine(str(tmp_path / "data"))) as engine:
        yield engine


@pytest.mark.parametrize(
    ("lease", "options", "words"),
    [
        (Lease(2**63, "me"), {}, "from 1 to 9223372036854775807"),
        (Lease(True, "me"), {}, "token True"),  # noqa: FBT003 - the mistake
        (Lease(7.5, "me"), {}, "token 7.5"),  # type: ignore[arg-type]
        (Lease(7, "me", ("a\0b",)), {}, "control character"),
        (Lease(7, "me", ("a\ud800b",)), {}, "surrogate"),
        (Lease(7, "me", ()), {}, "list of resource names is empty"),
        (None, {}, "NoneType is no lease"),
        ("account", {}, "str is no lease"),
        (SimpleNamespace(names=("a",), fence=7, owner="me"), {}, "SimpleNamespace is no lease"),
        (Lease(7, 5), {}, "the owner token of the lease is int; it must be text"),  # type: ignore[arg-type]
        (Lease(7, "\ud800"), {}, "the owner token of the lease holds half a surrogate pair"),
        (LEASE, {"operation": ""}, "1 to 255 characters"),
        (LEASE, {"operation": "x" * 256}, "1 to 255 characters"),
        (LEASE, {"operation": 5}, "1 to 255 characters"),
        (LEASE, {"operation": "a\0b"}, "without NUL"),
        (LEASE, {"operation": "a\ud800b"}, "surrogate"),
        (LEASE, {"lock_timeout": 0}, "more than 0"),
        (LEASE, {"lock_timeout": True}, "more than 0"),
        (LEASE, {"lock_timeout": float("nan")}, "more than 0"),
    ],
)
def test_a_bad_argument_is_refused(engine: Engine, lease: Any, options: Any, words: str) -> None:
    with Session(engine) as session:
        assert_refused(session, lease, words, **options)
    assert tokens(engine) == 0


def test_a_lease_of_days_is_taken(engine: Engine) -> None:
    with Session(engine) as session, fenced(session, LEASE._replace(ttl_ms=10**9)):
        pass
    assert tokens(engine) == 1


def test_an_operation_id_belongs_to_the_database(engine: Engine) -> None:
    leases = [LEASE._replace(names=(name,)) for name in ("account", "other")]
    with Session(engine) as session:
        for lease, expected in zip(leases, (True, False), strict=True):
            with fenced(session, lease, operation="op") as section:
                assert section.fresh is expected


def test_a_begun_connection_is_refused(engine: Engine) -> None:
    """Under a session, and in a savepoint."""
    with engine.begin() as connection, Session(connection) as session:
        assert_refused(session, LEASE, "in a transaction already")
    with engine.connect() as connection, connection.begin(), connection.begin_nested():
        assert_refused(connection, LEASE, "in a transaction already")


def test_autocommit_is_refused_by_older_versions_too(
    database: str, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SQLAlchemy before 2.0.43 cannot be asked; PostgreSQL and MariaDB report their isolation level instead."""
    made = create_engine(database or engine.url)
    monkeypatch.setattr(made.dialect, "detect_autocommit_setting", None, raising=False)
    with Session(made.execution_options(isolation_level="AUTOCOMMIT")) as session:
        assert_refused(session, LEASE, "autocommit")
    made.dispose()


def test_an_engine_that_begins_by_itself_is_fenced(engine: Engine) -> None:
    """The recipe of SQLAlchemy's manual for SQLite."""
    recipe = create_engine(engine.url)
    event.listen(recipe, "connect", lambda connection, _: setattr(connection, "isolation_level", None))
    event.listen(recipe, "begin", lambda connection: connection.exec_driver_sql("BEGIN"))
    with Session(recipe) as session:
        with fenced(session, LEASE):
            session.get_one(Account, "account").value = 11
        assert_refused(session, Lease(6, "late"), error=Stale)
    recipe.dispose()
    assert tokens(engine) == 1


def test_a_locked_sqlite_file_is_reported_and_left(tmp_path: Path, engine: Engine) -> None:
    impatient = create_engine(f"sqlite:///{tmp_path / 'data'}", connect_args={"timeout": 0.01})
    with engine.connect() as writer:
        writer.exec_driver_sql("BEGIN IMMEDIATE")
        with Session(impatient) as session:
            assert_refused(session, LEASE, "BEGIN IMMEDIATE", error=OperationalError)
            assert not session.in_transaction()
        writer.rollback()
    impatient.dispose()


def test_a_read_only_database_is_named(engine: Engine, tmp_path: Path) -> None:
    read_only = create_engine(f"sqlite:///file:{tmp_path / 'data'}?mode=ro&uri=true")
    with Session(read_only) as session:
        assert_refused(session, LEASE, "read-only")
    read_only.dispose()
    assert tokens(engine) == 0


def test_an_unknown_kind_of_session_is_refused(tmp_path: Path) -> None:
    connection = sqlite3.connect(tmp_path / "data")
    assert_refused(connection, LEASE, "Session or Connection")
    connection.close()
    with pytest.raises(ConfigurationError, match="mariadb, mysql, postgresql, sqlite"):
        create_statements("oracle")


def test_a_session_without_an_engine_is_refused() -> None:
    with Session() as session:
        assert_refused(session, LEASE, "no engine of its own")


def test_a_two_phase_session_is_refused(engine: Engine) -> None:
    with Session(engine, twophase=True) as session:
        assert_refused(session, LEASE, "two-phase")


def test_a_scoped_session_is_fenced(engine: Engine) -> None:
    scoped = scoped_session(sessionmaker(engine))
    with fenced(scoped, LEASE):
        scoped.get_one(Account, "account").value = 11
    purge_operations(scoped)
    scoped.remove()
    assert tokens(engine) == 1


def test_a_purge_without_tables_names_their_statements(tmp_path: Path) -> None:
    engine = create_engine(f"sqlite:///{tmp_path / 'empty'}")
    with Session(engine) as session, pytest.raises(ConfigurationError, match="CREATE TABLE redlock_operation"):
        purge_operations(session)
    engine.dispose()


def test_a_body_that_commits_by_itself_is_reported(engine: Engine) -> None:
    with Session(engine) as session:
        with pytest.raises(ConfigurationError, match="leave commit and rollback"), fenced(session, LEASE):
            session.commit()
            session.get_one(Account, "account").value = 99
            session.flush()
    with Session(engine) as session:
        assert session.get_one(Account, "account").value == 10


def test_an_exception_in_the_body_rolls_back_everything(engine: Engine) -> None:
    with Session(engine) as session:
        with pytest.raises(ZeroDivisionError), fenced(session, LEASE, operation="op"):
            session.get_one(Account, "account").value = 1 // 0
        with fenced(session, LEASE, operation="op") as section:
            assert section.fresh


def test_an_operation_is_fresh_once(engine: Engine) -> None:
    fresh = []
    with Session(engine) as session:
        for lease in (LEASE, LEASE, Lease(9, "other")):
            with fenced(session, lease, operation="op") as section:
                fresh.append(section.fresh)
        assert_refused(session, Lease(8, "late"), "token 8", error=Stale, operation="new")
        with fenced(session, Lease(9, "other"), operation="new") as section:
            fresh.append(section.fresh)
    assert fresh == [True, False, False, True]


def test_old_operations_are_purged_and_tokens_stay(engine: Engine) -> None:
    with Session(engine) as session:
        for number in range(5):
            with fenced(session, LEASE, operation=f"op-{number}"):
                pass
        session.execute(
            text("UPDATE redlock_operation SET at = datetime('now', '-8 days') WHERE operation_id < 'op-3'")
        )
        session.commit()
        purge_operations(session, limit=2)
        left = session.execute(select(func.count()).select_from(OPERATION)).scalar_one()
        session.rollback()
        purge_operations(session)
        names = session.scalars(select(OPERATION.c.operation_id)).all()
        session.rollback()
        for options in ({"limit": 0}, {"limit": 1.5}, {"older_than": 0}, {"older_than": float("nan")}):
            with pytest.raises(ConfigurationError, match="it must be"):
                purge_operations(session, **options)
    assert (left, sorted(names), tokens(engine)) == (3, ["op-3", "op-4"], 1)


def test_objects_from_before_the_block_are_read_anew(engine: Engine) -> None:
    with Session(engine, expire_on_commit=False) as session:
        account = session.get_one(Account, "account")
        session.commit()
        with engine.begin() as connection:
            connection.execute(text("UPDATE account SET value = 11"))
        with fenced(session, LEASE):
            assert account.value == 11


def test_several_names_are_fenced_together(engine: Engine) -> None:
    both = Lease(7, "me", ("b", "a"))
    with Session(engine) as session, fenced(session, both):
        pass
    with Session(engine) as session:
        assert_refused(session, Lease(6, "late", ("c", "a")), "'a'", error=Stale)
    assert tokens(engine) == 2


async def test_a_plain_session_with_async_with_is_refused(engine: Engine) -> None:
    with Session(engine) as session, pytest.raises(ConfigurationError, match="`with` needs a Session"):
        async with fenced(session, LEASE):
            pytest.fail("the body must not run")
