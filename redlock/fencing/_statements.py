"""The SQL of the fence: tables, statements and error codes for PostgreSQL, MariaDB, MySQL and SQLite.

Invariants:
1. A row for each resource holds the largest token. The fence statement writes the row in every case in which it passes,
   so the row stays locked until the transaction ends.
2. A smaller token never passes after a larger one was committed. An equal token passes only for the same lease.
3. The verdict is read from the returned row, never from a row count: drivers count updated rows differently.
4. Parameters are written `:name`; `pyformat` translates them for a driver.
5. The transaction that commits is the one that passed the fence: `mark` and `confirm` find a commit, a rollback and a
   failed statement in between.
"""

from __future__ import annotations

import dataclasses
import re

from redlock.errors import ConfigurationError

LONGEST_RESOURCE = 1_024
"""Bytes of a resource name."""

LONGEST_OPERATION = 255
"""Characters of an operation id."""

_PARAMETER = re.compile(r"(?<!:):([a-z_]+)")


@dataclasses.dataclass(frozen=True)
class Dialect:
    """The statements for one database.

    Attributes:
        name: The name of the database, for messages.
        create: The statements that create the two tables.
        fence: Raises the token; parameters `resource`, `token`, `owner`.
        verdict: Reads the row back where `fence` returns nothing: the fence passed if token and owner are ours.
            Empty where `fence` returns the section of a pass, and no row otherwise.
        seen: Reads the largest token; parameter `resource`.
        operation: Records an operation id, and returns a new id; parameter `operation`.
        confirm: Sent before the commit. If the transaction that passed the fence is over, this statement fails, or
            returns another value than the last column of `fence`.
        mark: Sent after the fence, where `confirm` needs it.
        before_begin: Sent before the transaction begins.
        lock_timeout: Limits how long the fence waits for the row; `{ms}` and `{seconds}` are replaced.
        purge: Deletes old operation ids; parameters `seconds`, `limit`.
        hex_names: True if names and operation ids are passed as the hexadecimal digits of their UTF-8 bytes. Then
            neither a collation nor the character set of the connection changes them.
    """

    name: str
    create: tuple[str, ...]
    fence: str
    seen: str
    operation: str
    purge: str
    confirm: str
    verdict: str = ""
    mark: str = ""
    before_begin: str = ""
    lock_timeout: str = ""
    hex_names: bool = False


_UPSERT = """\
INSERT INTO redlock_fence (resource, token, owner, section, at) VALUES (:resource, :token, :owner, 1, CURRENT_TIMESTAMP)
ON CONFLICT (resource) DO UPDATE SET token = excluded.token, owner = excluded.owner,
  section = redlock_fence.section + 1, at = excluded.at
WHERE redlock_fence.token < excluded.token
   OR (redlock_fence.token = excluded.token AND redlock_fence.owner = excluded.owner)
RETURNING section"""

_OPERATION = """\
INSERT INTO redlock_operation (operation_id, at) VALUES (:operation, CURRENT_TIMESTAMP)
ON CONFLICT (operation_id) DO NOTHING RETURNING operation_id"""

_SEEN = "SELECT token FROM redlock_fence WHERE resource = :resource"

_MARK = "SAVEPOINT redlock_fence"
_CONFIRM = "RELEASE SAVEPOINT redlock_fence"

POSTGRESQL = Dialect(
    name="PostgreSQL",
    create=(
        (
            'CREATE TABLE redlock_fence (resource varchar(1024) COLLATE "C" PRIMARY KEY, token bigint NOT NULL, '
            "owner varchar(64) NOT NULL, section bigint NOT NULL, at timestamptz NOT NULL) WITH (fillfactor = 50)"
        ),
        "CREATE TABLE redlock_operation (operation_id varchar(255) PRIMARY KEY, at timestamptz NOT NULL)",
        "CREATE INDEX redlock_operation_at ON redlock_operation (at)",
    ),
    # The id of the transaction costs a request less than a savepoint.
    fence=_UPSERT + ", txid_current()",
    seen=_SEEN,
    operation=_OPERATION,
    confirm="SELECT txid_current_if_assigned()",
    lock_timeout="SET LOCAL lock_timeout = {ms}",
    purge="""\
DELETE FROM redlock_operation WHERE operation_id IN (
  SELECT operation_id FROM redlock_operation
  WHERE at < CURRENT_TIMESTAMP - make_interval(secs => :seconds) LIMIT :limit)""",
)

SQLITE = Dialect(
    name="SQLite",
    create=(
        (
            "CREATE TABLE redlock_fence (resource text PRIMARY KEY, token integer NOT NULL, owner text NOT NULL, "
            "section integer NOT NULL, at text NOT NULL) WITHOUT ROWID"
        ),
        "CREATE TABLE redlock_operation (operation_id text PRIMARY KEY, at text NOT NULL) WITHOUT ROWID",
        "CREATE INDEX redlock_operation_at ON redlock_operation (at)",
    ),
    fence=_UPSERT,
    seen=_SEEN,
    operation=_OPERATION,
    mark=_MARK,
    confirm=_CONFIRM,
    purge="""\
DELETE FROM redlock_operation WHERE operation_id IN (
  SELECT operation_id FROM redlock_operation WHERE at < datetime('now', '-' || :seconds || ' seconds') LIMIT :limit)""",
)

MARIADB = Dialect(
    name="MariaDB",
    create=(
        (
            "CREATE TABLE redlock_fence (resource varbinary(1024) PRIMARY KEY, token bigint NOT NULL, "
            "owner char(64) CHARACTER SET ascii NOT NULL, section bigint NOT NULL, at datetime(6) NOT NULL) "
            "ENGINE=InnoDB"
        ),
        (
            # Not a varchar: even the binary collations ignore blanks at the end.
            "CREATE TABLE redlock_operation (operation_id varbinary(1020) PRIMARY KEY, "
            "at datetime(6) NOT NULL, INDEX redlock_operation_at (at)) ENGINE=InnoDB"
        ),
    ),
    # MySQL assigns from left to right, so `token` comes last: the lines above it compare with the old token.
    fence="""\
INSERT INTO redlock_fence (resource, token, owner, section, at)
VALUES (UNHEX(:resource), :token, :owner, 1, UTC_TIMESTAMP(6))
ON DUPLICATE KEY UPDATE owner = IF(token < :token, :owner, owner), at = UTC_TIMESTAMP(6),
  section = section + (token < :token OR (token = :token AND owner = :owner)), token = GREATEST(token, :token)""",
    # Without FOR UPDATE this would read the snapshot at REPEATABLE READ.
    verdict="SELECT token, owner, section FROM redlock_fence WHERE resource = UNHEX(:resource) FOR UPDATE",
    seen="SELECT token FROM redlock_fence WHERE resource = UNHEX(:resource)",
    operation="INSERT INTO redlock_operation (operation_id, at) VALUES (UNHEX(:operation), UTC_TIMESTAMP(6))",
    mark=_MARK,
    # Also after a deadlock and after DDL, which end the transaction on MySQL without a word.
    confirm=_CONFIRM,
    # At REPEATABLE READ a plain SELECT of the body could read a snapshot from before the fence.
    before_begin="SET TRANSACTION ISOLATION LEVEL READ COMMITTED",
    lock_timeout="SET STATEMENT innodb_lock_wait_timeout = {seconds} FOR ",
    purge="""\
DELETE FROM redlock_operation WHERE at < UTC_TIMESTAMP(6) - INTERVAL :seconds SECOND ORDER BY at LIMIT :limit""",
    hex_names=True,
)

MYSQL = dataclasses.replace(MARIADB, name="MySQL", lock_timeout="")
"""As MariaDB, but a statement cannot have a lock timeout of its own."""

DIALECTS = {"postgresql": POSTGRESQL, "sqlite": SQLITE, "mariadb": MARIADB, "mysql": MYSQL}


def dialect_for(database: str) -> Dialect:
    """The statements for this database, by its name in `DIALECTS`.

    Raises:
        ConfigurationError: There is no fence for this database.
    """
    if database not in DIALECTS:
        known = ", ".join(sorted(DIALECTS))
        raise ConfigurationError(f"there is no fence for the database {database!r:.40}; there is one for {known}")
    return DIALECTS[database]


RETRYABLE = frozenset({"40001", "40P01", "1213", "1020"})
"""Serialization failures and deadlocks: SQLSTATE of PostgreSQL, error numbers of MariaDB."""

MISSING_TABLE = frozenset({"42P01", "1146"})
READ_ONLY = frozenset({"25006", "1290", "1792", "1836"})
DUPLICATE_KEY = frozenset({"1062"})
TRANSACTION_OPEN = frozenset({"1568"})
TRANSACTION_ENDED = frozenset({"1305", "3B001"})
TRANSACTION_ABORTED = frozenset({"25P02"})

_SQLITE_TEXT = {"no such table": "42P01", "readonly database": "25006", "no such savepoint": "3B001"}


def code_of(error: BaseException) -> str:
    """The error number of a MySQL driver, or the SQLSTATE of another one; empty if the error has neither."""
    original = getattr(error, "orig", None) or error.__cause__ or error
    for found in (original, error):
        first = found.args[0] if found.args else None
        # The number comes first: the drivers of MySQL have a SQLSTATE as well, which says less.
        number = getattr(found, "errno", first)
        if isinstance(number, int) and not isinstance(number, bool):
            return str(number)
        detail = first.get("C") if isinstance(first, dict) else None  # pg8000
        state = getattr(found, "sqlstate", None) or getattr(found, "pgcode", None) or detail
        if state:
            return str(state)
    return next((code for text, code in _SQLITE_TEXT.items() if text in str(error)), "")


def pyformat(statement: str) -> str:
    """The statement with `%(name)s` for drivers such as psycopg."""
    return _PARAMETER.sub(r"%(\1)s", statement)
