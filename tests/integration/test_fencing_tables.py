"""The tables of the fence: `create_all`, Alembic and the documented SQL make the same ones on each database."""

from __future__ import annotations

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Engine, MetaData, create_engine, text
from sqlalchemy.sql.schema import SchemaItem

from redlock.fencing.conformance import Lease
from redlock.fencing.sql import add_tables, create_statements, fenced
from tests.integration.fence_adapters import assert_refused
from tests.integration.shell import run_python


def differences(engine: Engine) -> list[str]:
    """The changes of Alembic's autogenerate to the tables of the fence."""
    metadata = MetaData()
    add_tables(metadata)

    def ours(_item: SchemaItem, name: str | None, kind: str, *_: object) -> bool:
        return kind != "table" or str(name).startswith("redlock_")

    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True, "include_object": ours})
        return [str(change) for change in compare_metadata(context, metadata)]


def fill_factor(engine: Engine) -> str:
    """The storage options of the fence table; empty where the database has none."""
    if engine.dialect.name != "postgresql":
        return ""
    with engine.connect() as connection:
        return str(connection.scalar(text("SELECT reloptions::text FROM pg_class WHERE relname = 'redlock_fence'")))


def test_alembic_finds_no_difference_to_the_documented_sql(engine: Engine) -> None:
    assert differences(engine) == [], "create_all has made the tables"
    assert fill_factor(engine) in ("", "{fillfactor=50}")
    with engine.begin() as connection:
        connection.execute(text("DROP TABLE redlock_fence"))
        connection.execute(text("DROP TABLE redlock_operation"))
    assert len(differences(engine)) >= 2, "autogenerate creates what is missing"
    with engine.begin() as connection:
        for statement in create_statements("mariadb" if engine.dialect.name == "mysql" else engine.dialect.name):
            connection.execute(text(statement))
    assert differences(engine) == []


def test_a_schema_of_the_metadata_does_not_move_the_tables(engine: Engine) -> None:
    """The statements of the fence name no schema, so they would not find the tables there."""
    with engine.begin() as connection:
        connection.execute(text("DROP TABLE redlock_fence"))
        connection.execute(text("DROP TABLE redlock_operation"))
    metadata = MetaData(schema="elsewhere")
    assert [table.fullname for table in add_tables(metadata)] == ["redlock_fence", "redlock_operation"]
    metadata.create_all(engine)
    with engine.connect() as connection, fenced(connection, Lease(7, "me"), operation="op") as section:
        assert section.fresh
    assert differences(engine) == []


@pytest.mark.parametrize("database", ["postgresql"], indirect=True)
def test_the_search_path_decides_where_the_tables_are(database: str) -> None:
    made = create_engine(database, connect_args={"options": "-c search_path=tenant"})
    with made.begin() as connection:
        connection.execute(text("CREATE SCHEMA IF NOT EXISTS tenant"))
    with made.connect() as connection:
        assert_refused(connection, Lease(7, "me"), "where names without a schema are found")
        metadata = MetaData(schema="tenant")
        add_tables(metadata)
        metadata.create_all(made)
        with fenced(connection, Lease(7, "me")):
            pass
        assert connection.scalar(text("SELECT token FROM tenant.redlock_fence")) == 7
        connection.execute(text("DROP SCHEMA tenant CASCADE"))
        connection.commit()
    made.dispose()


@pytest.mark.parametrize(
    ("modules", "besides"),
    [
        ("redlock, redlock.fencing, redlock.fencing.sql, redlock.fencing.conformance", []),
        # kombu imports a part of Django where Django is installed.
        ("redlock.celery, redlock.cli.main", ["django"]),
    ],
)
def test_importing_redlock_imports_no_database_package(modules: str, besides: list[str]) -> None:
    packages = {"aiomysql", "alembic", "asyncpg", "django", "MySQLdb", "psycopg", "pymysql", "sqlalchemy", "sqlite3"}
    code = f"import sys, {modules}; print(sorted({packages} & {{name.partition('.')[0] for name in sys.modules}}))"
    assert run_python("-c", code, check=True).stdout.strip() == str(besides)
