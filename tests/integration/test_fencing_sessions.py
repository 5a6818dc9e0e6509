"""SQLAlchemy sessions with several engines: only the connection that passed the fence is used in the block."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from billiard.exceptions import SoftTimeLimitExceeded
from sqlalchemy import Delete, Engine, Update, text
from sqlalchemy.exc import UnboundExecutionError
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.ext.horizontal_shard import ShardedSession
from sqlalchemy.orm import Session, scoped_session, sessionmaker

from redlock.errors import ConfigurationError
from redlock.fencing.conformance import Lease
from redlock.fencing.sql import fenced
from tests.integration.fence_adapters import Account, assert_refused, balance, sqlite_engine, tokens, with_accounts

LEASE, LATER = Lease(7, "me"), Lease(8, "later")
SECOND = "a second connection"


@pytest.fixture
def engines(tmp_path: Path) -> Iterator[tuple[Engine, Engine]]:
    """Two databases with the same tables, such as a primary and a replica."""
    with contextlib.ExitStack() as stack:
        made = [stack.enter_context(with_accounts(sqlite_engine(str(tmp_path / name)))) for name in ("one", "two")]
        yield made[0], made[1]


def routing(primary: Engine, replica: Engine) -> type[Session]:
    """The recipe of SQLAlchemy's manual: reads go to a replica."""

    class Routing(Session):
        def get_bind(self, mapper: Any = None, *, clause: Any = None, **_: Any) -> Engine:
            writes = mapper is None or self._flushing or isinstance(clause, (Update, Delete))
            return primary if writes else replica

    return Routing


def bound_elsewhere(one: Engine, two: Engine) -> Session:
    return Session(one, binds={Account: two})


def load(session: Session, _other: Engine) -> None:
    session.get(Account, "account")


def add(session: Session, _other: Engine) -> None:
    session.add(Account(name="new", value=1))


def read_there(session: Session, other: Engine) -> None:
    session.execute(text("SELECT 1"), bind_arguments={"bind": other})


def read_on_a_connection(session: Session, other: Engine) -> None:
    with other.connect() as connection:
        session.execute(text("SELECT 1"), bind_arguments={"bind": connection})


def with_an_option(one: Engine, _two: Engine) -> Session:
    """An engine with an option is another engine for a session, and has a connection of its own."""
    return Session(one, binds={Account: one.execution_options(yield_per=10)})


KINDS: dict[str, tuple[Callable[[Engine, Engine], Session], Callable[[Session, Engine], None]]] = {
    "reads from a replica": (lambda one, two: routing(one, two)(), load),
    "data elsewhere": (bound_elsewhere, load),
    "writes elsewhere": (bound_elsewhere, add),
    "the engine of a statement": (lambda one, _: Session(one), read_there),
    "the connection of a statement": (lambda one, _: Session(one), read_on_a_connection),
    "an option of the engine": (with_an_option, load),
}


@pytest.mark.parametrize(("make", "body"), KINDS.values(), ids=KINDS)
def test_a_second_connection_in_the_block_is_refused(
    engines: tuple[Engine, Engine], make: Callable[[Engine, Engine], Session], body: Callable[[Session, Engine], None]
) -> None:
    with make(*engines) as session:
        for _ in range(2):
            with pytest.raises(ConfigurationError, match=SECOND), fenced(session, LEASE):
                session.execute(text("UPDATE account SET value = 99"), bind_arguments={"bind": engines[0]})
                body(session, engines[1])
            assert not session.in_transaction()
    assert [state(engine) for engine in engines] == [(0, 10), (0, 10)]


def test_a_caught_second_connection_commits_nothing(engines: tuple[Engine, Engine]) -> None:
    with Session(engines[0], binds={Account: engines[1]}) as session:
        with pytest.raises(ConfigurationError, match=SECOND), fenced(session, LEASE):
            with pytest.raises(ConfigurationError, match=SECOND):
                session.get(Account, "account")
            session.get_one(Account, "account").value = 99
        session.get_one(Account, "account").value = 12
        session.commit()
    assert [state(engine) for engine in engines] == [(0, 10), (0, 12)]


def test_a_savepoint_is_no_second_connection(engines: tuple[Engine, Engine]) -> None:
    with Session(engines[0], binds={Account: engines[0]}) as session, fenced(session, LEASE):
        with session.begin_nested():
            session.get_one(Account, "account").value += 1
    assert state(engines[0]) == (1, 11)


def test_a_session_with_shards_is_refused(engines: tuple[Engine, Engine]) -> None:
    shards: dict[str, Any] = dict(zip(("one", "two"), engines, strict=True))
    everywhere = list(shards)
    session = ShardedSession(
        shard_chooser=lambda *_: "one",
        identity_chooser=lambda *_, **__: everywhere,
        execute_chooser=lambda _: everywhere,
        shards=shards,
    )
    with session:
        assert_refused(session, LEASE, "no engine of its own")


@pytest.mark.parametrize("error", [AttributeError, KeyError, NotImplementedError, TypeError, UnboundExecutionError])
def test_a_get_bind_that_needs_arguments_is_refused(error: type[Exception]) -> None:
    refused = assert_refused(binding(error), LEASE, "no engine of its own")
    assert isinstance(refused.__cause__, error)


@pytest.mark.parametrize("error", [SoftTimeLimitExceeded, TimeoutError])
def test_an_alarm_inside_get_bind_is_raised(error: type[Exception]) -> None:
    assert_refused(binding(error), LEASE, error=error)


def binding(error: type[Exception]) -> Session:
    class Binding(Session):
        def get_bind(self, *_: Any, **__: Any) -> Engine:
            raise error

    return Binding()


async def test_an_async_session_with_two_engines_is_refused(engines: tuple[Engine, Engine]) -> None:
    one, two = [create_async_engine(engine.url.set(drivername="sqlite+aiosqlite")) for engine in engines]
    async with AsyncSession(one, binds={Account: two}) as session:
        with pytest.raises(ConfigurationError, match=SECOND):
            async with fenced(session, LEASE):
                await session.get(Account, "account")
        assert not session.in_transaction()
    await one.dispose()
    await two.dispose()
    assert state(engines[0]) == (0, 10)


def test_a_scoped_session_is_that_of_the_entering_thread(engines: tuple[Engine, Engine]) -> None:
    scoped = scoped_session(sessionmaker(engines[0]))
    block = fenced(scoped, LEASE)

    def enter() -> None:
        with block:
            scoped.get_one(Account, "account").value += 1
        scoped.remove()

    with ThreadPoolExecutor() as pool:
        pool.submit(enter).result()
    scoped.remove()
    assert state(engines[0]) == (1, 11)


def test_the_session_is_free_after_the_block(engines: tuple[Engine, Engine]) -> None:
    with Session(engines[0]) as session:
        for lease in (LEASE, LATER):
            with fenced(session, lease):
                session.get_one(Account, "account").value += 1
            other = {"bind": engines[1]}
            session.execute(text("UPDATE account SET value = value + 1"), bind_arguments=other)
            session.commit()
    assert [state(engine) for engine in engines] == [(1, 12), (0, 12)]


def state(engine: Engine) -> tuple[int, int]:
    """The number of tokens, and the value of the account."""
    return tokens(engine), balance(engine)
