"""`Lock`: a quorum lock with the conventions of redis-py's `Lock`.

It differs where a lock on several nodes must:
1. A TTL is always there: a holder that dies must not keep the lock for ever.
2. `extend` can't add to five different remaining times: it makes the lease last for what remains plus what is
   added, and never shortens it.
3. `locked()` tells whether a quorum of nodes shows some holder; `owned()` looks at the own deadline first.
4. `release` forgets the owner token once the outcome is known, not before.
It knows what each thread acquired, as redis-py's does by default: a failed attempt of one thread never overwrites the
token of another. With `thread_local=False` it knows what all threads together acquired.
"""

from __future__ import annotations

import contextlib
import threading
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Literal

from redlock import _validation
from redlock._core import protocol
from redlock._inner_lease import new_lease
from redlock._locking import misuse
from redlock.errors import LockContended, NotHeld, RedlockError
from redlock.holder import find_holder

if TYPE_CHECKING:
    from types import TracebackType

    from typing_extensions import Never

    from redlock._core.commands import Names
    from redlock._locking.context import LockContext
    from redlock._locking.options import LockOptions
    from redlock.lease import Lease


class Lock:
    """A lock on one resource. Made by `Redlock.lock`.

    Holding it is no guarantee that the holder is still inside the lease at any later moment: see
    `Lease.ensure_valid` and the fencing token.
    """

    def __init__(self, context: LockContext, names: Names, options: LockOptions) -> None:
        self.names = names
        self._context = context
        self._options = options
        self._local: Any = threading.local() if options.thread_local else SimpleNamespace(leases=[])

    @property
    def name(self) -> str:
        """What it locks, in words; several names have commas between them."""
        return ", ".join(self.names)

    def acquire(
        self,
        blocking: bool | None = None,  # noqa: FBT001 - as in threading: acquire(False)
        blocking_timeout: float | None = None,
        **redis_options: Never,
    ) -> bool:
        """Take the lock.

        Args:
            blocking: False tries once. Default: as the lock was made.
            blocking_timeout: Seconds to go on trying, 0 or more; None for ever. Default: as the lock was made.
            redis_options: None. Each option of redis-py that has no meaning here is refused by name.

        Returns:
            True if this thread now holds it; False if it was taken for all that time.

        Raises:
            QuorumUnavailable: Too few nodes voted, to the end of that time; without a limit, for one TTL.
            RedlockError: This thread holds it already, `reentrant` is off, and the wait has no limit: the thread
                would wait for itself. Also inside a running asyncio event loop.
            ConfigurationError: The addresses lead to too few servers, or other clients work under other terms.
        """
        misuse.check_acquire(blocking, redis_options)
        lease, acquire_timeout_ms = self._new_lease(blocking, blocking_timeout, is_block=False)
        try:
            self._take(lease, acquire_timeout_ms)
        except BaseException as error:
            self._drop(lease)
            if isinstance(error, LockContended):
                return False
            raise
        return True

    def _new_lease(
        self,
        blocking: bool | None,  # noqa: FBT001 - as acquire
        blocking_timeout: float | None,
        *,
        is_block: bool,
    ) -> tuple[Lease, int | None]:
        """A lease that was not taken yet, and how long to try."""
        options = self._options
        self._context.refuse_event_loop()
        wait = options.blocking if blocking is None else blocking
        seconds = (
            options.blocking_timeout if blocking_timeout is None else _validation.acquire_timeout(blocking_timeout)
        )
        acquire_timeout_ms = 0 if not wait else None if seconds is None else int(seconds * 1000)
        forever = acquire_timeout_ms is None
        lease = new_lease(self._context, self.names, options.lease, is_block=is_block, forever=forever)
        return lease, acquire_timeout_ms

    def _take(self, lease: Lease, acquire_timeout_ms: int | None) -> None:
        leases = self._leases
        if leases:
            # Only a block is sure to give back what it has lost.
            over = [one for one in leases if not one.is_held or (one.is_lost and not one.is_block)]
            for one in over:
                leases.remove(one)
        leases.append(lease)
        lease.acquire(acquire_timeout_ms)

    def _drop(self, lease: Lease) -> None:
        """After an exception: nothing may stay, and be renewed, without an owner."""
        with contextlib.suppress(ValueError):
            self._leases.remove(lease)
        if lease.is_held:
            with contextlib.suppress(RedlockError):
                lease.release()

    @property
    def _leases(self) -> list[Lease]:
        try:
            leases: list[Lease] = self._local.leases
        except AttributeError:
            leases = self._local.leases = []
        return leases

    @property
    def lease(self) -> Lease:
        """The lease that this thread holds: `.fence`, `.remaining()`, `.ensure_valid()`.

        Its methods may be called from other threads too, also `release` and `extend`.

        Raises:
            NotHeld: This thread does not hold the lock.
        """
        return self._last(None)

    def _last(self, is_block: bool | None) -> Lease:  # noqa: FBT001 - None: either
        """The lease that was taken last, by a block or by `acquire`."""
        for lease in reversed(self._leases):
            if lease.is_held and is_block in (None, lease.is_block):
                return lease
        whose = "by this thread" if self._options.thread_local else "by this Lock"
        raise NotHeld(f"lock {self.name!r} is not held {whose}", self.name)

    @property
    def fence(self) -> int:
        """The fencing token of the lease that this thread holds."""
        return self.lease.fence

    def release(self) -> None:
        """Give the lock back.

        A `Lock` knows what each thread acquired. To release in another thread, pass the lease (`lock.lease`) and call
        its `release`, or make the lock with `thread_local=False`.

        Raises:
            NotHeld: This thread does not hold it.
            LockLost: It was lost before: another client may have been inside at the same time.
        """
        lease = self.lease
        try:
            lease = self._last(is_block=False)
        except NotHeld:
            lease = self._last(None)
        self._release(lease, ends_blocks=False)

    def _release(self, lease: Lease, *, ends_blocks: bool) -> None:
        # First: an exception that strikes after this leaves no lease that is renewed.
        with contextlib.suppress(ValueError):
            self._leases.remove(lease)
        lease.close(wait=self._options.wait_for_release, ends_blocks=ends_blocks)

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
        seconds = _validation.number("additional_time", additional_time)
        base = 0.0 if replace_ttl else lease.remaining()
        lease.extend(base + seconds)
        return True

    def reacquire(self) -> Literal[True]:
        """Set the time that remains back to the lock's TTL. Raises as `extend` does."""
        return self.extend(self._options.lease.ttl_ms / 1000, replace_ttl=True)

    def locked(self) -> bool:
        """Whether a quorum of nodes shows a holder, be it this one or another.

        Raises:
            QuorumUnavailable: Too few nodes answered.
        """
        return any(find_holder(self._context, name) is not None for name in self.names)

    def owned(self) -> bool:
        """Whether this thread holds it: inside its deadline, and a quorum of nodes agrees."""
        try:
            lease = self.lease
        except NotHeld:
            return False
        if lease.is_lost:
            return False
        token = lease.owner
        with self._context.pool.connections() as links:
            round_results = [links.run(protocol.inspect(name)) for name in self.names]
        return all(sum(vote.holder == token for vote in one.votes) >= one.quorum for one in round_results)

    def __enter__(self) -> Lease:
        """Take the lock; the value of `with ... as` is the lease, which is renewed until the block ends.

        Raises:
            LockContended: Somebody else had it for all the time that `blocking_timeout` gives.
            QuorumUnavailable: Too few nodes voted.
        """
        lease, acquire_timeout_ms = self._new_lease(None, None, is_block=True)
        try:
            self._take(lease, acquire_timeout_ms)
            return lease  # noqa: TRY300 - an exception that strikes here must find the lease too
        except BaseException:
            self._drop(lease)
            raise

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Release. What the body raised is never masked by what the release finds.

        Raises:
            LockLost: The lease was lost, and the body did not raise.
        """
        try:
            self._release(self._last(is_block=True), ends_blocks=True)
        except RedlockError:
            if exc is None:
                raise
