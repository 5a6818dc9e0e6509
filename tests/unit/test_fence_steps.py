"""`redlock.fencing._fence`: each step, with a database that only answers."""

from __future__ import annotations

import gc
import logging
import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest

from redlock import ConfigurationError, Stale
from redlock.fencing import _fence, _statements
from redlock.fencing._arguments import Given
from redlock.fencing._statements import Dialect

POSTGRESQL, SQLITE, MARIADB = _statements.POSTGRESQL, _statements.SQLITE, _statements.MARIADB
OWNER = "o" * 64
GIVEN = Given(("a", "b"), 7, OWNER, None, 1_500)
BODY = ValueError("body")


class DatabaseError(Exception):
    """An error of a driver, with a code."""

    def __init__(self, code: str) -> None:
        super().__init__(int(code) if code.isdigit() else code)
        self.sqlstate = code


class Broken(Exception):
    """An error of a listener."""


class ConnectorError(Exception):
    """As an error of the MariaDB connector for Python: the message stands alone."""

    errno, sqlstate = 1062, "23000"


class Database:
    """A transaction that keeps its steps. Each answer belongs to the next statement with this text."""

    def __init__(self, dialect: Dialect, *answers: tuple[str, object]) -> None:
        self.dialect = dialect
        self.steps: list[object] = []
        self.statements: list[tuple[str, Mapping[str, Any]]] = []
        self.open = False
        self._answers = list(answers)

    def begin(self) -> None:
        self.steps.append("begin")
        self.open = True

    def prepare(self) -> None:
        self.steps.append("prepare")

    def execute(self, statement: str, parameters: Mapping[str, Any]) -> Sequence[Sequence[Any]]:
        """The next answer with this text; by default the fence passes in transaction 5."""
        self.statements.append((statement, parameters))
        for place, (text, answer) in enumerate(self._answers):
            if text in statement:
                del self._answers[place]
                if isinstance(answer, BaseException):
                    raise answer
                return answer  # type: ignore[return-value]  # the rows
        if statement.endswith(self.dialect.fence):
            return [] if self.dialect.verdict else [(1, 5)]
        if statement == self.dialect.verdict:
            return [(7, OWNER, 1)]
        return [(5,)] if statement == self.dialect.confirm and self.dialect is POSTGRESQL else []

    def is_open(self) -> bool:
        return self.open

    def commit(self, confirm: Callable[[], None]) -> None:
        confirm()
        self.steps.append("commit")

    def rollback(self, _error: BaseException) -> None:
        self.steps.append("rollback")

    def fenced(self) -> list[object]:
        """The resources whose fence was written."""
        return [given["resource"] for text, given in self.statements if text.endswith(self.dialect.fence)]


def test_every_resource_of_a_lease_passes_its_fence() -> None:
    database = Database(POSTGRESQL)
    section = _fence.enter(database, GIVEN).section
    assert (section.names, section.token, section.fresh) == (("a", "b"), 7, True)
    assert database.steps == ["begin", "prepare"]
    assert database.fenced() == ["a", "b"]
    assert database.statements[0] == ("SET LOCAL lock_timeout = 1500", {})
    assert database.statements[1][1] == {"resource": "a", "token": 7, "owner": OWNER}


def test_mariadb_gets_names_as_digits_and_whole_seconds() -> None:
    database = Database(MARIADB)
    _fence.enter(database, GIVEN._replace(operation="é"))
    assert database.fenced() == ["61", "62"]
    for ms, seconds in ((1, 1), (1_000, 1), (1_001, 2), (2_000, 2)):
        limited = Database(MARIADB)
        _fence.enter(limited, GIVEN._replace(timeout_ms=ms))
        assert limited.statements[0][0] == f"SET STATEMENT innodb_lock_wait_timeout = {seconds} FOR {MARIADB.fence}"
    assert database.statements[-2][1] == {"operation": "c3a9"}
    assert database.statements[-1] == (MARIADB.mark, {})


@pytest.mark.parametrize("row", [(8, OWNER, 1), (7, "other", 1)], ids=["larger token", "another owner"])
def test_a_row_of_another_lease_is_stale(row: tuple[object, ...], caplog: pytest.LogCaptureFixture) -> None:
    database = Database(MARIADB, (MARIADB.verdict, [(7, OWNER, 1)]), (MARIADB.verdict, [row]))
    with caplog.at_level(logging.WARNING, "redlock"), pytest.raises(Stale) as stale:
        _fence.enter(database, GIVEN)
    assert (stale.value.resource, stale.value.seen) == ("b", row[0])
    assert database.steps == ["begin", "prepare", "rollback"]
    assert caplog.messages == [f"STALE resource=b token=7 seen={row[0]}"]
    assert (MARIADB.verdict, {"resource": "62"}) in database.statements


def test_a_fence_without_a_row_is_stale_by_the_stored_token() -> None:
    database = Database(SQLITE, (SQLITE.fence, []), (SQLITE.seen, [(9,)]))
    with pytest.raises(Stale) as stale:
        _fence.enter(database, GIVEN)
    assert (stale.value.resource, stale.value.token, stale.value.seen) == ("a", 7, 9)
    assert database.statements[-1] == (SQLITE.seen, {"resource": "a"})
    assert database.steps[-1] == "rollback"


@pytest.mark.parametrize(
    ("dialect", "answer", "fresh"),
    [
        (POSTGRESQL, [("x",)], True),
        (POSTGRESQL, [], False),
        (SQLITE, [], False),
        (MARIADB, [], True),
        (MARIADB, DatabaseError("1062"), False),
        (MARIADB, ConnectorError("Duplicate entry"), False),
    ],
)
def test_an_operation_is_fresh_only_at_its_first_time(dialect: Dialect, answer: object, fresh: bool) -> None:
    database = Database(dialect, (dialect.operation, answer))
    assert _fence.enter(database, GIVEN._replace(operation="x")).section.fresh is fresh


@pytest.mark.parametrize("code", sorted(_statements.RETRYABLE))
def test_a_conflict_at_the_fence_is_repeated_three_times(code: str) -> None:
    error = DatabaseError(code)
    database = Database(POSTGRESQL, *[(POSTGRESQL.fence, error)] * 3)
    _fence.enter(database, GIVEN)
    assert database.steps == ["begin", "prepare", "rollback"] * 3 + ["begin", "prepare"]
    database = Database(POSTGRESQL, *[(POSTGRESQL.fence, error)] * 4)
    with pytest.raises(DatabaseError):
        _fence.enter(database, GIVEN)
    assert database.steps == ["begin", "prepare", "rollback"] * 4


def test_conflicts_of_every_database_are_known() -> None:
    assert {"40001", "40P01", "1213", "1020"} == _statements.RETRYABLE


@pytest.mark.parametrize("error", [DatabaseError("99999"), KeyboardInterrupt()])
def test_any_other_error_at_the_fence_rolls_back(error: BaseException) -> None:
    database = Database(POSTGRESQL, (POSTGRESQL.fence, error))
    with pytest.raises(type(error)):
        _fence.enter(database, GIVEN)
    assert database.steps == ["begin", "prepare", "rollback"]


@pytest.mark.parametrize("dialect", [POSTGRESQL, SQLITE, MARIADB])
def test_a_block_confirms_its_transaction_then_commits(dialect: Dialect) -> None:
    database = Database(dialect)
    passed = _fence.enter(database, GIVEN)
    assert database.statements[0][0], "no empty statement, for a database without a time limit"
    marked = [text for text, _ in database.statements].count(dialect.mark)
    assert marked == (0 if dialect is POSTGRESQL else 1)
    passed.leave(None)
    assert database.statements[-1] == (dialect.confirm, {})
    assert database.steps[2:] == ["commit"]


@pytest.mark.parametrize("error", [BODY, GeneratorExit(), KeyboardInterrupt()])
def test_an_error_of_the_body_rolls_back(error: BaseException) -> None:
    database = Database(SQLITE)
    _fence.enter(database, GIVEN).leave(error)
    assert database.steps[2:] == ["rollback"]


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ([(6,)], "^the fenced transaction ended inside the block"),
        (DatabaseError("25P02"), "^a statement failed inside the block"),
        (DatabaseError("3B001"), "^the fenced transaction ended inside the block"),
        (DatabaseError("1305"), "^the fenced transaction ended inside the block"),
    ],
)
def test_another_transaction_than_that_of_the_fence_rolls_back(answer: object, said: str) -> None:
    database = Database(POSTGRESQL, (POSTGRESQL.confirm, answer))
    passed = _fence.enter(database, GIVEN)
    with pytest.raises(ConfigurationError, match=said):
        passed.leave(None)
    assert database.steps[2:] == ["rollback"]


def test_a_transaction_that_the_driver_ended_is_not_committed() -> None:
    database = Database(SQLITE)
    passed = _fence.enter(database, GIVEN)
    database.open = False
    with pytest.raises(ConfigurationError, match="ended inside the block"):
        passed.leave(None)
    assert database.steps[2:] == ["rollback"]


TABLES = (
    "the tables of the fence are missing in this SQLite database, where names without a schema are found; "
    "create them with: CREATE TABLE redlock_fence"
)
CALLS: list[tuple[str, Callable[[Database], object]]] = [
    (SQLITE.fence, lambda database: _fence.enter(database, GIVEN)),
    (SQLITE.purge, lambda database: _fence.purge(database, 1, 1)),
]


@pytest.mark.parametrize(("statement", "call"), CALLS, ids=["fence", "purge"])
@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("42P01", TABLES),
        ("25006", "this SQLite database is read-only; a fenced transaction needs the primary server"),
        ("1568", "a transaction is open; the fence must be the first statement, so commit or roll back first"),
    ],
)
def test_an_error_with_a_remedy_is_explained(
    code: str, said: str, statement: str, call: Callable[[Database], object]
) -> None:
    error = DatabaseError(code)
    database = Database(SQLITE, (statement, error))
    with pytest.raises(ConfigurationError) as explained:
        call(database)
    assert str(explained.value).startswith(said)
    assert explained.value.__cause__ is error
    assert database.steps == ["begin", "prepare", "rollback"]
    assert said != TABLES or str(explained.value).endswith(
        "; ".join(SQLITE.create)[len("CREATE TABLE redlock_fence") :]
    )


@pytest.mark.parametrize("statement", [POSTGRESQL.operation, POSTGRESQL.confirm])
def test_an_error_that_says_nothing_else_is_passed_on(statement: str) -> None:
    database = Database(POSTGRESQL, (statement, DatabaseError("99999")))
    with pytest.raises(DatabaseError):
        _fence.enter(database, GIVEN._replace(operation="x")).leave(None)
    assert database.steps[-1] == "rollback"


def test_a_purge_takes_an_age_and_a_limit_of_one_or_more() -> None:
    database = Database(SQLITE)
    limits: list[Any] = [0, -1, 10**9 + 1, 2**70, 1.0, True, "5", None]
    wrong = [(-1, 50, "older_than is -1")] + [(1, limit, f"limit is {limit!r}; it must be") for limit in limits]
    for age, limit, said in wrong:
        with pytest.raises(ConfigurationError, match=f"^{said}"):
            _fence.purge(database, age, limit)
    assert not database.steps
    _fence.purge(database, 1, 1)
    _fence.purge(database, 1, 10**9)
    assert _fence.WEEK_SECONDS == 604_800


def test_a_section_is_fresh_without_an_operation() -> None:
    assert _fence.FencedSection(("a",), 7).fresh


def test_a_failed_commit_rolls_back(monkeypatch: pytest.MonkeyPatch) -> None:
    database = Database(SQLITE)
    passed = _fence.enter(database, GIVEN)

    def commit(_confirm: Callable[[], None]) -> None:
        raise BODY

    monkeypatch.setattr(database, "commit", commit)
    with pytest.raises(ValueError, match="body"):
        passed.leave(None)
    assert database.steps[2:] == ["rollback"]


@pytest.mark.parametrize(
    ("statement", "call"), [("none", lambda database: _fence.enter(database, GIVEN).leave(None)), *CALLS]
)
def test_an_error_of_the_fence_keeps_no_frame(
    monkeypatch: pytest.MonkeyPatch, statement: str, call: Callable[[Database], object]
) -> None:
    """A frame of the block can keep a cursor, and SQLite a file locked."""
    database = Database(SQLITE, (statement, DatabaseError("42P01")))
    monkeypatch.setattr(database, "commit", lambda _confirm: Broken())
    gc.collect()
    gc.disable()
    try:
        call(database)
    except (Broken, ConfigurationError) as error:
        kept = weakref.ref(error)
    finally:
        gc.enable()
    assert kept() is None


def test_a_purge_has_a_transaction_of_its_own() -> None:
    database = Database(POSTGRESQL)
    _fence.purge(database, 1.2, 50)
    assert database.steps == ["begin", "prepare", "commit"]
    assert database.statements == [(POSTGRESQL.purge, {"seconds": 2, "limit": 50})]
    database = Database(POSTGRESQL, (POSTGRESQL.purge, BODY))
    with pytest.raises(ValueError, match="body"):
        _fence.purge(database, 1.2, 50)
    assert database.steps == ["begin", "prepare", "rollback"]
