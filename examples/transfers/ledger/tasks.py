"""Transfers between accounts in PostgreSQL with Django: two locks, one fenced transaction, each transfer once.

Rules of this file:
1. Both accounts are locked at once, so two transfers in opposite directions cannot wait for each other.
2. The fence is the first statement of the transaction, and both accounts are loaded inside the block.
3. The task id is the operation id, so a second delivery of the task changes nothing and gives the same answer.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import django
from celery import Celery
from patient import PatientTask

from redlock import LockLost
from redlock.celery import current_lease, locked
from redlock.fencing.django import fenced

if TYPE_CHECKING:
    from celery import Task

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "ledger.settings")
django.setup()

from django.db import InternalError, OperationalError  # noqa: E402 - Django is set up first

from ledger.models import Account, Transfer  # noqa: E402 - as above

app = Celery("ledger", task_cls=PatientTask)
app.config_from_object("celeryconfig")


# PostgreSQL ends the transaction of a frozen worker with an InternalError or an OperationalError.
@app.task(bind=True, autoretry_for=(OperationalError, InternalError, LockLost))
@locked(["account:{source}", "account:{target}"])
def transfer(self: Task, source: str, target: str, amount: int) -> str:
    """Move an amount; returns "paid" or "refused"."""
    if amount <= 0 or source == target:
        raise ValueError(f"{amount} from {source} to {target} is no transfer")
    task = self.request.id
    with fenced(current_lease(), operation=task) as section:
        if not section.fresh:
            return "paid" if Transfer.objects.filter(task=task).exists() else "refused"
        payer, payee = Account.objects.get(pk=source), Account.objects.get(pk=target)
        if payer.balance < amount:
            return "refused"
        payer.balance -= amount
        payee.balance += amount
        payer.save()
        payee.save()
        Transfer.objects.create(task=task, source=source, target=target, amount=amount)
    return "paid"


def open_accounts(balances: dict[str, int]) -> None:
    """Create these accounts; `django-admin migrate --run-syncdb` has created the tables."""
    Account.objects.bulk_create(Account(name=name, balance=balance) for name, balance in balances.items())


def balance(name: str) -> int:
    """The balance of an account."""
    return int(Account.objects.get(pk=name).balance)
