"""The lock for Celery tasks: the decorator `locked`, and what it reports to Flower, metrics and `inspect`.

@app.task
@locked("account:{account_id}", wait=1.0)
def transfer(account_id: int) -> None: ...
"""

from redlock.celery.decorator import client_for, current_lease, locked

__all__ = ["client_for", "current_lease", "locked"]
