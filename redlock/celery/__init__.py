"""The lock for Celery tasks: the decorator `locked`, the lease of the running task, and the client of an app."""

from redlock import _installation  # noqa: F401 - the check
from redlock.celery.client import client_for
from redlock.celery.decorator import current_lease, locked

__all__ = ["client_for", "current_lease", "locked"]
