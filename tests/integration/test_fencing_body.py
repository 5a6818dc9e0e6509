"""The body of a fenced block on real databases: only the transaction that passed the fence commits."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import Engine, event, insert, select, text
from sqlalchemy.exc import DBAPIError, OperationalError
from sqlalchemy.orm import Session

from redlock.errors import ConfigurationError, Stale
from redlock.fencing import _sqlalchemy_connection
from redlock.fencing.conformance import Lease
from redlock.fencing.sql import fenced
from tests.integration.fence_adapters import JOURNAL, OPERATION, Account, assert_refused, balance, waits
from tests.integration.threads import started
from tests.integration.tools import eventually

TOKEN = 1_764_316_800_000_000
"""As large as the tokens of a real cluster, which need more than 32 bits."""
LEASE = Lease(TOKEN, "me")
ENDED = "ended inside the block"


def set_balance(session: Any, value: int) -> None:
    session.execute(text("UPDATE account SET value = :value WHERE name = 'account'"), {"value": value})


@pytest.mark.parametrize(
    ("make", "end"),
    [
        (Session, lambda session: session.execute(text("COMMIT"))),
        (Session, lambda session: session.execute(text("ROLLBACK"))),
        (Engine.connect, lambda connection: connection.commit()),
    ],
    ids=["commit as text", "rollback as text", "commit of the connection"],
)
def test_an_end_in_the_body_is_found(engine: Engine, make: Callable[[Engine], Any], end: Callable[[Any], None]) -> None:
    with make(engine) as made:
        with pytest.raises(ConfigurationError, match=ENDED), fenced(made, LEASE):
            end(made)
            set_balance(made, 99)
        assert not made.in_transaction()
    assert balance(engine) == 10


def test_a_rollback_of_a_session_inside_is_found(engine: Engine) -> None:
    with Session(engine) as session:
        with pytest.raises(ConfigurationError, match=ENDED), fenced(session, LEASE):
            with Session(session.connection()) as inner:
                set_balance(inner, 98)
                inner.rollback()
            with contextlib.suppress(ConfigurationError):
                set_balance(session, 99)
    assert balance(engine) == 10


def test_a_commit_is_found_by_older_versions_too(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """SQLAlchemy 2.0.31 refuses listeners on connections whose engine has execution options."""
    monkeypatch.setattr(_sqlalchemy_connection, "listens", lambda *_: False)
    with Session(engine) as session:
        with pytest.raises(ConfigurationError, match=ENDED), fenced(session, LEASE):
            session.execute(text("COMMIT"))
            set_balance(session, 99)
        with fenced(session, LEASE):
            session.get_one(Account, "account").value += 1
    assert balance(engine) == 11


def test_a_savepoint_in_the_body_changes_nothing(engine: Engine) -> None:
    with Session(engine) as session, fenced(session, LEASE):
        with session.begin_nested() as savepoint:
            set_balance(session, 99)
            savepoint.rollback()
        with session.begin_nested():
            set_balance(session, 11)
    assert balance(engine) == 11
    with Session(engine) as session:
        assert_refused(session, Lease(TOKEN - 1, "late"), error=Stale)


@pytest.mark.parametrize("database", ["postgresql"], indirect=True)
def test_a_caught_error_does_not_pass_for_a_commit(engine: Engine) -> None:
    """PostgreSQL answers the COMMIT of a failed transaction with a rollback, and no driver reports that."""
    with Session(engine) as session:
        with pytest.raises(ConfigurationError, match="its error was caught"), fenced(session, LEASE, operation="op"):
            set_balance(session, 99)
            with pytest.raises(DBAPIError):
                session.execute(text("SELECT nothing"))
        with fenced(session, LEASE, operation="op") as section:
            assert section.fresh
    assert balance(engine) == 10


def commit_as_text(session: Any, *_: object) -> None:
    session.connection().execute(text("COMMIT"))


def read_nothing(session: Any, *_: object) -> None:
    with contextlib.suppress(DBAPIError):
        session.connection().execute(text("SELECT nothing"))


@pytest.mark.parametrize("name", ["before_commit", "before_flush", "after_flush"])
def test_a_commit_in_a_listener_is_found(engine: Engine, name: str) -> None:
    """The application's listeners run during the flush and the commit of the session, after the body."""
    with Session(engine) as session:
        event.listen(session, name, commit_as_text)
        with pytest.raises(ConfigurationError, match=ENDED), fenced(session, LEASE):
            session.get_one(Account, "account").value = 99
        assert not session.in_transaction()


@pytest.mark.parametrize("database", ["postgresql"], indirect=True)
@pytest.mark.parametrize("name", ["before_commit", "after_flush"])
def test_an_error_that_a_listener_caught_is_found(engine: Engine, name: str) -> None:
    with Session(engine) as session:
        event.listen(session, name, read_nothing)
        with pytest.raises(ConfigurationError, match="its error was caught"), fenced(session, LEASE):
            session.get_one(Account, "account").value = 99
            if name == "before_commit":
                session.flush()
    assert balance(engine) == 10


def test_an_open_savepoint_at_the_end_is_committed(engine: Engine) -> None:
    with Session(engine) as session, fenced(session, LEASE):
        session.begin_nested()
        session.get_one(Account, "account").value += 1
    with engine.connect() as connection, fenced(connection, LEASE):
        connection.begin_nested()
        set_balance(connection, 12)
    assert balance(engine) == 12


@pytest.mark.parametrize("database", ["mariadb"], indirect=True)
def test_a_table_made_in_the_body_is_found(engine: Engine) -> None:
    """MariaDB commits before and after such a statement, and lets the next holder in."""
    with engine.begin() as connection:
        connection.execute(text("DROP TABLE IF EXISTS made"))
    with Session(engine) as session:
        with pytest.raises(ConfigurationError, match=ENDED), fenced(session, LEASE):
            session.execute(text("CREATE TABLE made (number integer)"))
            set_balance(session, 99)
    assert balance(engine) == 10


@pytest.mark.parametrize("database", ["mariadb"], indirect=True)
def test_a_caught_deadlock_does_not_pass_for_a_commit(engine: Engine) -> None:
    """MariaDB rolls the whole transaction back, and begins another without a fence at the next statement."""
    with Session(engine) as other, Session(engine) as session:
        # InnoDB rolls back the transaction that has changed fewer rows.
        other.execute(insert(JOURNAL), [{"resource": "x", "token": 1, "read": number} for number in range(100)])
        other.execute(text("UPDATE account SET value = 1 WHERE name = 'acc-lower'"))
        with pytest.raises(ConfigurationError, match=ENDED), fenced(session, LEASE):
            set_balance(session, 98)
            waiting = started(lambda: set_balance(other, 20))
            eventually(lambda: waits(engine), "a statement that waits for the account", every=0.2)
            with pytest.raises(OperationalError, match="1213"):
                session.execute(text("UPDATE account SET value = 2 WHERE name = 'acc-lower'"))
            waiting.join()
            other.commit()
            set_balance(session, 99)
    assert balance(engine) == 20


def test_an_operation_is_fresh_once_on_each_database(engine: Engine) -> None:
    fresh: dict[str, list[bool]] = {}
    with Session(engine) as session:
        for name in ("op", "op", "OP", "op ", "öp", "o\u0308p", "o'p:x%s", "op"):
            with fenced(session, LEASE, operation=name) as section:
                fresh.setdefault(name, []).append(section.fresh)
        marked = session.scalars(select(OPERATION.c.operation_id)).all()
        session.rollback()
    assert fresh == {
        "op": [True, False, False],
        "OP": [True],
        "op ": [True],
        "öp": [True],
        "o\u0308p": [True],
        "o'p:x%s": [True],
    }
    assert len(marked) == 6


def test_names_of_every_kind_have_fences_of_their_own(engine: Engine) -> None:
    names = ("account", "Account", "account ", "äccount", "a\u0308ccount", "o'name:x%s\\", "日本")
    with Session(engine) as session:
        for number, name in enumerate(names):
            with fenced(session, Lease(TOKEN - number, f"owner {number}", (name,))):
                pass
        assert_refused(session, Lease(TOKEN - 9, "late", ("日本",)), "'日本'", error=Stale)


def test_the_tokens_at_the_ends_of_the_range_pass(engine: Engine) -> None:
    with Session(engine) as session:
        for token in (1, 2**63 - 1):
            with fenced(session, Lease(token, "me")) as section:
                assert section.token == token
