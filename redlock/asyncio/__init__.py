"""The lock for asyncio, with the names of the package `redlock`.

    from redlock.asyncio import Redlock

    async with Redlock(["redis://127.0.0.1:63791", ...]) as redlock:     # five independent nodes
        async with redlock.lock("account:42", blocking_timeout=1.0) as lease:
            ...                                                          # lease.fence goes with every write

All clients of the same nodes exclude each other, with and without asyncio. The errors are those of `redlock`.
"""

from redlock.asyncio.client import Redlock
from redlock.asyncio.lease import Lease
from redlock.asyncio.lock import Lock
from redlock.holder import LockHolder

__all__ = ["Lease", "Lock", "LockHolder", "Redlock"]
