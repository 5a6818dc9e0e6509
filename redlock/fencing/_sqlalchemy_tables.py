"""The tables of the fence for SQLAlchemy's `create_all` and for Alembic.

Invariants:
1. The tables have no schema, as in the statements of the fence: the database finds both in the same place.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import (
    BLANK_SCHEMA,
    DDL,
    BigInteger,
    Column,
    DateTime,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    event,
)
from sqlalchemy.dialects import mysql, postgresql

from redlock.fencing import _statements as sql


def tables(metadata: MetaData) -> tuple[Table, Table]:
    """Add the tables `redlock_fence` and `redlock_operation` to this metadata.

    `metadata.create_all` and Alembic's autogenerate then create them.

    Example:
        >>> from sqlalchemy import MetaData
        >>> metadata = MetaData()
        >>> [table.name for table in tables(metadata)]
        ['redlock_fence', 'redlock_operation']
    """
    name = (
        String(sql.LONGEST_RESOURCE, collation="C")
        .with_variant(Text(), "sqlite")
        .with_variant(mysql.VARBINARY(sql.LONGEST_RESOURCE), "mysql", "mariadb")
    )
    moment = (
        DateTime()
        .with_variant(postgresql.TIMESTAMP(timezone=True), "postgresql")
        .with_variant(Text(), "sqlite")
        .with_variant(mysql.DATETIME(fsp=6), "mysql", "mariadb")
    )
    number = BigInteger().with_variant(Integer(), "sqlite")
    owner = String(64).with_variant(Text(), "sqlite").with_variant(mysql.CHAR(64, charset="ascii"), "mysql", "mariadb")
    identity = (
        String(sql.LONGEST_OPERATION)
        .with_variant(Text(), "sqlite")
        .with_variant(mysql.VARBINARY(4 * sql.LONGEST_OPERATION), "mysql", "mariadb")
    )
    options: Any = {"schema": BLANK_SCHEMA, "mysql_engine": "InnoDB", "mariadb_engine": "InnoDB"}
    fence = Table(
        "redlock_fence",
        metadata,
        Column("resource", name, primary_key=True),
        Column("token", number, nullable=False),
        Column("owner", owner, nullable=False),
        Column("section", number, nullable=False),
        Column("at", moment, nullable=False),
        **options,
    )
    # SQLAlchemy 2.0 has no `postgresql_with` for tables. Half-full pages keep the many updates of a row cheap.
    fill: Any = DDL("ALTER TABLE %(fullname)s SET (fillfactor = 50)")  # type: ignore[no-untyped-call]
    event.listen(fence, "after_create", fill.execute_if(dialect="postgresql"))
    operation = Table(
        "redlock_operation",
        metadata,
        Column("operation_id", identity, primary_key=True),
        Column("at", moment, nullable=False),
        **options,
    )
    Index("redlock_operation_at", operation.c.at)
    return fence, operation
