"""`Redlock`: the nodes, the settings, and what one process has seen of them.

Rules: nothing is dialled before the first use, so a client can be made before a fork; a client may be shared
between threads and survives a fork (the child dials anew).
"""

from __future__ import annotations

import socket
import threading
import warnings
from typing import TYPE_CHECKING, NamedTuple, NoReturn

from redlock import _log, _process, _validation
from redlock._clock import wall_us
from redlock._core import protocol
from redlock._core.votes import masked_token
from redlock._escaping import bounded_label
from redlock._inner_lease import InnerLease
from redlock._locking import failures, held_leases, misuse, process_lifecycle
from redlock._locking.lock_events import LockEventLog
from redlock._locking.observed_fences import ObservedFences
from redlock._locking.renewal import Renewal
from redlock._locking.wait_queue import WaiterPool
from redlock._locking.wait_registry import WaitRegistry
from redlock._transport.codec import Codec
from redlock._transport.node import DEFAULT_NODES, Node
from redlock._transport.pool import ConnectionPool
from redlock.errors import ConfigurationError
from redlock.lease import Lease
from redlock.lock import Lock

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from types import TracebackType

    from typing_extensions import Never, Self

    from redlock._core.commands import Names


class LockHolder(NamedTuple):
    """Who holds a resource, as the nodes tell.

    Attributes:
        resource: The name that is locked.
        holder: Who it is, without the secret part of the owner token.
        remaining: Seconds until the lock is free if the holder does nothing more; None if that can't be told.
        nodes: How many nodes name this holder.
        fence: The largest fencing token that a node told.
    """

    resource: str
    holder: str
    remaining: float | None
    nodes: int
    fence: int


class Redlock:
    """A quorum lock service on independent Redis nodes.

    Args:
        nodes: Their addresses: `redis://[user:password@]host:port[/db]`, `rediss://` for TLS, `unix:///path`;
            a list, or one text with commas. Five tolerate two failures. All clients must use the same.
        ttl: Seconds that a lease lasts unless the lock says otherwise; more than two node timeouts, at most `max_ttl`.
        max_ttl: Seconds that no lease may exceed; the same for all clients.
        prefix: Put before every key. Clients with different prefixes share the nodes and nothing else; no prefix may be
            the beginning of another.
        node_timeout: Seconds after which a node that was asked counts as silent.
        allow_event_loop: Whether a `Lock` may be acquired inside a running asyncio event loop, which stands still
            meanwhile.

    Raises:
        ConfigurationError: One of these is no good; the message says which and what would be.
    """

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
        self.node_timeout_ms = max(1, int(_validation.number("node_timeout", node_timeout) * 1000))
        self._max_ttl_ms = int(_validation.number("max_ttl", max_ttl) * 1000)
        self._least_ttl_ms = _validation.least_ttl_ms(self.node_timeout_ms)
        self.ttl_ms = self.checked_ttl_ms(ttl)
        addresses, prefix = _validation.node_list(nodes), _validation.prefix(prefix)
        members = [Node(address, self.node_timeout_ms, prefix) for address in addresses]
        labels = [node.label for node in members]
        for label in labels:
            if labels.count(label) > 1:
                raise ConfigurationError(f"node {label} is listed twice; each lock node must be a server of its own")
        warning = _validation.tolerance(len(members))
        if warning is not None:
            warnings.warn(warning, stacklevel=2)
            _log.warning("nodes", count=len(members), why=warning)
        codec = Codec(len(members), prefix, self._max_ttl_ms, self.reserve_ms)
        self.pool = ConnectionPool(members, codec)
        self.waiter_pool = WaiterPool(members, codec)
        self.event_log = LockEventLog(members)
        self.waits = WaitRegistry(self.event_log, self.waiter_pool, prefix)
        self.renewal = Renewal(self.pool)
        process_lifecycle.watch(self)
        self._allow_event_loop = allow_event_loop
        self._fences = ObservedFences()
        self._host = socket.gethostname()

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
            name: The resource: 1 to 1,024 bytes of text without invisible characters. A list of names is taken
                all or nothing, in one round, in whatever order they are listed.
            ttl: Seconds that the lease lasts; default: the client's.
            blocking: Whether `acquire` waits; False tries once.
            blocking_timeout: Seconds that `acquire` waits, 0 or more; None for ever.
            renew: Whether a `with` block renews the lease until it ends. `acquire` alone never does: who
                forgets to release must not hold it for ever.
            max_hold: Seconds after which renewing stops; None for as long as the block runs.
            reentrant: Whether the same thread, greenlet or asyncio task may take what it holds already, and then
                shares the lease. Otherwise it waits like any other client, and a wait without a limit is refused.
            on_lost: Called with the lease when it is known to be lost, in a thread of its own; at most 8 such
                calls run at a time in one client. What it raises is logged.
            wait_for_release: Whether `release` and the end of a `with` block wait until a quorum of nodes has said
                what became of it. Without that they raise `LockLost` only where the loss is known by then; what the
                nodes say goes to the log, and to `Lease.outcome`. They are told at once, or where this thread takes
                locks in quick succession together with its next question, 2 ms later at most.
            thread_local: Whether each thread releases only what it acquired. False: any thread may release.
            redis_options: None. Each option of redis-py that has no meaning here is refused by name.

        Raises:
            ConfigurationError: One of these is no good.
        """
        misuse.check_lock(redis_options)
        return Lock(
            self,
            _validation.resources(name),
            ttl_ms=self.ttl_ms if ttl is None else self.checked_ttl_ms(ttl),
            blocking=blocking,
            blocking_timeout=_validation.acquire_timeout(blocking_timeout),
            renew=renew,
            max_hold_ms=None if max_hold is None else int(_validation.number("max_hold", max_hold) * 1000),
            reentrant=reentrant,
            on_lost=on_lost,
            wait_for_release=wait_for_release,
            thread_local=thread_local,
        )

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
        """A lease to `take` and `give_back`, for integrations; most callers want `lock`.

        Args:
            name: As for `lock`.
            ttl_ms: The length of the lease; default: the client's.
            who: What other clients are told of the holder.
            renew: Whether the lease is renewed until it is given back.
            max_hold_ms: When renewing stops; None for as long as the lease is held.
            reentrant: As for `lock`.
            on_lost: As for `lock`.
            is_block: Whether its time is a block of code, so that all blocks inside are over when it ends.
            forever: Whether the caller may wait without a limit, and so must not wait for itself.

        Raises:
            ConfigurationError: The name or `ttl_ms` is no good; a lease never lasts longer than `max_ttl`.
            RedlockError: This context holds one of the resources already, and that can't be shared.
        """
        if owner_label is None:
            owner_label = f"{self._host}/{_process.pid()}/{threading.current_thread().name}"
        lease = Lease(
            self,
            _validation.resources(name),
            ttl_ms=self.ttl_ms if ttl_ms is None else self._checked_ms(ttl_ms),
            owner_label=bounded_label(owner_label),
            renew=renew,
            max_hold_ms=max_hold_ms,
            on_lost=on_lost,
            is_block=is_block,
        )
        outer = held_leases.claim(lease, reentrant=reentrant, forever=forever)
        return lease if outer is lease else InnerLease(outer, on_lost, is_block=is_block)

    def holder(self, name: str) -> LockHolder | None:
        """Who holds this resource: whom most nodes name, where a quorum of them shows a holder; else None.

        Raises:
            QuorumUnavailable: Too few nodes answered.
        """
        resource = _validation.resource(name)
        with self.pool.connections() as links:
            round_result = links.run(protocol.inspect(resource))
        if not round_result.reachable:
            raise failures.unavailable(self.pool.nodes, resource, round_result)
        holder = round_result.holder
        if holder is None or round_result.denied < round_result.quorum:
            return None
        count = sum(vote.holder == holder for vote in round_result.votes)
        left_ms = round_result.free_in_ms
        return LockHolder(
            resource,
            masked_token(holder),
            None if left_ms is None else left_ms / 1000,
            count,
            round_result.largest_fence,
        )

    def refuse_event_loop(self) -> None:
        """Raise where a blocking call would stop a running asyncio event loop, unless that is allowed."""
        if not self._allow_event_loop:
            misuse.check_event_loop()

    def __reduce__(self) -> NoReturn:
        raise TypeError(misuse.NO_PICKLE)

    def checked_ttl_ms(self, ttl: float) -> int:
        """A TTL in seconds as milliseconds, if this client can work with it."""
        return _validation.ttl_ms(ttl, max_ttl_ms=self._max_ttl_ms, node_timeout_ms=self.node_timeout_ms)

    def checked_extension_ms(self, seconds: float) -> int:
        """The seconds of an extension as the TTL in milliseconds that the nodes get."""
        asked_ms = _validation.extension_ms(seconds, max_ttl_ms=self._max_ttl_ms)
        return max(asked_ms, self._least_ttl_ms)

    def _checked_ms(self, ttl_ms: int) -> int:
        if type(ttl_ms) is int and self._least_ttl_ms <= ttl_ms <= self._max_ttl_ms:
            return ttl_ms
        if isinstance(ttl_ms, bool) or not isinstance(ttl_ms, int):
            raise ConfigurationError(f"ttl_ms is {ttl_ms!r:.60}; it must be milliseconds as a whole number")
        return self.checked_ttl_ms(ttl_ms / 1000)

    def proposal(self, names: Names, wall_us: int) -> int:
        """The fencing token to propose: the wall clock, or one more than the largest token seen for these resources."""
        return self._fences.proposal(names, wall_us)

    @property
    def reserve_ms(self) -> int:
        """How long a released lock is reserved for the waiter that the release wakes."""
        return max(1, self.node_timeout_ms // 2)

    @property
    def fresh_ms(self) -> int:
        """How long a proposal counts: half of what a node that lost its fences abstains for; clocks get the rest."""
        return self._max_ttl_ms // 2

    def observe_fence(self, name: str | Sequence[str], fence: int) -> None:
        """Remember a token, so that the next proposal for this resource is larger.

        Args:
            name: The resource, or several.
            fence: What was seen there, as in `Stale.seen`. A token that is more than an hour ahead of the wall clock
                is logged and not remembered: see the manual on its repair.
        """
        names = _validation.resources(name)
        if not self._fences.observe(names, fence, wall_us()):
            _log.warning("fence-implausible", resource=", ".join(names), fence=fence)

    def close(self) -> None:
        """Close all connections. Leases that are still held run out with their TTL."""
        self.renewal.close()
        self.waits.publisher.close()
        self.waiter_pool.close()
        self.pool.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()
