"""Fences that look right and lose updates: the conformance kit must find each of them.

They work on SQLAlchemy connections to PostgreSQL. Each docstring describes the fault.
"""

from __future__ import annotations

import contextlib
import hashlib
from typing import TYPE_CHECKING, Any

from sqlalchemy import text

from redlock.errors import Stale
from redlock.fencing._statements import POSTGRESQL, RETRYABLE, code_of
from tests.integration.fence_adapters import NAMES, ConnectionAdapter

if TYPE_CHECKING:
    from collections.abc import Iterator

    from redlock.fencing.conformance import Lease

_INSERT = "INSERT INTO redlock_fence (resource, token, owner, section, at) VALUES (:resource, :token, :owner, 1, now())"


def _parameters(lease: Lease) -> dict[str, Any]:
    return {
        "resource": lease.names[0],
        "token": lease.fence,
        "owner": hashlib.sha256(lease.owner.encode()).hexdigest(),
    }


class Broken(ConnectionAdapter):
    """The common base: a transaction with a fence."""

    levels: tuple[str, ...] = ("READ COMMITTED", "REPEATABLE READ")
    """The isolation levels at which the fault is visible."""

    @contextlib.contextmanager
    def fenced(self, session: Any, lease: Lease) -> Iterator[None]:
        if session.in_transaction():
            session.rollback()
        with session.begin():
            self.fence(session, lease)
            yield

    def fence(self, session: Any, lease: Lease) -> None:
        raise NotImplementedError  # each broken fence has its own

    def upsert(self, session: Any, lease: Lease, statement: str = POSTGRESQL.fence) -> bool:
        return session.execute(text(statement), _parameters(lease)).first() is not None

    def refuse(self, lease: Lease) -> None:
        raise Stale(lease.names[0], lease.fence, lease.fence)


class ChecksOnly(Broken):
    """Compares the token and neither writes nor locks the row in time."""

    levels = ("READ COMMITTED",)

    def fence(self, session: Any, lease: Lease) -> None:
        row = session.execute(text(POSTGRESQL.seen), {"resource": lease.names[0]}).first()
        if row is not None and row[0] > lease.fence:
            self.refuse(lease)

    @contextlib.contextmanager
    def fenced(self, session: Any, lease: Lease) -> Iterator[None]:
        with super().fenced(session, lease):
            yield
            self.upsert(session, lease)


class FencesAtTheEnd(Broken):
    """Raises the token after the body has read."""

    levels = ("READ COMMITTED",)

    @contextlib.contextmanager
    def fenced(self, session: Any, lease: Lease) -> Iterator[None]:
        with session.begin():
            yield
            if not self.upsert(session, lease):
                self.refuse(lease)


class RefusesEqual(Broken):
    """Refuses the second section of the same lease as stale."""

    def fence(self, session: Any, lease: Lease) -> None:
        if not self.upsert(session, lease, POSTGRESQL.fence.split("\n   OR")[0] + "\nRETURNING section"):
            self.refuse(lease)


class IgnoresTheVerdict(Broken):
    """Sends the fence and ignores the answer."""

    def fence(self, session: Any, lease: Lease) -> None:
        self.upsert(session, lease)


class OtherConnection(Broken):
    """Fences on a connection of its own, which is committed at once and locks nothing."""

    levels = ("READ COMMITTED",)

    def fence(self, session: Any, lease: Lease) -> None:
        with self.engine.begin() as connection:
            if not self.upsert(connection, lease):
                self.refuse(lease)


class RolledBackSavepoint(Broken):
    """Fences in a savepoint whose rollback undoes the token and the row lock."""

    levels = ("READ COMMITTED",)

    def fence(self, session: Any, lease: Lease) -> None:
        savepoint = session.begin_nested()
        passed = self.upsert(session, lease)
        savepoint.rollback()
        if not passed:
            self.refuse(lease)


class SelectForUpdate(Broken):
    """Locks the row with SELECT ... FOR UPDATE, and inserts a missing row."""

    def fence(self, session: Any, lease: Lease) -> None:
        row = session.execute(text(POSTGRESQL.seen + " FOR UPDATE"), {"resource": lease.names[0]}).first()
        if row is None:
            session.execute(text(_INSERT), _parameters(lease))
        elif row[0] > lease.fence:
            self.refuse(lease)
        else:
            session.execute(
                text("UPDATE redlock_fence SET token = :token, owner = :owner, at = now() WHERE resource = :resource"),
                _parameters(lease),
            )


class LeavesEqualAlone(Broken):
    """Locks the row without a write if the token is equal, so REPEATABLE READ sees no conflict."""

    levels = ("REPEATABLE READ",)

    def fence(self, session: Any, lease: Lease) -> None:
        row = session.execute(text(POSTGRESQL.seen + " FOR UPDATE"), {"resource": lease.names[0]}).first()
        if (row is None or row[0] != lease.fence) and not self.upsert(session, lease):
            self.refuse(lease)


class LowersTheToken(Broken):
    """Writes the token without a comparison."""

    def fence(self, session: Any, lease: Lease) -> None:
        self.upsert(session, lease, POSTGRESQL.fence.split("\nWHERE")[0] + "\nRETURNING section")


class LooksFirst(Broken):
    """Fences inside a transaction that has read before, and uses the old values."""

    levels = ("READ COMMITTED",)

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


class TakesErrorsForAPass(Broken):
    """Takes a serialization failure at the fence for a pass, and goes on in a new transaction."""

    levels = ("REPEATABLE READ",)

    @contextlib.contextmanager
    def fenced(self, session: Any, lease: Lease) -> Iterator[None]:
        transaction = session.begin()
        try:
            if not self.upsert(session, lease):
                self.refuse(lease)
        except Exception as error:  # the fault under test: a serialization failure is taken for a pass
            transaction.rollback()
            if code_of(error) not in RETRYABLE:
                raise
            transaction = session.begin()
        with transaction:
            yield


class OneStatement(Broken):
    """Fences and reads in one statement: the read has the snapshot from before the wait for the row."""

    levels = ("READ COMMITTED",)

    def fence(self, session: Any, lease: Lease) -> None:
        statement = f"WITH fence AS ({POSTGRESQL.fence}) SELECT value FROM account, fence WHERE name = :name"
        row = session.execute(text(statement), _parameters(lease) | {"name": NAMES[lease.names[0]]}).first()
        if row is None:
            self.refuse(lease)
        session.info["read"] = row[0]

    def read(self, session: Any, resource: str) -> int:
        return int(session.info["read"])


class FoldsNames(Broken):
    """Keeps one row for names that differ in case or in trailing blanks."""

    def fence(self, session: Any, lease: Lease) -> None:
        folded = lease._replace(names=tuple(name.lower().strip() for name in lease.names))
        if not self.upsert(session, folded):
            self.refuse(lease)


ALL: tuple[type[Broken], ...] = (
    ChecksOnly,
    FencesAtTheEnd,
    RefusesEqual,
    IgnoresTheVerdict,
    OtherConnection,
    RolledBackSavepoint,
    SelectForUpdate,
    LeavesEqualAlone,
    LowersTheToken,
    LooksFirst,
    TakesErrorsForAPass,
    OneStatement,
    FoldsNames,
)
