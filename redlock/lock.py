"""`Lock`: a quorum lock with the conventions of redis-py's `Lock`.

Rules where a lock on several nodes differs:
1. A lease always has a TTL, because a dead holder must not keep the lock for ever.
2. `extend` adds to the remaining time that this client knows, because each node has another remaining time. `extend`
   never shortens the lease.
3. `locked()` is true if a quorum of nodes reports a holder. `owned()` checks the own deadline first.
4. `release` forgets the owner token once the outcome is known, not before.

By default each thread has separate leases, as with redis-py: a failed attempt of one thread never overwrites the token
of another thread. With `thread_local=False` all threads share the leases. A generator can end its block in any thread.
"""

from __future__ import annotations

import contextlib
import itertools
import threading
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Literal, NoReturn

from redlock._core import protocol
from redlock._inner_lease import new_lease
from redlock._locking import held_leases, lock_leases, misuse
from redlock.errors import LockContended, NotHeld, RedlockError
from redlock.holder import find_holder

__all__ = ["Lock"]

if TYPE_CHECKING:
    from typing_extensions import Never

    from redlock._core.commands import Names
    from redlock._locking.context import LockContext
    from redlock._locking.options import LockOptions
    from redlock.lease import Lease

_order = itertools.count()


class Lock:
    """A lock on a resource, or on a set of resources. `Redlock.lock` makes the lock.

    A lease can end while its holder works, for example because the process is frozen. See `Lease.ensure_valid` and the
    fencing token.

    Example:
        >>> lock = redlock.lock("invoice:7", blocking_timeout=2.0)
        >>> if lock.acquire():
        ...     try:
        ...         print("working under a token:", lock.fence > 0)
        ...     finally:
        ...         lock.release()
        working under a token: True
        >>> lock.locked()
        False
    """

    def __init__(self, context: LockContext, names: Names, options: LockOptions) -> None:
        self.names = names
        self._context = context
        self._options = options
        self._local: Any = threading.local() if options.thread_local else SimpleNamespace(leases=[])
        self._in_generators: list[Lease] = []
        """With `thread_local`, the leases of blocks in generators: another thread can run the end of such a block."""

    def __reduce__(self) -> NoReturn:
        raise TypeError(misuse.NO_COPY_OF_LOCK)

    @property
    def name(self) -> str:
        """The locked names, with commas between them."""
        return ", ".join(self.names)

    def acquire(
        self,
        blocking: bool | None = None,  # noqa: FBT001 - as in threading: acquire(False)
        blocking_timeout: float | None = None,
        **redis_options: Never,
    ) -> bool:
        """Acquire the lock.

        Args:
            blocking: False for a single attempt. Default: the lock's setting.
            blocking_timeout: The limit in seconds, 0 or more; infinity for no limit. None: the lock's setting.
            redis_options: Not used. An option of redis-py that has no meaning here is refused by name.

        Returns:
            True if this thread now holds the lock; False if other clients held the lock until the limit.

        Raises:
            QuorumUnavailable: Too few nodes voted until the limit; without a limit, for one TTL.
            NoThread: This process can start no thread for `on_lost`.
            RedlockError: This thread holds the lock already, `reentrant` is off, and the wait has no limit: the thread
                would wait for itself. Also inside a running asyncio event loop.
            ConfigurationError: The addresses lead to too few servers, or other clients have other settings.
        """
        misuse.check_acquire(blocking, redis_options)
        lease, acquire_timeout_ms = self._new_lease(blocking, blocking_timeout, is_block=False)
        try:
            self._acquire(lease, acquire_timeout_ms)
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
        """A lease that was not acquired yet, and the time limit of its acquisition."""
        options = self._options
        if not self._context.allow_event_loop:
            misuse.check_event_loop()
        acquire_timeout_ms = options.acquire_timeout_ms(blocking, blocking_timeout)
        forever = acquire_timeout_ms is None
        lease = new_lease(self._context, self.names, options.lease, is_block=is_block, forever=forever)
        lease._caller = lock_leases.Caller.of_block(2) if is_block else lock_leases.Caller.of_acquire()
        if options.thread_local and lease._caller.frame is not None:
            lease._thread = held_leases.thread()
        return lease, acquire_timeout_ms

    def _acquire(self, lease: Lease, acquire_timeout_ms: int | None) -> None:
        lease.acquire(acquire_timeout_ms)
        lease._order = next(_order)
        lock_leases.add(self._list_of(lease), lease)

    def _drop(self, lease: Lease) -> None:
        """After an exception: release the lease, which would be renewed without an owner."""
        lock_leases.remove(self._list_of(lease), lease)
        if lease.is_held:
            with contextlib.suppress(RedlockError):
                lease.release()

    @property
    def _leases(self) -> list[Lease]:
        if self._options.thread_local and not isinstance(self._local, threading.local):
            # gevent or eventlet has replaced the class, for example in a worker with a preloaded module.
            self._local = threading.local()
        try:
            leases: list[Lease] = self._local.leases
        except AttributeError:
            leases = self._local.leases = []
        return leases

    def _list_of(self, lease: Lease) -> list[Lease]:
        """The list for this lease."""
        return self._leases if lease._thread is None else self._in_generators

    def _known(self, frame: object = None) -> list[Lease]:
        """The leases of this thread, and those of this generator, in the order of their acquisition."""
        if not self._in_generators:
            return self._leases
        thread, in_generators = held_leases.thread(), self._in_generators.copy()
        known = [one for one in in_generators if one._thread is thread or (frame and one._caller.frame == frame)]
        return sorted([*self._leases, *known], key=lambda lease: lease._order)

    @property
    def lease(self) -> Lease:
        """The lease that this thread holds: `.fence`, `.remaining()`, `.ensure_valid()`.

        Other threads may call its methods too, also `release` and `extend`.

        Raises:
            NotHeld: This thread does not hold the lock.
        """
        return self._last()

    def _last(self, *, acquired_first: bool = False) -> Lease:
        lease = lock_leases.of_call(self._known(), lambda lease: lease.is_held, acquired_first=acquired_first)
        if lease is None:
            raise self._not_held()
        return lease

    def _not_held(self) -> NotHeld:
        holder = "this thread" if self._options.thread_local else "this Lock"
        return NotHeld(f"lock {self.name!r} is not held by {holder}", self.name)

    @property
    def fence(self) -> int:
        """The fencing token of the lease that this thread holds."""
        return self.lease.fence

    def release(self) -> None:
        """Release the lock.

        Each thread releases its own leases. To release in another thread, pass the lease (`lock.lease`) and call its
        `release`, or make the lock with `thread_local=False`.

        Raises:
            NotHeld: This thread does not hold the lock.
            LockLost: The lease was lost before: another client may have held the lock at the same time.
        """
        lease = self._last(acquired_first=True)
        if not lease._is_block:
            # Before the release: after an exception the lease is dropped, and so no longer renewed.
            lock_leases.remove(self._leases, lease)
        try:
            lease.close(wait=self._options.wait_for_release, ends_blocks=False)
        except RedlockError:
            lease._is_released = True
            raise
        # After another exception the end of the block repeats the release.
        lease._is_released = True

    def extend(
        self,
        additional_time: float,
        replace_ttl: bool = False,  # noqa: FBT001, FBT002 - as in redis-py: extend(10, True)
    ) -> Literal[True]:
        """Make the lease last longer.

        Args:
            additional_time: Seconds to add to the remaining time, more than 0.
            replace_ttl: Whether to count from now instead of from the deadline. Never shortens the lease.

        Raises:
            NotHeld: This thread does not hold the lock.
            LockLost: The deadline has passed, or a quorum of nodes no longer has the lease.
            QuorumUnavailable: Too few nodes answered. The old deadline stands.
            ConfigurationError: The time is not a number above 0, or the sum is above `max_ttl`.
        """
        lease = self.lease
        lease.extend(lease._extension_seconds(additional_time, replace_ttl=replace_ttl))
        return True

    def reacquire(self) -> Literal[True]:
        """Set the remaining time back to the lock's TTL. Raises the errors of `extend`."""
        return self.extend(self._options.lease.ttl_ms / 1000, replace_ttl=True)

    def locked(self) -> bool:
        """Whether a quorum of nodes reports a holder, this client or another client.

        Raises:
            QuorumUnavailable: Too few nodes answered.
        """
        return any(find_holder(self._context, name) is not None for name in self.names)

    def owned(self) -> bool:
        """Whether this thread holds the lock, by its own deadline and by the replies of a quorum of nodes."""
        try:
            lease = self.lease
            token = lease.owner
        except NotHeld:
            return False
        if lease.is_lost:
            return False
        round_results = [self._context.pool.run(protocol.inspect(name)) for name in self.names]
        return all(sum(vote.holder == token for vote in result.votes) >= result.quorum for result in round_results)

    def __enter__(self) -> Lease:
        """Acquire the lock. `with ... as` gets the lease, which is renewed until the block ends.

        Raises:
            LockContended: Other clients held the lock until the end of `blocking_timeout`.
            QuorumUnavailable: Too few nodes voted.
            NoThread: This process can start no thread to renew the lease.
        """
        lease, acquire_timeout_ms = self._new_lease(None, None, is_block=True)
        try:
            self._acquire(lease, acquire_timeout_ms)
            return lease  # noqa: TRY300 - an exception at this point must find the lease too
        except BaseException:
            self._drop(lease)
            raise

    def __exit__(self, _type: object, exc: BaseException | None, _traceback: object) -> None:
        """Release the lease of this block. An error of the release never replaces an error of the body.

        Raises:
            LockLost: The lease was lost, and the body did not raise.
            NotHeld: The body has released the lock, and did not raise.
        """
        try:
            caller = lock_leases.Caller.of_block(1)
            lease = lock_leases.of_block(self._known(caller.frame), caller)
            if lease is not None:
                # Before the release, as above.
                lock_leases.remove(self._list_of(lease), lease)
            if lease is None or lease._is_released:
                raise self._not_held()
            lease.close(wait=self._options.wait_for_release)
        except RedlockError:
            if exc is None:
                raise
