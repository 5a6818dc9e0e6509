"""`Redlock`: the client of the lock nodes, which makes locks and leases.

Invariants: a client opens no connection before its first use, so a client can be made before a fork. Threads may share
a client. After a fork the child opens new connections.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NoReturn

from redlock import _validation
from redlock._inner_lease import new_lease
from redlock._locking import misuse, process_lifecycle
from redlock._locking.client_context import client_options
from redlock._locking.context import LockContext
from redlock._locking.options import LeaseOptions, lock_options
from redlock._transport.node import DEFAULT_NODES
from redlock.holder import LockHolder, find_holder
from redlock.lock import Lock

__all__ = ["Redlock"]

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from typing_extensions import Never, Self

    from redlock.lease import Lease


class Redlock:
    """A quorum lock service on independent Redis nodes.

    Args:
        nodes: The addresses: `redis://[user:password@]host:port[/db]`, `rediss://` for TLS, `unix:///path`;
            a list, or one text with commas. Five nodes tolerate two failures. All clients must use the same nodes;
            the nodes compare only their number.
        ttl: The length of a lease in seconds, unless the lock has another; longer than two node timeouts and the drift
            allowance, at most `max_ttl`.
        max_ttl: The longest lease in seconds; the same for all clients.
        prefix: Put before every key. Clients with different prefixes share the nodes and nothing else; no prefix may be
            the beginning of another.
        node_timeout: Seconds after which a node without a reply counts as silent.
        allow_event_loop: Whether a `Lock` may be acquired inside a running asyncio event loop, which is blocked
            meanwhile.

    Raises:
        ConfigurationError: An argument is invalid; the message names the argument and a valid value.

    Example:
        >>> with Redlock(addresses, ttl=5.0) as redlock:
        ...     with redlock.lock("account:42", blocking_timeout=1.0) as lease:
        ...         print("inside the lease:", lease.remaining() > 0)
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
        allow_event_loop: bool = False,
    ) -> None:
        options = client_options(nodes, ttl=ttl, max_ttl=max_ttl, prefix=prefix, node_timeout=node_timeout)
        self._ttl_ms = options.ttl_ms
        allowed = _validation.flag("allow_event_loop", allow_event_loop)
        self._context = LockContext(options, allow_event_loop=allowed)
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
        on_lost: Callable[[Lease], None] | None = None,
        wait_for_release: bool = True,
        thread_local: bool = True,
        **redis_options: Never,
    ) -> Lock:
        """A lock with the conventions of redis-py's `Lock`.

        Args:
            name: The resource: 1 to 1,024 bytes of text without invisible characters. A list of names is acquired
                all or nothing, in one round; the order of the list does not matter.
            ttl: The length of the lease in seconds; default: the client's.
            blocking: Whether `acquire` waits; False for a single attempt.
            blocking_timeout: The longest wait of `acquire` in seconds, 0 or more; None for no limit.
            renew: Whether a `with` block renews the lease until the block ends. `acquire` alone never renews: code that
                forgets to release must not hold the lock for ever.
            max_hold: Seconds after which renewal stops; None for as long as the block runs.
            reentrant: Whether a thread, greenlet or asyncio task that holds the lock may acquire the lock again, and
                then shares the lease. The lease keeps its `ttl`, `renew` and `max_hold`; those of an inner block have
                no effect. Otherwise the thread waits like any other client, and a wait without a limit is refused.
            on_lost: Called with the lease once the lease is known to be lost, about at its deadline at the latest. The
                call runs in a separate thread, at most 8 at a time in one client. An error of the call is logged.
            wait_for_release: Whether `release` and the end of a `with` block wait for the replies of a quorum. If
                False, they raise `LockLost` only if this client knows of the loss by then. The replies go to the log
                and to `Lease.outcome`. The release is sent at once, or at most 2 ms later together with the next
                request if this thread acquires locks in quick succession.
            thread_local: Whether each thread releases only its own leases. False: any thread may release.
            redis_options: Not used. An option of redis-py that has no meaning here is refused by name.

        Raises:
            ConfigurationError: An argument is invalid.

        Example:
            >>> with redlock.lock(["account:1", "account:2"], ttl=2.0, blocking_timeout=1.0) as lease:
            ...     print(lease.resource)
            account:1, account:2
            >>> with redlock.lock("account:1"), redlock.lock("account:1", blocking=False):
            ...     pass
            Traceback (most recent call last):
            redlock.errors.LockContended: lock 'account:1' is not free: held by ...
        """
        if redis_options:
            misuse.refuse_options("lock", redis_options, misuse.LOCK)
        if on_lost is not None:
            misuse.check_on_lost(on_lost)
        options = lock_options(
            self._ttl_ms if ttl is None else self._context.checked_ttl_ms(ttl),
            renew=renew,
            max_hold=max_hold,
            reentrant=reentrant,
            on_lost=on_lost,
            blocking=blocking,
            blocking_timeout=blocking_timeout,
            wait_for_release=wait_for_release,
            thread_local=thread_local,
        )
        return Lock(self._context, _validation.resources(name), options)

    def lease(
        self,
        name: str | Sequence[str],
        *,
        ttl_ms: int | None = None,
        owner_label: str | None = None,
        renew: bool = False,
        max_hold_ms: int | None = None,
        reentrant: bool = False,
        on_lost: Callable[[Lease], None] | None = None,
        is_block: bool = True,
        forever: bool = True,
    ) -> Lease:
        """A lease to `acquire` and `release` once, for integrations. Most callers need `lock` instead.

        Args:
            name: As for `lock`.
            ttl_ms: The length of the lease in milliseconds; default: the client's.
            owner_label: The holder's name for other clients; default: host, process and thread.
            renew: Whether the lease is renewed until its release.
            max_hold_ms: Milliseconds after which renewal stops; None for as long as the lease is held.
            reentrant: As for `lock`.
            on_lost: As for `lock`.
            is_block: Whether the lease ends with a block of code, and with that block all blocks inside.
            forever: Whether the caller may wait without a limit, and so must not wait for itself.

        Raises:
            ConfigurationError: An argument is invalid; a lease never lasts longer than `max_ttl`.
            RedlockError: The running code holds a resource of the set already, and can neither share nor wait.
        """
        misuse.check_on_lost(on_lost)
        options = LeaseOptions(
            self._ttl_ms if ttl_ms is None else self._context.checked_ms(ttl_ms),
            _validation.flag("renew", renew),
            None if max_hold_ms is None else _validation.count("max_hold_ms", max_hold_ms),
            _validation.flag("reentrant", reentrant),
            on_lost,
        )
        names = _validation.resources(name)
        return new_lease(self._context, names, options, owner_label, is_block=is_block, forever=forever)

    def holder(self, name: str) -> LockHolder | None:
        """The holder reported by most nodes, or None unless a quorum reports a holder.

        Raises:
            QuorumUnavailable: Too few nodes answered.

        Example:
            >>> with redlock.lock("account:42"):
            ...     print(redlock.holder("account:42").nodes)
            5
            >>> redlock.holder("account:42") is None
            True
        """
        return find_holder(self._context, _validation.resource(name))

    def __reduce__(self) -> NoReturn:
        raise TypeError(misuse.NO_PICKLE)

    def observe_fence(self, name: str | Sequence[str], fence: int) -> None:
        """Remember a token, so that the next proposal for this resource is larger.

        Args:
            name: The resource, or a list of resources.
            fence: The largest token that the resource has seen, such as `Stale.seen`. A token that is more than an hour
                ahead of the wall clock is logged and not remembered; the manual describes the repair.

        Raises:
            ConfigurationError: The name is invalid, or the token is no whole number, 0 or more.
        """
        self._context.observe_fence(_validation.resources(name), _validation.count("the fencing token", fence))

    def close(self) -> None:
        """Close the connections, after the nodes have read all commands. Leases that are still held end with their TTL.

        After that no lease is renewed, and `on_lost` hears of no loss. `ensure_valid` and the end of a block still do.
        A call of another thread that is under way goes on. Its connections stay open if they are in use for a second.
        """
        self._context.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
