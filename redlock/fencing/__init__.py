"""Resources that check the fencing token: a holder that was frozen past its lease changes nothing.

`FencedStore` keeps values in Redis, and `AsyncFencedStore` does so for asyncio. `redlock.fencing.sql` fences
transactions of SQL databases, `redlock.fencing.django` is the same as a Django app, and `redlock.fencing.conformance`
tests adapters of your own.
"""

from redlock import _installation  # noqa: F401 - the check
from redlock.fencing.asyncio_redis_store import AsyncFencedStore
from redlock.fencing.redis_store import FencedStore, FencedTransaction, Written

__all__ = ["AsyncFencedStore", "FencedStore", "FencedTransaction", "Written"]
