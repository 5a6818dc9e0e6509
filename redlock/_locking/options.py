"""The validated options of a lease and of a lock, each as one frozen value."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from redlock import _validation

if TYPE_CHECKING:
    from collections.abc import Callable


class LeaseOptions(NamedTuple):
    """The options of a lease.

    Attributes:
        ttl_ms: The length of the lease.
        renew: Whether the lease is renewed until its block ends.
        max_hold_ms: When renewal stops; None for as long as the block runs.
        reentrant: Whether the thread, greenlet or asyncio task may share a lease of its own.
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
        thread_local: Whether each thread releases only its own leases.
    """

    lease: LeaseOptions
    blocking: bool
    blocking_timeout: float | None
    wait_for_release: bool
    thread_local: bool

    def acquire_timeout_ms(self, blocking: bool | None, blocking_timeout: float | None) -> int | None:  # noqa: FBT001 - as the parameter of `acquire`
        """The time limit of a call of `acquire` with these arguments; None for no limit. None stands for the option."""
        seconds = self.blocking_timeout if blocking_timeout is None else _validation.acquire_timeout(blocking_timeout)
        if not (self.blocking if blocking is None else blocking):
            return 0
        return None if seconds is None else int(seconds * 1000)
