"""Transfers between accounts in PostgreSQL with SQLAlchemy: two locks, one fenced transaction, each transfer once.

Rules of this file:
1. Both accounts are locked at once, so two transfers in opposite directions cannot wait for each other.
2. The fence is the first statement of the transaction, and both balances are read after the fence.
3. The task id is the operation id, so a second delivery of the task changes nothing and gives the same answer.
"""

from __future__ import annotations

import functools
import os
from typing import TYPE_CHECKING

from celery import Celery
from patient import PatientTask  # type: ignore[import-not-found]  # beside this file
from sqlalchemy import CheckConstraint, Engine, create_engine
from sqlalchemy.exc import InternalError, OperationalError
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from redlock import LockLost
from redlock.celery import current_lease, locked
from redlock.fencing.sql import add_tables, fenced

if TYPE_CHECKING:
    from celery import Task

IDLE_MS = os.environ.get("TRANSFERS_IDLE_MS", "5000")
"""About the TTL of the lock: then PostgreSQL ends the transaction of a frozen worker, and the next worker goes on."""

app = Celery("transfers", task_cls=PatientTask)
app.config_from_object("celeryconfig")


class Base(DeclarativeBase):
    """The tables."""


class Account(Base):
    """An account, which is never overdrawn."""

    __tablename__ = "account"
    name: Mapped[str] = mapped_column(primary_key=True)
    balance: Mapped[int]
    __table_args__ = (CheckConstraint("balance >= 0"),)


class Transfer(Base):
    """A transfer that was made."""

    __tablename__ = "transfer"
    number: Mapped[int] = mapped_column(primary_key=True)
    task: Mapped[str] = mapped_column(index=True)
    source: Mapped[str]
    target: Mapped[str]
    amount: Mapped[int]


add_tables(Base.metadata)


@functools.cache
def engine() -> Engine:
    """The database of the variables PGHOST, PGDATABASE, ...; each worker process has an engine of its own."""
    options = f"-c idle_in_transaction_session_timeout={IDLE_MS}"
    return create_engine("postgresql+psycopg://", connect_args={"options": options}, pool_pre_ping=True)


# PostgreSQL ends the transaction of a frozen worker with an InternalError or an OperationalError.
@app.task(bind=True, autoretry_for=(OperationalError, InternalError, LockLost))
@locked(["account:{source}", "account:{target}"])
def transfer(self: Task, source: str, target: str, amount: int) -> str:
    """Move an amount; returns "paid" or "refused"."""
    if amount <= 0 or source == target:
        raise ValueError(f"{amount} from {source} to {target} is no transfer")
    task = self.request.id
    with Session(engine()) as session, fenced(session, current_lease(), operation=task) as section:
        if not section.fresh:
            return "paid" if session.query(Transfer).filter_by(task=task).count() else "refused"
        payer, payee = session.get_one(Account, source), session.get_one(Account, target)
        if payer.balance < amount:
            return "refused"
        payer.balance -= amount
        payee.balance += amount
        session.add(Transfer(task=task, source=source, target=target, amount=amount))
    return "paid"


def open_accounts(balances: dict[str, int]) -> None:
    """Create the tables and these accounts."""
    Base.metadata.create_all(engine())
    with Session(engine()) as session, session.begin():
        session.add_all(Account(name=name, balance=balance) for name, balance in balances.items())


def balance(name: str) -> int:
    """The balance of an account."""
    with Session(engine()) as session:
        return session.get_one(Account, name).balance
