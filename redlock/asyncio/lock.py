"""`Lock` for asyncio, with the conventions of `redis.asyncio.lock`.

Rules where a lock on several nodes differs, beside the first three of `redlock.lock`:
1. `async with` gives the lease, and raises `LockContended` where redis-py raises `LockError`.
2. Each attempt has its own owner token, so `acquire` takes no `token`.

As with redis-py, a `Lock` object is held by the code that has the object, not by a task: any task of its event loop may
release the lock.
"""

from __future__ import annotations

import asyncio
import socket
from typing import TYPE_CHECKING, Literal, NoReturn

from redlock import _process
from redlock._core import protocol
from redlock._escaping import bounded_label
from redlock._locking import held_leases, lock_leases, misuse
from redlock._locking.caller_context import caller_context
from redlock.asyncio._cancel_scope import CancelScope
from redlock.asyncio._inner_lease import InnerLease
from redlock.asyncio.lease import Lease
from redlock.errors import ConfigurationError, LockContended, LockLost, NotHeld, RedlockError

__all__ = ["Lock"]

if TYPE_CHECKING:
    from typing_extensions import Never

    from redlock._core.commands import Names
    from redlock._locking.options import LockOptions
    from redlock.asyncio._loop_parts import LoopContext

_HOST = socket.gethostname()


class Lock:
    """A lock on a resource, or on a set of resources. `redlock.asyncio.Redlock.lock` makes the lock.

    A lease can end while its holder works, for example because the event loop is blocked. See `Lease.ensure_valid` and
    the fencing token.

    Example:
        >>> async def pay() -> None:
        ...     lock = redlock.lock("invoice:7", blocking_timeout=2.0)
        ...     if await lock.acquire():
        ...         try:
        ...             print("working under a token:", lock.fence > 0)
        ...         finally:
        ...             await lock.release()
        ...     print(await lock.locked())
        >>> asyncio.run(pay())
        working under a token: True
        False
    """

    def __init__(self, context: LoopContext, names: Names, options: LockOptions, *, cancels: bool) -> None:
        self.names = names
        self._context = context
        self._options = options
        self._cancels = cancels
        self._leases: list[Lease] = []

    def __reduce__(self) -> NoReturn:
        raise TypeError(misuse.NO_COPY_OF_LOCK)

    @property
    def name(self) -> str:
        """The locked names, with commas between them."""
        return ", ".join(self.names)

    async def acquire(
        self,
        blocking: bool | None = None,  # noqa: FBT001 - as in redis-py: acquire(False)
        blocking_timeout: float | None = None,
        **redis_options: Never,
    ) -> bool:
        """Acquire the lock. A cancellation at any moment leaves nothing behind on a node that can be reached.

        Args:
            blocking: False for a single attempt. Default: the lock's setting.
            blocking_timeout: The limit in seconds, 0 or more; infinity for no limit. None: the lock's setting. Prefer
                it to `asyncio.wait_for`, which before Python 3.12 can lose a lock that was acquired at the last moment.
            redis_options: Not used. An option of redis-py that has no meaning here is refused by name.

        Returns:
            True if the lock is now held; False if other clients held the lock until the limit.

        Raises:
            QuorumUnavailable: Too few nodes voted until the limit; without a limit, for one TTL.
            RedlockError: This task holds the lock already, `reentrant` is off, and the wait has no limit: the task
                would wait for itself.
            ConfigurationError: The addresses lead to too few servers, other clients have other settings, or the lock
                has `on_lost="cancel"`, which needs a block.
        """
        misuse.check_acquire(blocking, redis_options)
        if self._cancels:
            raise ConfigurationError("acquire(): on_lost='cancel' cancels a block, so use `async with`")
        lease, acquire_timeout_ms = self._new_lease(blocking, blocking_timeout, is_block=False)
        try:
            await self._acquire(lease, acquire_timeout_ms)
        except LockContended:
            return False
        return True

    def _new_lease(
        self,
        blocking: bool | None,  # noqa: FBT001 - as acquire
        blocking_timeout: float | None,
        *,
        is_block: bool,
    ) -> tuple[Lease, int | None]:
        """A lease to acquire, and the time limit of its acquisition.

        The lease is new, or the entry of a re-entrant block into a lease that the running task holds on these names.
        """
        options, acquire_timeout_ms = self._options.lease, self._options.acquire_timeout_ms(blocking, blocking_timeout)
        task = asyncio.current_task()
        owner_label = bounded_label(f"{_HOST}/{_process.pid()}/{'no task' if task is None else task.get_name()}")
        lease = Lease(self._context, self.names, options, owner_label, is_block=is_block)
        outer = held_leases.claim(lease, reentrant=options.reentrant, forever=acquire_timeout_ms is None)
        if outer is not lease:
            lease = InnerLease(outer, options.on_lost, is_block=is_block)
        if options.on_lost is not None:
            lease._caller_context = caller_context()
        lease._caller = lock_leases.Caller.of_block(2) if is_block else lock_leases.Caller.of_acquire()
        return lease, acquire_timeout_ms

    async def _acquire(self, lease: Lease, acquire_timeout_ms: int | None) -> None:
        try:
            await lease.acquire(acquire_timeout_ms)
            lock_leases.add(self._leases, lease)
        except BaseException:
            lock_leases.remove(self._leases, lease)
            lease._drop()
            raise

    @property
    def lease(self) -> Lease:
        """The lease that this lock holds: `.fence`, `.remaining()`, `.ensure_valid()`.

        Raises:
            NotHeld: The lock is not held.
        """
        return self._last()

    def _last(self, *, for_release: bool = False) -> Lease:
        lease = lock_leases.of_call(
            self._leases,
            lambda lease: lease.is_held or (for_release and lease._is_releasing),
            acquired_first=for_release,
        )
        if lease is None:
            raise self._not_held()
        return lease

    def _not_held(self) -> NotHeld:
        return NotHeld(f"lock {self.name!r} is not held by this Lock", self.name)

    @property
    def fence(self) -> int:
        """The fencing token of the lease that this lock holds."""
        return self.lease.fence

    async def release(self) -> None:
        """Release the lock, from any task of its event loop.

        A cancelled release goes on. The call can be repeated, until this task acquires the lock again, and gets the
        same outcome.

        Raises:
            NotHeld: The lock is not held.
            LockLost: The lease was lost before: another client may have held the lock at the same time.
        """
        lease = self._last(for_release=True)
        try:
            await lease.close(wait=self._options.wait_for_release, ends_blocks=False)
        except (LockLost, NotHeld):
            self._note_release(lease)
            raise
        # After a cancellation the release goes on, and its repetition finds the lease and gets the outcome.
        self._note_release(lease)

    def _note_release(self, lease: Lease) -> None:
        lease._is_released = True
        if not lease._is_block:
            lock_leases.remove(self._leases, lease)

    async def extend(
        self,
        additional_time: float,
        replace_ttl: bool = False,  # noqa: FBT001, FBT002 - as in redis-py: extend(10, True)
    ) -> Literal[True]:
        """Make the lease last longer.

        Args:
            additional_time: Seconds to add to the remaining time, more than 0.
            replace_ttl: Whether to count from now instead of from the deadline. Never shortens the lease.

        Raises:
            NotHeld: The lock is not held.
            LockLost: The deadline has passed, or a quorum of nodes no longer has the lease.
            QuorumUnavailable: Too few nodes answered. The old deadline stands.
            ConfigurationError: The time is not a number above 0, or the sum is above `max_ttl`.
        """
        lease = self.lease
        await lease.extend(lease._extension_seconds(additional_time, replace_ttl=replace_ttl))
        return True

    async def reacquire(self) -> Literal[True]:
        """Set the remaining time back to the lock's TTL. Raises the errors of `extend`."""
        return await self.extend(self._options.lease.ttl_ms / 1000, replace_ttl=True)

    async def locked(self) -> bool:
        """Whether a quorum of nodes reports a holder, this client or another client.

        Raises:
            QuorumUnavailable: Too few nodes answered.
        """
        for name in self.names:
            if await self._context.holder(name) is not None:
                return True
        return False

    async def owned(self) -> bool:
        """Whether this lock is held, by its own deadline and by the replies of a quorum of nodes."""
        try:
            lease = self.lease
            token = lease.owner
        except NotHeld:
            return False
        if lease.is_lost:
            return False
        connections = self._context.parts().connections
        results = [await connections.run(protocol.inspect(name)) for name in self.names]
        return all(sum(vote.holder == token for vote in result.votes) >= result.quorum for result in results)

    async def __aenter__(self) -> Lease:
        """Acquire the lock. `async with ... as` gets the lease, which is renewed until the block ends.

        Raises:
            LockContended: Other clients held the lock until the end of `blocking_timeout`.
            QuorumUnavailable: Too few nodes voted.
        """
        lease, acquire_timeout_ms = self._new_lease(None, None, is_block=True)
        if self._cancels:
            lease._scope = CancelScope(self.name)
        await self._acquire(lease, acquire_timeout_ms)
        return lease

    async def __aexit__(self, _type: object, exc: BaseException | None, _traceback: object) -> None:
        """Release the lease of this block. An error of the release never replaces an error of the body.

        Raises:
            LockLost: The lease was lost, and the body did not raise, or was cancelled for this reason alone.
            NotHeld: The body has released the lock, and did not raise.
        """
        caller, is_cancelled_here, lease = lock_leases.Caller.of_block(1), False, None
        try:
            lease = self._lease_of_block(caller)
            is_cancelled_here = lease._scope is not None and lease._scope.end(exc)
            lock_leases.remove(self._leases, lease)
            if lease._is_released:
                raise self._not_held()
            await lease.close(wait=self._options.wait_for_release)
        except RedlockError as error:
            if exc is None or (is_cancelled_here and isinstance(error, LockLost)):
                raise
        except BaseException:
            # Without its block the lease would be renewed for ever. After a cancellation the release goes on anyway.
            (lease or self._lease_of_block(caller))._drop()
            raise

    def _lease_of_block(self, caller: lock_leases.Caller) -> Lease:
        lease = lock_leases.of_block(self._leases, caller)
        if lease is None:
            raise self._not_held()
        return lease
