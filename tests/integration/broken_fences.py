"""Fences that look right and lose updates: the conformance kit must find each of them.

They work on SQLAlchemy connections to PostgreSQL, MariaDB and SQLite. Each docstring describes the fault.
"""

from __future__ import annotations

import contextlib
import hashlib
import threading
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

from sqlalchemy import Engine
from sqlalchemy.exc import DBAPIError

from redlock.errors import Stale
from redlock.fencing._sqlalchemy_connection import dialect_of, run
from redlock.fencing.conformance import Lease, Write
from tests.integration.fence_adapters import NAMES, ConnectionAdapter, SessionAdapter


class Broken(ConnectionAdapter):
    """The common base: a transaction with a fence."""

    def __init__(self, engine: Engine) -> None:
        super().__init__(engine)
        self.dialect = dialect_of(engine)
        self.key = "UNHEX(:resource)" if self.dialect.hex_names else ":resource"
        self.insert = (
            "INSERT INTO redlock_fence (resource, token, owner, section, at) "
            f"VALUES ({self.key}, :token, :owner, 1, CURRENT_TIMESTAMP)"
        )

    @contextlib.contextmanager
    def fenced(self, session: Any, lease: Lease) -> Iterator[None]:
        if session.in_transaction():
            session.rollback()
        with session.begin():
            self.fence(session, lease)
            yield

    def fence(self, session: Any, lease: Lease) -> None:
        """Let every lease pass."""

    def run(self, session: Any, lease: Lease, statement: str) -> Sequence[Sequence[Any]]:
        name = lease.names[0]
        parameters = {
            "resource": name.encode().hex() if self.dialect.hex_names else name,
            "token": lease.fence,
            "owner": self.owner(lease),
            "name": NAMES[name],
        }
        return run(session, statement, {key: value for key, value in parameters.items() if f":{key}" in statement})

    def seen(self, session: Any, lease: Lease, *, lock: bool) -> int | None:
        """The token in the row, if there is a row."""
        rows = self.run(session, lease, self.dialect.seen + self.for_update * lock)
        return int(rows[0][0]) if rows else None

    @property
    def for_update(self) -> str:
        """SQLite has no such clause."""
        return "" if self.dialect.name == "SQLite" else " FOR UPDATE"

    def upsert(self, session: Any, lease: Lease) -> bool:
        """The right statements; whether the fence has passed."""
        rows = self.run(session, lease, self.dialect.fence)
        if self.dialect.verdict:
            (row,) = self.run(session, lease, self.dialect.verdict)
            return (row[0], row[1]) == (lease.fence, self.owner(lease))
        return bool(rows)

    def owner(self, lease: Lease) -> str:
        return hashlib.sha256(lease.owner.encode()).hexdigest()

    def refuse(self, lease: Lease) -> None:
        raise Stale(lease.names[0], lease.fence, lease.fence)


class ChecksOnly(Broken):
    """Compares the token and neither writes nor locks the row in time."""

    def fence(self, session: Any, lease: Lease) -> None:
        seen = self.seen(session, lease, lock=False)
        if seen is not None and seen > lease.fence:
            self.refuse(lease)

    @contextlib.contextmanager
    def fenced(self, session: Any, lease: Lease) -> Iterator[None]:
        with super().fenced(session, lease):
            yield
            self.upsert(session, lease)


class FencesAtTheEnd(Broken):
    """Raises the token after the body has read."""

    @contextlib.contextmanager
    def fenced(self, session: Any, lease: Lease) -> Iterator[None]:
        if session.in_transaction():
            session.rollback()
        with session.begin():
            yield
            if not self.upsert(session, lease):
                self.refuse(lease)


class RefusesEqual(Broken):
    """Refuses the second section of the same lease as stale."""

    def fence(self, session: Any, lease: Lease) -> None:
        seen = self.seen(session, lease, lock=True)
        if (seen is not None and seen >= lease.fence) or not self.upsert(session, lease):
            self.refuse(lease)


class IgnoresTheVerdict(Broken):
    """Sends the fence and ignores the answer."""

    def fence(self, session: Any, lease: Lease) -> None:
        self.upsert(session, lease)


class OtherConnection(Broken):
    """Fences on a connection of its own, which is committed at once and locks nothing."""

    def fence(self, session: Any, lease: Lease) -> None:
        with self.engine.begin() as connection:
            if not self.upsert(connection, lease):
                self.refuse(lease)


class RolledBackSavepoint(Broken):
    """Fences in a savepoint whose rollback undoes the token and the row lock."""

    def fence(self, session: Any, lease: Lease) -> None:
        savepoint = session.begin_nested()
        passed = self.upsert(session, lease)
        savepoint.rollback()
        if not passed:
            self.refuse(lease)


class SelectForUpdate(Broken):
    """Locks the row with SELECT ... FOR UPDATE, and inserts a missing row: two holders may both find none."""

    for_update = " FOR UPDATE"

    def reset(self) -> None:
        super().reset()
        self.both = threading.Barrier(2)

    def fence(self, session: Any, lease: Lease) -> None:
        seen = self.seen(session, lease, lock=True)
        if seen is None:
            with contextlib.suppress(threading.BrokenBarrierError):
                self.both.wait(1.0)
            self.run(session, lease, self.insert)
        elif seen > lease.fence or not self.upsert(session, lease):
            self.refuse(lease)


class LeavesEqualAlone(Broken):
    """Locks the row, and writes nothing if it has this token and owner already."""

    def fence(self, session: Any, lease: Lease) -> None:
        statement = f"SELECT owner FROM redlock_fence WHERE resource = {self.key} AND token = :token{self.for_update}"
        rows = self.run(session, lease, statement)
        if (not rows or rows[0][0] != self.owner(lease)) and not self.upsert(session, lease):
            self.refuse(lease)


class LowersTheToken(Broken):
    """Writes the token without a comparison."""

    def fence(self, session: Any, lease: Lease) -> None:
        if self.dialect.verdict:
            end = " ON DUPLICATE KEY UPDATE token = :token, owner = :owner, at = CURRENT_TIMESTAMP"
            self.run(session, lease, self.insert + end)
        else:
            self.run(session, lease, self.dialect.fence.split("\nWHERE")[0])


class LooksFirst(Broken):
    """Fences inside a transaction that has read before, and uses the old values."""

    def look(self, session: Any, resource: str) -> None:
        session.info["looked"] = super().read(session, resource)

    def read(self, session: Any, resource: str) -> int:
        looked = session.info.pop("looked", None)
        return super().read(session, resource) if looked is None else int(looked)

    @contextlib.contextmanager
    def fenced(self, session: Any, lease: Lease) -> Iterator[None]:
        try:
            if not self.upsert(session, lease):
                self.refuse(lease)
            yield
        except BaseException:
            session.rollback()
            raise
        session.commit()


class LooksByAPlainSelect(Broken):
    """Checks by a plain SELECT before the fence, and reads afterwards."""

    def fence(self, session: Any, lease: Lease) -> None:
        seen = self.seen(session, lease, lock=False)
        if (seen is not None and seen > lease.fence) or not self.upsert(session, lease):
            self.refuse(lease)


class TakesErrorsForAPass(Broken):
    """Takes an error at the fence, such as the end of the wait, for a pass, and goes on in a new transaction."""

    impatience: ClassVar = {
        "PostgreSQL": "SET lock_timeout = 1",
        "MariaDB": "SET SESSION innodb_lock_wait_timeout = 0",
        "MySQL": "SET SESSION innodb_lock_wait_timeout = 1",
        "SQLite": "PRAGMA busy_timeout = 0",
    }

    @contextlib.contextmanager
    def fenced(self, session: Any, lease: Lease) -> Iterator[None]:
        if session.in_transaction():
            session.rollback()
        session.exec_driver_sql(self.impatience[self.dialect.name])
        session.commit()
        transaction = session.begin()
        try:
            if not self.upsert(session, lease):
                self.refuse(lease)
        except DBAPIError:
            transaction.rollback()
            transaction = session.begin()
        with transaction:
            yield

    def close(self, session: Any) -> None:
        session.invalidate()  # its setting must not return to the pool
        session.close()


class OneStatement(Broken):
    """Fences and reads in one statement: the read has the snapshot from before the wait for the row."""

    def fence(self, session: Any, lease: Lease) -> None:
        value = "(SELECT value FROM account WHERE name = :name)"
        if self.dialect.name in {"MariaDB", "MySQL"}:
            # Their upsert returns no rows, so the statement that reads is the locking SELECT.
            locking = f"SELECT {value} FROM redlock_fence WHERE resource = {self.key} FOR UPDATE"
            rows = self.run(session, lease, locking) or self.run(session, lease, f"SELECT {value}")
            passed = self.upsert(session, lease)
        else:
            fence = self.dialect.fence
            one = f"WITH fence AS ({fence}) SELECT {value} FROM fence" if "txid" in fence else f"{fence}, {value}"
            rows = self.run(session, lease, one)
            passed = bool(rows)
        if not passed:
            self.refuse(lease)
        session.info["read"] = rows[0][-1]

    def look(self, session: Any, resource: str) -> None:
        super().read(session, resource)

    def read(self, session: Any, resource: str) -> int:
        return int(session.info["read"])

    def write(self, session: Any, write: Write, value: int) -> None:
        SessionAdapter.write(self, session, write, value)


class FoldsNames(Broken):
    """Keeps one row for names that differ in case or in trailing blanks."""

    def fence(self, session: Any, lease: Lease) -> None:
        folded = lease._replace(names=tuple(name.lower().strip() for name in lease.names))
        if not self.upsert(session, folded):
            self.refuse(lease)
