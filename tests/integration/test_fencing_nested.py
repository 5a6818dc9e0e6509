"""Fenced blocks inside each other, on two databases: a half that was written alone is refused, logged or completed."""

from __future__ import annotations

import contextlib
import contextvars
import gc
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Engine, event
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import Session

from redlock.errors import ConfigurationError
from redlock.fencing import _sqlalchemy_connection
from redlock.fencing.conformance import Lease
from redlock.fencing.sql import fenced
from tests.integration.fence_adapters import FENCE, Account, balance, sqlite_engine, with_accounts

LEASE = Lease(7, "me")
WITHOUT = [(None, None), ("op", None), (None, "op")]


@pytest.fixture
def other(tmp_path: Path) -> Iterator[Engine]:
    """A second database with an account of 10."""
    with with_accounts(sqlite_engine(str(tmp_path / "other"))) as engine:
        yield engine


def balances(*engines: Engine) -> list[int]:
    return [balance(engine) for engine in engines]


def work(engine: Engine, other: Engine, *, fail: bool) -> None:
    """A task that adds 1 in both databases."""
    with Session(engine) as outer, Session(other) as inner:
        with fenced(outer, LEASE, operation="task") as section:
            if section.fresh:
                outer.get_one(Account, "account").value += 1
            with fenced(inner, LEASE, operation="task") as within:
                if within.fresh:
                    inner.get_one(Account, "account").value += 1
            assert not fail


def test_half_of_the_work_is_logged_and_completed(
    engine: Engine, other: Engine, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "redlock"), pytest.raises(AssertionError):
        work(engine, other, fail=True)
    assert [record.getMessage() for record in caplog.records] == [
        "partly-committed resource=account operation=task committed=task"
    ]
    assert balances(engine, other) == [10, 11]
    caplog.clear()
    for _ in range(2):
        work(engine, other, fail=False)
    assert balances(engine, other) == [11, 11]
    assert not caplog.records


def test_a_failure_after_a_commit_is_no_failed_block(
    engine: Engine, other: Engine, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The log names the blocks inside at every depth."""

    def fail(_session: Session) -> None:
        raise ZeroDivisionError

    with with_accounts(sqlite_engine(str(tmp_path / "third"))) as third:
        with Session(third) as outer, Session(other) as middle, Session(engine) as inner:
            event.listen(inner, "after_commit", fail)
            event.listen(outer, "before_commit", fail)
            with pytest.raises(ZeroDivisionError), fenced(outer, LEASE, operation="a"):
                with fenced(middle, LEASE, operation="b"):
                    with contextlib.suppress(ZeroDivisionError), fenced(inner, LEASE, operation="c"):
                        inner.get_one(Account, "account").value = 11
                outer.get_one(Account, "account").value = 11
        assert balances(engine, other, third) == [11, 10, 10]
    assert caplog.messages == ["partly-committed resource=account operation=a committed='c, b'"]


@pytest.mark.parametrize("takes_listeners", [True, False])
def test_a_flush_that_fails_at_the_end_is_a_failed_block(
    engine: Engine,
    other: Engine,
    takes_listeners: bool,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Before SQLAlchemy 2.0.38 a connection takes no listeners if its engine has execution options."""
    if not takes_listeners:
        monkeypatch.setattr(_sqlalchemy_connection, "listens", lambda *_: False)
    with Session(other) as outer, Session(engine) as inner:
        with pytest.raises(IntegrityError), fenced(outer, LEASE, operation="a"), fenced(inner, LEASE, operation="b"):
            inner.add(Account(name="account", value=99))
        assert not caplog.messages
        with fenced(inner, LEASE, operation="b") as section:
            assert section.fresh


@pytest.mark.parametrize(("first", "second"), WITHOUT)
def test_blocks_without_operation_ids_are_refused(
    engine: Engine, other: Engine, first: str | None, second: str | None
) -> None:
    with Session(engine) as outer, Session(other) as inner:
        with pytest.raises(ConfigurationError, match="give both blocks an operation id"):
            with fenced(outer, LEASE, operation=first), fenced(inner, LEASE, operation=second):
                pytest.fail("the body must not run")
        assert [session.query(FENCE).count() for session in (outer, inner)] == [0, 0], "nothing is written"


async def test_blocks_of_asyncio_follow_the_same_rule(other: Engine, caplog: pytest.LogCaptureFixture) -> None:
    made = create_async_engine(other.url.set(drivername="sqlite+aiosqlite"))
    async with AsyncSession(made) as inner:
        with Session(other) as outer, fenced(outer, LEASE):
            with pytest.raises(ConfigurationError, match="give both blocks an operation id"):
                async with fenced(inner, LEASE):
                    pytest.fail("the body must not run")
        async with fenced(inner, LEASE):
            pass
    await made.dispose()
    assert balances(other) == [10]
    assert not caplog.records


def test_a_block_that_never_ends_hinders_no_other(engine: Engine, other: Engine) -> None:
    """As after a signal between the fence and the body."""
    with Session(engine) as first, Session(other) as second:
        fenced(first, LEASE).__enter__()
        gc.collect()
        with fenced(second, LEASE):
            pass


def test_a_block_that_ends_in_another_context_is_over(engine: Engine, other: Engine) -> None:
    with Session(engine) as first, Session(other) as second:
        block = fenced(first, LEASE)
        block.__enter__()
        contextvars.copy_context().run(block.__exit__, None, None, None)
        with fenced(second, LEASE):
            pass
