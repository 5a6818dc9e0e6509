"""A fence for Django: `with fenced(lease):` is a durable `atomic` block whose first statement checks the fencing token.

INSTALLED_APPS = [..., "redlock.fencing.django"]        # then: manage.py migrate

@app.task(bind=True, acks_late=True)
@locked("account:{account_id}")
@fenced(current_lease)
def deposit(self, account_id, amount):
    account = Account.objects.get(pk=account_id)        # load inside the block, never before it
    account.balance += amount
    account.save()
"""

from redlock.fencing.django.routers import FencedRouter
from redlock.fencing.django.transaction import fenced, purge_operations

__all__ = ["FencedRouter", "fenced", "purge_operations"]
