"""The validated options of a lease and of a lock, each as one frozen value."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable


class LeaseOptions(NamedTuple):
    """The options of a lease.

    Attributes:
        ttl_ms: The length of the lease.
        renew: Whether the lease is renewed until its block ends.
        max_hold_ms: When renewal stops; None for as long as the block runs.
        reentrant: Whether the thread, greenlet or asyncio task may share a lease that it holds already.
        on_lost: Called with the lease once the lease is known to be lost.
    """

    ttl_ms: int
    renew: bool = False
    max_hold_ms: int | None = None
    reentrant: bool = False
    on_lost: Callable[[Any], object] | None = None


class LockOptions(NamedTuple):
    """The options of a lock.

    Attributes:
        lease: The options of its leases.
        blocking: Whether `acquire` waits.
        blocking_timeout: Seconds that `acquire` waits; None for no limit.
        wait_for_release: Whether a release waits for the replies of a quorum.
        thread_local: Whether each thread releases only the leases that it acquired.
    """

    lease: LeaseOptions
    blocking: bool
    blocking_timeout: float | None
    wait_for_release: bool
    thread_local: bool
