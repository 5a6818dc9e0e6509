"""`Lock`: a quorum lock with the conventions of redis-py's `Lock`.

It differs where a lock on several nodes must:
1. A TTL is always there: a holder that dies must not keep the lock for ever.
2. `extend` can't add to five different remaining times: it makes the lease last for what remains plus what is
   added, and never shortens it.
3. `locked()` tells whether a quorum of nodes shows some holder; `owned()` looks at the own deadline first.
4. `release` forgets the owner token once the outcome is known, not before.
What it holds it holds per thread, as redis-py's does by default: a failed attempt of one thread never
overwrites the token of another.
"""

from __future__ import annotations

import contextlib
import threading
from typing import TYPE_CHECKING, Literal

from redlock import checks, protocol
from redlock.errors import LockContended, NotHeld, RedlockError

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    from redlock.client import Redlock
    from redlock.commands import Names
    from redlock.lease import Lease


class Lock:
    """A lock on one resource. Made by `Redlock.lock`.

    Holding it is no guarantee that the holder is still inside the lease at any later moment: see
    `Lease.ensure_valid` and the fencing token.
    """

    def __init__(
        self,
        client: Redlock,
        names: Names,
        *,
        ttl_ms: int,
        blocking: bool,
        blocking_timeout: float | None,
        renew: bool,
        max_hold_ms: int | None,
        reentrant: bool,
        on_lost: Callable[[Lease], None] | None,
        wait_for_release: bool,
    ) -> None:
        self.names = names
        self._client = client
        self._ttl_ms = ttl_ms
        self._blocking = blocking
        self._blocking_timeout = blocking_timeout
        self._renew = renew
        self._max_hold_ms = max_hold_ms
        self._reentrant = reentrant
        self._on_lost = on_lost
        self._wait_for_release = wait_for_release
        self._local = threading.local()

    @property
    def name(self) -> str:
        """What it locks, in words; several names have commas between them."""
        return ", ".join(self.names)

    def acquire(self, *, blocking: bool | None = None, blocking_timeout: float | None = None) -> bool:
        """Take the lock.

        Args:
            blocking: False tries once. Default: as the lock was made.
            blocking_timeout: Seconds to go on trying, 0 or more; None for ever. Default: as the lock was made.

        Returns:
            True if this thread now holds it; False if somebody else had it for all that time.

        Raises:
            QuorumUnavailable: Too few nodes voted, to the end of that time; without a limit, for one TTL.
            RedlockError: This thread holds it already, and `reentrant` is off: it would wait for itself.
            ConfigurationError: The addresses lead to too few servers, or other clients work under other terms.
        """
        try:
            self._take(blocking, blocking_timeout, renew=False)
        except LockContended:
            return False
        return True

    def _take(self, blocking: bool | None, blocking_timeout: float | None, *, renew: bool) -> Lease:  # noqa: FBT001 - as acquire
        wait = self._blocking if blocking is None else blocking
        seconds = self._blocking_timeout if blocking_timeout is None else checks.patience(blocking_timeout)
        lease = self._client.lease(
            self.names,
            ttl_ms=self._ttl_ms,
            renew=renew,
            max_hold_ms=self._max_hold_ms,
            reentrant=self._reentrant,
            on_lost=self._on_lost,
        )
        before = self._stack
        self._local.leases = (*before, lease)
        try:
            lease.take(0 if not wait else None if seconds is None else int(seconds * 1000))
        except BaseException:
            self._local.leases = before
            if lease.held and lease not in before:
                # Struck by a signal after it was won: it must not stay, and be renewed, without an owner.
                with contextlib.suppress(RedlockError):
                    lease.give_back()
            raise
        return lease

    @property
    def _stack(self) -> tuple[Lease, ...]:
        leases: tuple[Lease, ...] = getattr(self._local, "leases", ())
        return leases

    @property
    def lease(self) -> Lease:
        """The lease that this thread holds: `.fence`, `.remaining()`, `.ensure_valid()`.

        Raises:
            NotHeld: This thread does not hold the lock.
        """
        if not self._stack:
            raise NotHeld(f"lock {self.name!r} is not held by this thread", self.name)
        return self._stack[-1]

    @property
    def fence(self) -> int:
        """The fencing token of the lease that this thread holds."""
        return self.lease.fence

    def release(self) -> None:
        """Give the lock back.

        Raises:
            NotHeld: This thread does not hold it.
            LockLost: It was lost before: somebody else may have been inside at the same time.
        """
        lease = self.lease
        try:
            lease.leave(wait=self._wait_for_release)
        finally:
            self._local.leases = self._stack[:-1]

    def extend(self, additional_time: float, *, replace_ttl: bool = False) -> Literal[True]:
        """Make the lease last longer.

        Args:
            additional_time: Seconds to add to what remains, more than 0.
            replace_ttl: Count from now instead of from the end of what remains. Never shortens.

        Raises:
            NotHeld: This thread does not hold the lock.
            LockLost: Its time is over, or a quorum of nodes no longer has it.
            QuorumUnavailable: Too few nodes answered. The old deadline stands.
            ConfigurationError: The time is no positive number, or would be beyond `max_ttl`.
        """
        lease = self.lease
        seconds = checks.number("additional_time", additional_time)
        base = 0.0 if replace_ttl else lease.remaining()
        lease.extend(base + seconds)
        return True

    def reacquire(self) -> Literal[True]:
        """Set the time that remains back to the lock's TTL. Raises as `extend` does."""
        return self.extend(self._ttl_ms / 1000, replace_ttl=True)

    def locked(self) -> bool:
        """Whether a quorum of nodes shows a holder, be it this one or another.

        Raises:
            QuorumUnavailable: Too few nodes answered.
        """
        return any(self._client.holder(name) is not None for name in self.names)

    def owned(self) -> bool:
        """Whether this thread holds it: inside its deadline, and a quorum of nodes agrees."""
        stack = self._stack
        if not stack or not stack[-1].held or stack[-1].lost:
            return False
        token = stack[-1].owner
        with self._client.driver.links() as links:
            elections = [links.run(protocol.inspect(name)) for name in self.names]
        return all(sum(vote.holder == token for vote in one.votes) >= one.quorum for one in elections)

    def __enter__(self) -> Lease:
        """Take the lock; the value of `with ... as` is the lease, which is renewed until the block ends.

        Raises:
            LockContended: Somebody else had it for all the time that `blocking_timeout` gives.
            QuorumUnavailable: Too few nodes voted.
        """
        return self._take(None, None, renew=self._renew)

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Release. What the body raised is never masked by what the release finds.

        Raises:
            LockLost: The lease was lost, and the body did not raise.
        """
        if exc is None:
            self.release()
            return
        with contextlib.suppress(RedlockError):
            self.release()
