"""Fenced store for asyncio: `FencedStore` on a client of `redis.asyncio`.

Keys, scripts and guarantees are those of `redlock.fencing.redis_store`, so both stores can share a Redis.
"""

from __future__ import annotations

import asyncio
import inspect
from typing import TYPE_CHECKING, NoReturn

from redis.asyncio import Redis

from redlock import _validation
from redlock._locking import misuse
from redlock.errors import Stale
from redlock.fencing import _turns
from redlock.fencing._leases import token_and_owner
from redlock.fencing._store_client import is_of_a_cluster, store_client
from redlock.fencing.redis_store import REMEMBERED_MS, StoreWords, check_change, stored_text, text

__all__ = ["AsyncFencedStore"]

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from typing_extensions import Self

    from redlock.fencing._leases import StoreLease
    from redlock.fencing.redis_store import FencedTransaction, Written


class AsyncFencedStore:
    """Values in one Redis, each behind a fence, for asyncio.

    Args:
        client: The client of `redis.asyncio` for the Redis with the data, or its URL with a port. `aclose` closes a
            client that the store has made from a URL.
        prefix: As for `FencedStore`.
        remembered_ms: As for `FencedStore`.

    Example:
        >>> async def deposit() -> None:
        ...     async with AsyncFencedStore(store_url) as store, redlock.lock("account:43") as lease:
        ...         written = await store.update("account:43", lease, "deposit:1", lambda old: str(int(old or 0) + 10))
        ...         print(written.value)
        >>> asyncio.run(deposit())
        10
    """

    @_validation.private
    def __init__(self, client: Redis | str, *, prefix: str = "store:", remembered_ms: int = REMEMBERED_MS) -> None:
        self._url = client if isinstance(client, str) else None
        self._loop: asyncio.AbstractEventLoop | None = None
        """The event loop of the last use."""
        self._turns: _turns.Turns[asyncio.Future[None]] = _turns.Turns()
        self._use(store_client(Redis, client))
        self._words = StoreWords(prefix, remembered_ms, in_cluster=is_of_a_cluster(self._redis))

    def _use(self, redis: Redis) -> None:
        self._redis = redis
        self._open, self._write = redis.register_script(StoreWords.OPEN), redis.register_script(StoreWords.WRITE)

    def _enter_loop(self) -> None:
        """A client that was made from a URL is made again if its loop has closed: no other loop can use its sockets."""
        loop = asyncio.get_running_loop()
        if self._loop is not loop:
            if self._url is not None and self._loop is not None and self._loop.is_closed():
                self._use(store_client(Redis, self._url))
            self._loop = loop

    def __reduce__(self) -> NoReturn:
        raise TypeError(misuse.NO_COPY_OF_STORE)

    async def open(self, name: str, lease: StoreLease) -> FencedTransaction:
        """Read under this lease's token, and refuse all smaller tokens from now on.

        Raises:
            Stale: The store has seen a larger token, or the same token from another owner.
            NotHeld: The lease is not held.
            ConfigurationError: The name or the lease cannot be used.
            redis.exceptions.RedisError: The store did not answer.
        """
        keys, arguments = self._words.opening(name, lease)
        self._enter_loop()
        reply = await self._open(keys=keys, args=arguments)
        return self._words.opened(name, lease, reply)

    async def write(self, transaction: FencedTransaction, value: str, op_id: str) -> Written:
        """Write once, in the transaction that was opened last, unless this operation was applied before.

        Raises:
            Stale: Another transaction has been opened since.
            ConfigurationError: The operation id is empty or not text, or the value is not text.
            redis.exceptions.RedisError: The store did not answer. The write may have been applied; a repetition with
                the same operation id is safe.
        """
        keys, arguments = self._words.writing(transaction, value, op_id)
        self._enter_loop()
        return self._words.written(transaction, await self._write(keys=keys, args=arguments))

    async def update(
        self, name: str, lease: StoreLease, op_id: str, change: Callable[[str | None], str | Awaitable[str]]
    ) -> Written:
        """Open, compute the new value, and write. Repeats this if another operation of the same lease came between.

        The updates of a store under the same lease run one after the other for each name. So `change` can't update the
        same name under the same lease.

        Args:
            name: The name in the store.
            lease: The lease that gives the token.
            op_id: Names the operation, such as a task id.
            change: The new value from the old value, None if there is none; a function or a coroutine function.

        Raises:
            Stale: The store has seen a newer token: repeat the work under a new lease.
            LockLost: The lease ended while other operations of the lease changed the value; nothing was written.
            ConfigurationError: As for `open` and `write`, or an update of this name under this lease runs `change`.
            NotHeld, redis.exceptions.RedisError: As for `open` and `write`.
        """
        _validation.operation(op_id)
        check_change(change)
        loop = asyncio.get_running_loop()
        update = _turns.Update((id(self), loop, _validation.resource(name), token_and_owner(lease)))
        queue, turn = self._turns.queue(update, name), loop.create_future()
        try:
            queue.append(turn)
            while (before := _turns.before(queue, turn)) is not None:
                await asyncio.wait([before], timeout=_turns.left(name, lease))
            pauses = _turns.pauses(name, lease)
            while True:
                transaction = await self.open(name, lease)
                with update.changing():
                    changed = change(transaction.value)
                    value = await changed if inspect.isawaitable(changed) else changed
                try:
                    return await self.write(transaction, value, op_id)
                except Stale as stale:
                    if stale.seen != transaction.fence:
                        raise
                await asyncio.sleep(next(pauses))
        finally:
            update.is_running = False
            _turns.leave(queue, turn)
            turn.set_result(None)

    async def read_unfenced(self, name: str) -> str | None:
        """The value, read without a token: to show the value, not to compute a new value."""
        self._enter_loop()
        value = await self._redis.hget(self._words.state(name), "value")
        return None if value is None else text(value)

    async def write_unfenced(self, name: str, value: str) -> None:
        """Write without a token: to set up a value, and to show the damage without a fence."""
        self._enter_loop()
        await self._redis.hset(self._words.state(name), "value", stored_text(value))

    async def aclose(self) -> None:
        """Close the client that the store has made from a URL; another client stays open."""
        if self._url is not None:
            self._enter_loop()
            await self._redis.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()
