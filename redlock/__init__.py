"""Redlock on independent Redis nodes, with a fencing token.

    from redlock import Redlock

    redlock = Redlock(["redis://127.0.0.1:63791", ...])       # five independent nodes
    with redlock.lock("account:42", blocking_timeout=1.0) as lease:
        ...                                                    # lease.fence goes with every write

For Celery tasks see `redlock.celery.locked`, for shared state in Redis `redlock.fencing.FencedStore`.
"""

__distribution__ = "celery-redlock"  # before all imports, for the check

from redlock import _installation  # noqa: F401 - the check
from redlock._core.protocol import Outcome
from redlock.client import Redlock
from redlock.errors import (
    ConfigurationError,
    LockContended,
    LockLost,
    NotHeld,
    NoThread,
    QuorumUnavailable,
    RedlockError,
    Stale,
)
from redlock.holder import LockHolder
from redlock.lease import Lease
from redlock.lock import Lock

__version__ = "0.1.0"
"""The version of the package and of `redlock --version`; the build reads it from here."""

__all__ = [
    "ConfigurationError",
    "Lease",
    "Lock",
    "LockContended",
    "LockHolder",
    "LockLost",
    "NoThread",
    "NotHeld",
    "Outcome",
    "QuorumUnavailable",
    "Redlock",
    "RedlockError",
    "Stale",
]
