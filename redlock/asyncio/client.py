"""`Redlock` for asyncio: the client of the lock nodes, which makes locks.

Invariants: a client opens no connection before its first use. Several event loops may share a client, one after the
other or side by side; each loop has its own connections. After a fork the child opens new connections.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, NoReturn

from redlock import _validation
from redlock._locking import misuse, process_lifecycle
from redlock._locking.client_context import client_options
from redlock._locking.options import lock_options
from redlock._transport.node import DEFAULT_NODES
from redlock.asyncio._loop_parts import LoopContext
from redlock.asyncio.lock import Lock

__all__ = ["Redlock"]

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from typing_extensions import Never, Self

    from redlock.asyncio.lease import Lease
    from redlock.holder import LockHolder


class Redlock:
    """A quorum lock service on independent Redis nodes, for asyncio.

    Args:
        nodes: The addresses: `redis://[user:password@]host:port[/db]`, `rediss://` for TLS, `unix:///path`;
            a list, or one text with commas. Five nodes tolerate two failures. All clients must use the same nodes;
            the nodes compare only their number.
        ttl: The length of a lease in seconds, unless the lock has another; longer than two node timeouts and the drift
            allowance, at most `max_ttl`.
        max_ttl: The longest lease in seconds; the same for all clients, also for those that use threads.
        prefix: Put before every key; the same for all clients that share resources.
        node_timeout: Seconds after which a node without a reply counts as silent.

    Raises:
        ConfigurationError: An argument is invalid; the message names the argument and a valid value.

    Example:
        >>> async def main() -> None:
        ...     async with Redlock(addresses, ttl=5.0) as redlock:
        ...         async with redlock.lock("account:42", blocking_timeout=1.0) as lease:
        ...             print("inside the lease:", lease.remaining() > 0)
        >>> asyncio.run(main())
        inside the lease: True
    """

    @_validation.private
    def __init__(
        self,
        nodes: Sequence[str] | str = DEFAULT_NODES,
        *,
        ttl: float = 5.0,
        max_ttl: float = 10.0,
        prefix: str = "",
        node_timeout: float = 0.1,
    ) -> None:
        options = client_options(nodes, ttl=ttl, max_ttl=max_ttl, prefix=prefix, node_timeout=node_timeout)
        self._ttl_ms = options.ttl_ms
        self._context = LoopContext(options)
        process_lifecycle.watch(self._context)

    def lock(
        self,
        name: str | Sequence[str],
        *,
        ttl: float | None = None,
        blocking: bool = True,
        blocking_timeout: float | None = None,
        renew: bool = True,
        max_hold: float | None = None,
        reentrant: bool = False,
        on_lost: Callable[[Lease], object] | Literal["cancel"] | None = None,
        wait_for_release: bool = True,
        **redis_options: Never,
    ) -> Lock:
        """A lock with the conventions of redis-py's asyncio `Lock`.

        Args:
            name: The resource: 1 to 1,024 bytes of text without invisible characters. A list of names is acquired
                all or nothing, in one round; the order of the list does not matter.
            ttl: The length of the lease in seconds; default: the client's.
            blocking: Whether `acquire` waits; False for a single attempt.
            blocking_timeout: The longest wait of `acquire` in seconds, 0 or more; None for no limit.
            renew: Whether an `async with` block renews the lease until the block ends. `acquire` alone never renews.
            max_hold: Seconds after which renewal stops; None for as long as the block runs.
            reentrant: Whether a task that holds the lock may acquire the lock again, and then shares the lease. The
                lease keeps its `ttl`, `renew` and `max_hold`; those of an inner block have no effect. Otherwise the
                task waits like any other client, and a wait without a limit is refused.
            on_lost: Called with the lease in the event loop once the lease is known to be lost, at its deadline at the
                latest. A coroutine function runs as a task, for which `aclose` waits. `"cancel"`: the task inside the
                `async with` block is cancelled, and `LockLost` leaves the block; a cancellation from outside wins over
                `LockLost`. Not for a block around a `yield`, and not in an exit stack that another task closes.
            wait_for_release: Whether `release` and the end of a block wait for the replies of a quorum. If False, they
                raise `LockLost` only if this client knows of the loss by then.
            redis_options: Not used. An option of redis-py that has no meaning here is refused by name.

        Raises:
            ConfigurationError: An argument is invalid.

        Example:
            >>> async def transfer() -> None:
            ...     async with redlock.lock(["account:1", "account:2"], ttl=2.0, blocking_timeout=1.0) as lease:
            ...         print(lease.resource)
            >>> asyncio.run(transfer())
            account:1, account:2
        """
        misuse.refuse_options("lock", redis_options, misuse.ASYNCIO_LOCK)
        misuse.check_asyncio_on_lost(on_lost)
        callback = None if on_lost is None or isinstance(on_lost, str) else on_lost
        options = lock_options(
            self._ttl_ms if ttl is None else self._context.checked_ttl_ms(ttl),
            renew=renew,
            max_hold=max_hold,
            reentrant=reentrant,
            on_lost=callback,
            blocking=blocking,
            blocking_timeout=blocking_timeout,
            wait_for_release=wait_for_release,
        )
        return Lock(self._context, _validation.resources(name), options, cancels=on_lost == "cancel")

    async def holder(self, name: str) -> LockHolder | None:
        """The holder reported by most nodes, or None unless a quorum reports a holder.

        Raises:
            QuorumUnavailable: Too few nodes answered.
        """
        return await self._context.holder(_validation.resource(name))

    def observe_fence(self, name: str | Sequence[str], fence: int) -> None:
        """Remember a token, so that the next proposal for this resource is larger; see `redlock.Redlock`.

        Raises:
            ConfigurationError: The name is invalid, or the token is no whole number, 0 or more.
        """
        self._context.observe_fence(_validation.resources(name), _validation.count("the fencing token", fence))

    async def aclose(self) -> None:
        """Close what belongs to the running event loop: wait for its releases and background tasks, then disconnect.

        Leases that are still held end with their TTL, and `on_lost` hears of that. A task that waits for a lock gets a
        `RedlockError`. Each event loop that uses the client needs a call of its own.
        """
        await self._context.close()

    def __reduce__(self) -> NoReturn:
        raise TypeError(misuse.NO_PICKLE)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()
