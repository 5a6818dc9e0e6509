"""`redlock doctor --database URL`: each fault of the database with the fence is found, and a good database is fine."""

from __future__ import annotations

import contextlib
import json
import socket
import sqlite3
import struct
import tempfile
import threading
import time
import traceback
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from sqlalchemy import Engine, create_engine, text

from redlock import ConfigurationError
from redlock.admin import database_check
from redlock.admin.diagnostics import Finding, Level
from redlock.cli import main
from redlock.testing.redis_server import Cluster
from tests.integration.fence_adapters import ASYNC_DRIVERS, Base, postgresql_url
from tests.integration.shell import run_python
from tests.integration.tools import CANARY

SHORT = {
    "postgresql": ("ALTER ROLE postgres SET idle_in_transaction_session_timeout = '5s'",),
    "mariadb": ("SET GLOBAL idle_transaction_timeout = 5",),
    "mysql": ("SET GLOBAL wait_timeout = 5",),
    "sqlite": (),
}
DEFAULT = {
    "postgresql": ("ALTER ROLE postgres RESET ALL",),
    "mariadb": ("SET GLOBAL idle_transaction_timeout = 0", "SET GLOBAL read_only = OFF"),
    "mysql": ("SET GLOBAL wait_timeout = DEFAULT", "SET GLOBAL read_only = OFF"),
    "sqlite": (),
}


@pytest.fixture
def short(engine: Engine) -> Iterator[Engine]:
    """A database whose idle transactions end after a TTL, as the documentation recommends."""
    send(engine, *SHORT[engine.dialect.name])
    yield engine
    send(engine, *DEFAULT[engine.dialect.name])


def send(engine: Engine, *statements: str) -> None:
    with engine.begin() as connection:
        for statement in statements:
            connection.execute(text(statement))


def url_of(engine: Engine) -> str:
    return engine.url.render_as_string(hide_password=False)


def found(url: str) -> dict[str, Level]:
    """The codes of the findings with their levels; a finding that is fine is left out."""
    findings = database_check.check(url, ttl=5.0, timeout=5.0)
    assert CANARY not in " ".join(map(str, findings))
    return {finding.code: finding.level for finding in findings if finding.level is not Level.FINE}


def test_a_good_database_is_fine(short: Engine) -> None:
    (finding,) = database_check.check(url_of(short), ttl=5.0, timeout=5.0)
    assert finding.level is Level.FINE
    assert "has the tables of the fence" in finding.what


def test_missing_tables_are_named_with_their_statements(short: Engine) -> None:
    Base.metadata.drop_all(short)
    (finding,) = database_check.check(url_of(short), ttl=5.0, timeout=5.0)
    assert finding.code == "tables"
    assert "CREATE TABLE redlock_fence" in finding.fix


def test_a_token_far_ahead_is_found(short: Engine) -> None:
    token = time.time_ns() // 1_000 + 2 * 3_600_000_000
    send(short, f"INSERT INTO redlock_fence VALUES ('x', {token}, 'o', 1, CURRENT_TIMESTAMP)")  # noqa: S608 - a number
    assert found(url_of(short)) == {"token-ahead": Level.WARNING}


@pytest.mark.parametrize("database", ["postgresql", "mariadb"], indirect=True)
def test_a_database_without_an_idle_timeout_is_found(engine: Engine) -> None:
    assert found(url_of(engine)) == {"timeout": Level.WARNING}


@pytest.mark.parametrize("database", ["postgresql"], indirect=True)
def test_an_unlogged_table_is_unsafe(short: Engine) -> None:
    send(short, "ALTER TABLE redlock_fence SET UNLOGGED")
    assert found(url_of(short)) == {"unlogged": Level.UNSAFE}


@pytest.mark.parametrize("database", ["mariadb"], indirect=True)
def test_a_table_without_transactions_is_unsafe(short: Engine) -> None:
    send(short, "ALTER TABLE redlock_fence ENGINE = MyISAM, MODIFY resource varbinary(900)")
    assert found(url_of(short)) == {"engine": Level.UNSAFE}


@pytest.mark.parametrize(
    ("database", "statement"),
    [
        ("postgresql", "ALTER ROLE postgres SET default_transaction_read_only = on"),
        ("mariadb", "SET GLOBAL read_only = ON"),
    ],
    indirect=["database"],
)
def test_a_read_only_database_is_found(short: Engine, statement: str) -> None:
    send(short, statement)
    try:
        assert found(url_of(short)) == {"read-only": Level.WARNING}
    finally:
        if short.dialect.name == "postgresql":
            send(short, "SET TRANSACTION READ WRITE", "ALTER ROLE postgres RESET default_transaction_read_only")


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
def test_a_file_that_takes_no_writes_is_found(short: Engine) -> None:
    assert found(f"sqlite:///file:{short.url.database}?mode=ro&uri=true") == {"read-only": Level.WARNING}
    with short.connect() as connection:
        connection.exec_driver_sql("BEGIN IMMEDIATE")
        assert found(url_of(short)) == {}, "another connection writes"


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
def test_others_may_write_while_the_doctor_asks_on(short: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    queries = database_check._tables

    def after_a_write(connection: object, database: database_check._Database) -> Iterator[Finding]:
        send(short, "INSERT INTO redlock_operation VALUES ('', '')")  # the doctor has left no such row
        return queries(connection, database)

    monkeypatch.setattr(database_check, "_tables", after_a_write)
    assert found(url_of(short)) == {}


def test_a_folder_that_takes_no_journal_is_found() -> None:
    """The file itself takes writes. The first check loads the modules, which another user than root may not read."""
    checks = (
        "import os, sys; from redlock.admin.database_check import check\n"
        "codes = lambda: [each.code for each in check(f'sqlite:///{sys.argv[1]}', ttl=5.0, timeout=5.0)]\n"
        "codes(); os.geteuid() or os.setgroups([]) or os.setuid(65_534); print(*codes())"
    )
    with tempfile.TemporaryDirectory() as folder:  # no other user can enter that of pytest
        path = Path(folder, "shop.db")
        Base.metadata.create_all(file := create_engine(f"sqlite:///{path}"))
        file.dispose()
        path.chmod(0o666)
        path.parent.chmod(0o555)
        assert run_python("-c", checks, str(path), check=True).stdout.split() == ["read-only"]


@pytest.mark.parametrize("database", ["postgresql", "mariadb"], indirect=True)
@pytest.mark.parametrize(
    ("fence", "operation"),
    [("SELECT", "SELECT"), ("SELECT, INSERT, UPDATE", "SELECT, INSERT"), ("INSERT", "SELECT, INSERT, DELETE")],
)
def test_a_user_without_privileges_is_found(short: Engine, fence: str, operation: str) -> None:
    is_postgresql = short.dialect.name == "postgresql"
    url = short.url.set(username="app").render_as_string(hide_password=False)
    user, create = ("app", "CREATE ROLE app LOGIN") if is_postgresql else ("app@localhost", "CREATE USER app@localhost")
    send(
        short, create, f"GRANT {fence} ON redlock_fence TO {user}", f"GRANT {operation} ON redlock_operation TO {user}"
    )
    if is_postgresql:
        send(short, "ALTER ROLE app SET idle_in_transaction_session_timeout = '5s'")
    try:
        assert found(url) == {"privileges": Level.WARNING}
        send(short, f"GRANT SELECT, INSERT, UPDATE ON redlock_fence TO {user}")
        send(short, f"GRANT SELECT, INSERT, DELETE ON redlock_operation TO {user}")
        assert found(url) == {}
    finally:
        send(short, *["DROP OWNED BY app"] * is_postgresql, f"DROP {'ROLE' if is_postgresql else 'USER'} {user}")


@contextlib.contextmanager
def locked_by_another(engine: Engine) -> Iterator[None]:
    """Another connection holds the table of the fence, as an ALTER TABLE or a VACUUM FULL does."""
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        begin, end = {
            "postgresql": ("BEGIN; LOCK TABLE redlock_fence IN ACCESS EXCLUSIVE MODE", "ROLLBACK"),
            "mysql": ("LOCK TABLES redlock_fence WRITE", "UNLOCK TABLES"),
            "mariadb": ("LOCK TABLES redlock_fence WRITE", "UNLOCK TABLES"),
        }[engine.dialect.name]
        connection.exec_driver_sql(begin)
        try:
            yield
        finally:
            connection.exec_driver_sql(end)


@pytest.mark.parametrize("database", ["postgresql", "mariadb"], indirect=True)
def test_a_table_that_another_connection_locks_is_found(engine: Engine) -> None:
    """The findings from before the silence stay."""
    driver = ASYNC_DRIVERS[engine.dialect.name]
    with locked_by_another(engine):
        for url in (url_of(engine), url_of(engine).replace(f"+{engine.dialect.driver}", f"+{driver}")):
            first, silent = database_check.check(url, ttl=5.0, timeout=1.0)
            assert (first.code, silent.code) == ("timeout", "no-answer")
            assert "a table of the fence is large or locked" in silent.what
    assert found(url_of(engine)) == {"timeout": Level.WARNING}


@pytest.mark.parametrize("driver", ["pysqlite", "aiosqlite"])
@pytest.mark.parametrize("form", ["{}/the data", "file:{}/the%20data?uri=true", "file://{}/the%20data?mode=ro&uri=1"])
def test_a_file_that_another_connection_locks_is_found(form: str, driver: str, tmp_path: Path) -> None:
    with contextlib.closing(sqlite3.connect(tmp_path / "the data", isolation_level=None)) as connection:
        connection.execute("CREATE TABLE redlock_fence (token)")
        connection.execute("BEGIN EXCLUSIVE")
        (finding,) = database_check.check(f"sqlite+{driver}:///{form.format(tmp_path)}", ttl=5.0, timeout=1.0)
    assert finding.code == "no-answer"


@pytest.mark.parametrize("driver", ["psycopg", "asyncpg"])
def test_a_database_that_is_silent_after_the_login_is_found(driver: str) -> None:
    """As behind a proxy: no driver for threads has a limit on an answer, and the server ends no statement."""
    with socket.create_server(("127.0.0.1", 0)) as server, ThreadPoolExecutor(1) as pool:

        def log_in() -> None:
            with server.accept()[0] as client:
                client.recv(1_000)
                version = b"server_version\x0017.0\0"
                status = b"S" + struct.pack(">I", len(version) + 4) + version
                client.sendall(b"R\0\0\0\x08\0\0\0\0" + status + b"Z\0\0\0\x05I")
                ended.wait()

        ended = threading.Event()
        logged_in = pool.submit(log_in)
        off = "sslmode" if driver == "psycopg" else "ssl"
        url = f"postgresql+{driver}://user:{CANARY}@127.0.0.1:{server.getsockname()[1]}/shop?{off}=disable"
        try:
            (finding,) = database_check.check(url, ttl=5.0, timeout=0.2)
        finally:
            ended.set()
        logged_in.result()
    assert (finding.code, finding.level) == ("no-answer", Level.WARNING)


@pytest.mark.parametrize("database", ["postgresql", "mariadb"], indirect=True)
def test_an_asynchronous_driver_works(short: Engine) -> None:
    driver = ASYNC_DRIVERS[short.dialect.name]
    assert found(url_of(short).replace(f"+{short.dialect.driver}", f"+{driver}")) == {}


@pytest.mark.parametrize(
    ("url", "code"),
    [
        (f"postgresql+psycopg://user:{CANARY}@127.0.0.1:1/shop", "unreachable"),
        (f"postgresql+asyncpg://user:{CANARY}@127.0.0.1:1/shop", "unreachable"),
        (f"mariadb+pymysql://user:{CANARY}@127.0.0.1:1/shop", "unreachable"),
        ("sqlite:////nowhere/shop.db", "unreachable"),
        ("sqlite:///file://[/shop.db?uri=true", "unreachable"),
        (f"postgresql+nothing://user:{CANARY}@127.0.0.1/shop", "not-checked"),
    ],
)
def test_a_database_that_does_not_answer_is_a_warning(url: str, code: str) -> None:
    assert found(url) == {code: Level.WARNING}


@pytest.mark.parametrize(
    ("url", "words"),
    [
        (f"user:{CANARY}@host", "cannot be read"),
        (f"oracle://user:{CANARY}@host", "no fence for"),
        (f"postgresql+psycopg://user:a@{CANARY}@127.0.0.1:1/shop", "cannot be read"),
        (f"postgresql+psycopg://user:a@{CANARY}/b@127.0.0.1:1/shop", "cannot be read"),
        (f"postgresql+psycopg://user:a@{CANARY}?b@127.0.0.1:1/shop", "cannot be read"),
        (f"postgresql+psycopg://user:a@host:1/{CANARY}@127.0.0.1:1/shop", "%40 for @"),
        (f"mariadb+pymysql://user:{CANARY}@127.0.0.1:1/shop?charset=nonsense", "cannot be used"),
        (f"mariadb+pymysql://user@127.0.0.1:1/shop?read_timeout={CANARY}", "an option in the address"),
        (f"mariadb+pymysql://user@127.0.0.1:1/shop?nonsense={CANARY}", "an option in the address"),
    ],
)
def test_an_invalid_address_is_refused(url: str, words: str) -> None:
    with pytest.raises(ConfigurationError, match=words) as caught:
        database_check.check(url, ttl=5.0, timeout=1.0)
    assert CANARY not in "".join(traceback.format_exception(caught.value))


def test_the_command_checks_the_database(
    nodes: Cluster, pg_address: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    engine = create_engine(postgresql_url(pg_address))
    Base.metadata.create_all(engine)
    engine.dispose()
    options = ["doctor", "--nodes", ",".join(nodes.urls), "--timeout", "5", "--json"]
    assert main.main([*options, "--database", postgresql_url(pg_address)]) == 1
    codes = [finding["code"] for finding in json.loads(capsys.readouterr().out)["findings"]]
    assert codes[0] == "timeout"
    monkeypatch.delenv("DATABASE_URL", raising=False)
    assert main.main([*options, "--database"]) == 2
    assert "DATABASE_URL" in capsys.readouterr().err
    monkeypatch.setenv("DATABASE_URL", postgresql_url(pg_address))
    assert main.main([*options, "--database"]) == 1
    assert "idle_in_transaction_session_timeout" in capsys.readouterr().out
