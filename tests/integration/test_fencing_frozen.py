"""A holder that is frozen with an open transaction: how long the next holder waits, and what ends the wait."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import Engine, create_engine, text
from sqlalchemy.exc import DBAPIError, OperationalError
from sqlalchemy.orm import Session

from redlock.fencing import _statements
from redlock.fencing.conformance import Lease
from redlock.fencing.sql import fenced
from tests.integration.databases import MYSQL
from tests.integration.fence_adapters import Account, assert_refused, balance

FROZEN, NEXT = Lease(7, "frozen"), Lease(8, "next")
"""Both holders are in one thread, where a block inside another block needs an operation id."""


def add_one(session: Session) -> None:
    account = session.get_one(Account, "account")
    account.value += 1
    session.flush()


@pytest.mark.parametrize(
    ("database", "seconds", "code"), [("postgresql", 0.1, "55P03"), ("mariadb", 1, "1205")], indirect=["database"]
)
def test_lock_timeout_ends_the_wait_for_a_frozen_holder(engine: Engine, seconds: float, code: str) -> None:
    with Session(engine) as frozen, Session(engine) as session:
        with fenced(frozen, FROZEN, operation="frozen"):
            add_one(frozen)
            caught = assert_refused(session, NEXT, error=DBAPIError, operation="next", lock_timeout=seconds)
            assert _statements.code_of(caught) == code
            assert not session.in_transaction()
        with fenced(session, NEXT, operation="next", lock_timeout=seconds):
            add_one(session)
    assert balance(engine) == 12, "the late commit of the frozen holder came first, and is correct"


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
def test_the_busy_timeout_ends_the_wait_on_sqlite(engine: Engine) -> None:
    impatient = create_engine(engine.url, connect_args={"timeout": 0.05})
    with Session(engine) as frozen, Session(impatient) as session:
        with fenced(frozen, FROZEN, operation="frozen"):
            add_one(frozen)
            assert_refused(session, NEXT, "database is locked", error=OperationalError, operation="next")
            assert_refused(
                session, Lease(1, "x", ("other",)), "database is locked", error=OperationalError, operation="x"
            )
        with fenced(session, NEXT, operation="next"):
            add_one(session)
    impatient.dispose()
    assert balance(engine) == 12


IDLE: Any = [
    ("postgresql", "SET idle_in_transaction_session_timeout = 300"),
    ("postgresql", "SET transaction_timeout = 300"),
    *((("mariadb", "SET SESSION idle_transaction_timeout = 1"),) if not MYSQL else ()),
    ("mariadb", "SET SESSION wait_timeout = 1"),
]


@pytest.mark.parametrize(("database", "setting"), IDLE, indirect=["database"])
def test_an_idle_timeout_frees_the_row_of_a_frozen_holder(engine: Engine, setting: str) -> None:
    with Session(engine) as frozen, Session(engine) as session:
        with pytest.raises(DBAPIError), fenced(frozen, FROZEN, operation="frozen"):
            add_one(frozen)
            frozen.connection().exec_driver_sql(setting)
            # The frozen holder sends nothing now, until its server has ended the transaction and the next one passed.
            with fenced(session, NEXT, operation="next", lock_timeout=30):
                add_one(session)
            frozen.execute(text("SELECT 1"))
        frozen.close()
    assert balance(engine) == 11, "nothing of the frozen holder was written"
