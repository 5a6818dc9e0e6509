"""`@locked`: a Celery task that holds a quorum lock while its body runs.

Invariants:
1. A single `try/finally` around the body acquires and releases the lock. No task hook covers every ending: Celery does
   not call `after_return` for retries, `Ignore`, `Reject` and `SystemExit`. From Celery 5.7 on, `after_return` runs
   in the parent while the child may still be in the body (celery/worker/request.py `on_timeout`).
2. A release never masks the body's result or error, takes a bounded time, and sends nothing to the broker: a hard
   time limit leaves 100 ms.
3. Nothing connects before the fork: the first call of a task makes the client (`redlock.celery.client`).
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import sys
import time
from typing import TYPE_CHECKING, Literal, ParamSpec, TypeAlias, TypeVar, cast

from celery import current_app, current_task
from celery.exceptions import Retry, SoftTimeLimitExceeded, TaskPredicate

from redlock import _validation
from redlock._locking.caller_context import package_variable
from redlock.admin.visibility_timeout import MARK, marks
from redlock.celery import (
    heartbeat,  # noqa: F401 - the import connects the heartbeat to Celery's signals
    lost_lease,
    misuse,
    pools,
    task_events,
    task_registry,
)
from redlock.celery.client import client_of, settings_of
from redlock.celery.conflict_policy import Policy
from redlock.celery.lock_key import KeySpec, keys
from redlock.celery.owner_label import owner_label
from redlock.celery.single_delivery import delivery_of, noting_end
from redlock.celery.worker_start import UNFINISHED
from redlock.errors import LockContended, NotHeld, NoThread, QuorumUnavailable, RedlockError, Stale

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextvars import ContextVar

    from celery import Task

    from redlock.celery.conflict_policy import OnConflict, Skipped
    from redlock.celery.delivery import Delivery
    from redlock.lease import Lease

P = ParamSpec("P")
R = TypeVar("R")
TaskObservers: TypeAlias = tuple[task_events.TaskEventEmitter, task_registry.TaskLockEntry]
"""The observers of a run: the sender of Celery events, and the entry for `celery inspect locks`."""

_current: ContextVar[Lease | None] = package_variable("redlock_current_lease", None)


def current_lease() -> Lease:
    """The lease of the running task: `.fence`, `.remaining()`, `.ensure_valid()`.

    Raises:
        NotHeld: The caller is not inside the body of a task under `@locked`.

    Example:
        >>> current_lease()
        Traceback (most recent call last):
            ...
        redlock.errors.NotHeld: there is no current lease; it exists only inside the body of a task under @locked

        In a task, give the fencing token to the store, which refuses tokens of older leases:

        >>> from celery import Celery
        >>> app = Celery("shop", set_as_current=False)
        >>> @app.task
        ... @locked("account:{account_id}")
        ... def close_account(account_id: int) -> int:
        ...     lease = current_lease()
        ...     lease.ensure_valid()
        ...     return lease.fence
    """
    lease = _current.get()
    if lease is None:
        raise NotHeld("there is no current lease; it exists only inside the body of a task under @locked")
    return lease


def locked(
    key: KeySpec,
    *,
    ttl: float | None = None,
    wait: float = 1.0,
    on_conflict: OnConflict = "requeue",
    max_requeues: int | None = None,
    max_hold: float | None = None,
    on_lost: Literal["check", "raise"] = "check",
    reentrant: bool = False,
) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Let a task hold a lock while its body runs. The decorator stands below `@app.task`.

    Args:
        key: The resource: a template over the arguments, such as `"account:{account_id}"`, or a function of the
            arguments, which returns a name or a list of names. A list locks all of its resources or none.
        ttl: Seconds that the lease lasts, renewed while the task runs; default: the app's `redlock_ttl`.
        wait: Seconds to wait for the lock in the worker's slot, 0 or more.
        on_conflict: The action at the end of the wait. `"requeue"` sends the task back to the queue with jittered
            backoff and leaves the count of retries alone. `"skip"` returns a value with the status "skipped".
            `"raise"` raises `LockContended`. Without a quorum of votes, `"requeue"` requeues, and the other two
            raise `QuorumUnavailable`. The same holds for `NoThread`, because another worker may have threads.
        max_requeues: How often a task goes back to the queue before it raises, 0 or more; None without a limit. With
            an expiry, a task also raises if it could only return after its expiry.
        max_hold: Seconds until the renewal of the lease ends. Default: the task's hard time limit in the prefork
            pool, which kills the task at that limit. In the other pools body and lease may go on.
        on_lost: `"check"`: the next `current_lease().ensure_valid()` and the end of the task report a lost lease.
            `"raise"`: `LockLost` is raised inside the body too, in the way of a soft time limit. This works in the
            prefork and solo pools; a worker with another pool refuses to start.
        reentrant: Whether a task that calls another task in the same process shares its lease with that task. The
            lease keeps its `ttl` and `max_hold`; those of the inner task have no effect.

    Raises:
        ConfigurationError: At import, if the decorator stands above `@app.task`, on `async def` or on another
            `@locked`, or an argument is invalid.
        LockLost: From the task, if the lease was lost before the body ended and the body did not raise.

    Example:
        >>> from celery import Celery
        >>> app = Celery("shop", set_as_current=False)
        >>> @app.task
        ... @locked("account:{account_id}", wait=1.0)
        ... def transfer(account_id: int, amount: int) -> int:
        ...     return current_lease().fence
        >>> @app.task
        ... @locked("report:{kind}", on_conflict="ignore")
        ... def report(kind: str) -> None: ...
        Traceback (most recent call last):
            ...
        redlock.errors.ConfigurationError: on_conflict is 'ignore'; it must be 'requeue', 'skip' or 'raise'
    """
    misuse.refuse_bare(key, sys._getframe(1))  # noqa: SLF001 - only the frame tells a key from a decorated function
    policy = Policy.checked(wait, on_conflict, max_requeues)
    _check(ttl, max_hold, on_lost)
    _validation.flag("reentrant", reentrant)

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        misuse.refuse_target(function)
        lock_keys = keys(key, function)
        if on_lost == "raise":
            lost_lease.register_task(function)

        @functools.wraps(function)
        def run(*args: P.args, **kwargs: P.kwargs) -> R:
            task = current_task._get_current_object() if current_task else None  # noqa: SLF001 - no public equivalent
            app = task.app if task else current_app._get_current_object()  # noqa: SLF001 - as above
            # A call from the body of a task has no message of its own, so the call can't go back to the queue.
            is_message = _current.get() is None and task is not None and any(own is mark for own in marks(task))
            message = task if is_message else None
            delivery = delivery_of(message)
            settings = settings_of(app)
            client = client_of(app, settings)
            since = delivery.since if delivery is not None else 0.0
            emitter = task_events.emitter_for(message, settings.events, since)
            observers = (emitter, task_registry.TaskLockEntry(task, since))

            def lost(lease: Lease) -> None:
                for observer in observers:
                    observer.lost(lease)
                if on_lost == "raise":
                    lost_lease.interrupt(lease)

            lease = client.lease(
                [name for lock_key in lock_keys for name in lock_key.of(args, kwargs)],
                ttl_ms=None if ttl is None else client._context.checked_ttl_ms(ttl),  # noqa: SLF001 - of this package
                owner_label=owner_label(task),
                renew=True,
                max_hold_ms=_max_hold_ms(max_hold, task),
                reentrant=reentrant,
                on_lost=lost,
            )
            try:
                with _hold(lease, policy, delivery, observers) as skipped:
                    if skipped is not None:
                        return cast("R", skipped)
                    loss = lost_lease.interruptible(lease) if on_lost == "raise" else contextlib.nullcontext()
                    # The body has sent a message before it raises `Retry`.
                    with loss, noting_end(delivery, Retry):
                        return function(*args, **kwargs)
            except Stale as stale:
                client.observe_fence(lease.names, stale.seen)
                if policy.on_conflict == "requeue" and delivery is not None:
                    with noting_end(delivery, TaskPredicate):
                        _requeue(stale, policy, delivery)
                raise

        # To check the arguments of a call, Celery reads `__signature__` and ignores `__wrapped__`.
        mark = run.__dict__[MARK] = (wait, ttl)
        run.__signature__ = inspect.signature(function)  # type: ignore[attr-defined]
        return run

    decorate.__dict__[UNFINISHED] = True
    return decorate


@contextlib.contextmanager
def _hold(
    lease: Lease, policy: Policy, delivery: Delivery | None, observers: TaskObservers
) -> Iterator[Skipped | None]:
    """Hold the lease during the block, or yield the value of a skipped task."""
    reset = _current.set(lease)
    try:
        listeners = (*observers, *(() if delivery is None else (delivery,)))
        with task_events.wait_listeners(*listeners), noting_end(delivery, TaskPredicate):
            skipped = _acquire(lease, policy, delivery)
        if skipped is None:
            for observer in observers:
                observer.acquired(lease)
        yield skipped
    except BaseException:
        with contextlib.suppress(RedlockError):
            lease.release()
        raise
    else:
        if skipped is None:
            lease.close()
    finally:
        _current.reset(reset)
        observers[-1].over()


def _acquire(lease: Lease, policy: Policy, delivery: Delivery | None) -> Skipped | None:
    wait_ms = policy.wait_ms
    try:
        if delivery is not None and policy.on_conflict == "requeue":
            delivery.keep_arguments()
        while True:
            if delivery is not None:
                lease.waited_ms = delivery.waited_ms()
            try:
                lease.acquire(wait_ms)
            except (LockContended, QuorumUnavailable, NoThread) as error:
                skipped = policy.apply(error, delivery)
                if skipped is not None:
                    return skipped
                pause_ms = delivery.pause_ms() if delivery is not None else 0
                wait_ms = max(policy.wait_ms, pause_ms)
                if isinstance(error, NoThread):  # the lock may be free, and its acquire then does not wait
                    time.sleep(pause_ms / 1000)
            else:
                if delivery is not None and not delivery.has_run:
                    policy.drop_finished_copy(lease.resource, delivery, awaits_result=True)
                    delivery.has_run = True
                return None
    except SoftTimeLimitExceeded as limit:
        policy.on_soft_time_limit(limit, lease.resource, delivery)
        raise


def _requeue(stale: Stale, policy: Policy, delivery: Delivery) -> None:
    """Requeue a run whose write the store refused. Waits until the broker takes the message."""
    delivery.since = time.time()  # the time of the body is no wait
    try:
        while True:
            policy.apply(stale, delivery)
            time.sleep(delivery.pause_ms() / 1000)
    except SoftTimeLimitExceeded as limit:
        policy.on_soft_time_limit(limit, stale.lock_name, delivery)
        raise
    finally:
        del stale  # see `Policy.apply`


def _max_hold_ms(max_hold: float | None, task: Task | None) -> int | None:
    """The task's own setting, else the hard time limit if the pool kills the task at that limit."""
    if max_hold is None and task is not None and not task.request.called_directly:
        max_hold = pools.hard_limit(task)
    return None if max_hold is None else int(max_hold * 1000)


def _check(ttl: float | None, max_hold: float | None, on_lost: str) -> None:
    if ttl is not None:
        _validation.number("ttl", ttl)
    _validation.max_hold_ms(max_hold)
    _validation.choice("on_lost", on_lost, ("check", "raise"))
