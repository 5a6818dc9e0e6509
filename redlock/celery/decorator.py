"""`@locked`: a Celery task that holds a quorum lock while its body runs.

Rules of this file:
1. The lock is taken and given back in one `try/finally` round the body. No task hook covers every ending:
   `after_return` is not called for retries, `Ignore`, `Reject` or `SystemExit`, and from Celery 5.7 on it runs
   in the parent while the child may still be inside (celery/worker/request.py `on_timeout`).
2. Giving it back never masks what the body did, is bounded, and sends nothing to the broker: a hard time limit
   leaves 100 ms.
3. Nothing is made before the fork: the client is made at the first use and dials then.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import os
import socket
import sys
import time
import weakref
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, ParamSpec, TypeAlias, TypeVar, cast

from celery import current_app, current_task
from celery.exceptions import SoftTimeLimitExceeded

from redlock import _validation
from redlock.admin.visibility_timeout import MARK
from redlock.celery import (
    heartbeat,  # noqa: F401 - pulse waits for Celery's signals
    lost_lease,
    misuse,
    pools,
    task_events,
    task_registry,
)
from redlock.celery.conf import of_conf
from redlock.celery.conflict_policy import Policy, Skipped
from redlock.celery.delivery import Delivery
from redlock.celery.lock_key import KeySpec, keys
from redlock.celery.worker_start import UNFINISHED
from redlock.errors import (
    ConfigurationError,
    LockContended,
    NotHeld,
    QuorumUnavailable,
    RedlockError,
    Stale,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from celery import Celery, Task

    from redlock.client import Redlock
    from redlock.lease import Lease
    from redlock.settings import Settings

P = ParamSpec("P")
R = TypeVar("R")
TaskObservers: TypeAlias = tuple[task_events.TaskEventEmitter, task_registry.TaskLockEntry]
"""Who is told how a run fares: listeners to Celery's events, and those who ask the worker."""

_current: ContextVar[Lease | None] = ContextVar("redlock_current_lease", default=None)
_clients: weakref.WeakKeyDictionary[Any, tuple[Settings, Redlock]] = weakref.WeakKeyDictionary()
_settings: weakref.WeakKeyDictionary[Any, tuple[dict[str, Any], Settings]] = weakref.WeakKeyDictionary()
"""Each app's settings, with the changes of its configuration from which they were read."""


def current_lease() -> Lease:
    """The lease of the task that is running: `.fence`, `.remaining()`, `.ensure_valid()`.

    Raises:
        NotHeld: Not inside a task under `@locked`.
    """
    lease = _current.get()
    if lease is None:
        raise NotHeld("there is no current lease; it exists only inside the body of a task under @locked")
    return lease


def client_for(app: Celery) -> Redlock:
    """The lock client of a Celery app, made at the first use from `app.conf.redlock_*`, else `REDLOCK_*`.

    A later change of the app's configuration that changes a setting makes a new client; leases that are held stay with
    the old one.

    Raises:
        ConfigurationError: A setting is not known or no good.
    """
    return _client(app, settings_of(app))


def _client(app: Celery, settings: Settings) -> Redlock:
    made = _clients.get(app)
    if made is None:
        made = _clients.setdefault(app, (settings, settings.client()))
    elif made[0] is not settings and made[0] != settings:
        made = _clients[app] = (settings, settings.client())
    return made[1]


def settings_of(app: Celery) -> Settings:
    """The lock's settings of a Celery app, as it is configured now.

    Raises:
        ConfigurationError: One of them is not known or no good.
    """
    read = _settings.get(app)
    if read is None or read[0] != app.conf.changes:
        settings = of_conf(app.conf)
        read = _settings[app] = (dict(app.conf.changes), settings)
    return read[1]


def locked(
    key: KeySpec,
    *,
    ttl: float | None = None,
    wait: float = 1.0,
    on_conflict: str = "requeue",
    max_requeues: int | None = None,
    max_hold: float | None = None,
    on_lost: str = "check",
    reentrant: bool = False,
) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Let a task hold a lock while its body runs. Goes under `@app.task`.

    Args:
        key: The resource: a template over the arguments, such as `"account:{account_id}"`, or a function of them;
            a list of these is taken all or nothing.
        ttl: Seconds that the lease lasts, renewed while the task runs; default: the app's `redlock_ttl`.
        wait: Seconds to wait in the worker's slot, 0 or more.
        on_conflict: What to do when that is over: `"requeue"` sends the task back to the queue with jittered
            backoff, without touching its retries; `"skip"` returns a value that says so; `"raise"` raises
            `LockContended`. Where too few nodes voted, `"requeue"` requeues, the others raise `QuorumUnavailable`.
        max_requeues: How often it may go back to the queue, 0 or more; then it raises. None: without end.
        max_hold: Seconds after which the lease is renewed no more; default: the task's hard time limit in the prefork
            pool, which kills the task then. In the other pools the body may go on, and the lease with it.
        on_lost: `"check"`: a lost lease shows at the next `current_lease().ensure_valid()` and at the end.
            `"raise"`: it also raises `LockLost` inside the body, as a soft time limit does, in the prefork and
            solo pools; elsewhere the worker refuses to start.
        reentrant: Whether a task that calls another in the same process shares the lease that it holds.

    Raises:
        ConfigurationError: At import, if it stands above `@app.task` or on `async def`, or an argument is no good.
        LockLost: From the task, if the lease was lost before the body was done and the body did not raise.
    """
    misuse.refuse_bare(key, sys._getframe(1))  # noqa: SLF001 - nothing else tells a key from a decorated function
    policy = Policy.checked(wait, on_conflict, max_requeues)
    _check(ttl, max_hold, on_lost)

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        misuse.refuse_target(function)
        named = keys(key, function)
        if on_lost == "raise":
            lost_lease.wanted_by(function)

        @functools.wraps(function)
        def run(*args: P.args, **kwargs: P.kwargs) -> R:
            task = current_task._get_current_object() if current_task else None  # noqa: SLF001 - a proxy's only door
            app = task.app if task else current_app._get_current_object()  # noqa: SLF001 - as above
            # What is called from inside another section is no message of its own: it can't go back to the queue.
            message = None if _current.get() is not None else task
            delivery = Delivery.of(message)
            settings = settings_of(app)
            client, observers = (
                _client(app, settings),
                (task_events.told(message, settings.events), task_registry.TaskLockEntry(task)),
            )

            def lost(lease: Lease) -> None:
                for observer in observers:
                    observer.lost(lease)
                if on_lost == "raise":
                    lost_lease.interrupt(lease)

            lease = client.lease(
                [one.of(args, kwargs) for one in named],
                ttl_ms=None if ttl is None else client.context.checked_ttl_ms(ttl),
                owner_label=_owner_label(task),
                renew=True,
                max_hold_ms=_max_hold_ms(max_hold, task),
                reentrant=reentrant,
                on_lost=lost,
            )
            try:
                with _holding(lease, policy, delivery, observers) as skipped:
                    if skipped is not None:
                        return cast("R", skipped.value)
                    with lost_lease.possible(lease) if on_lost == "raise" else contextlib.nullcontext():
                        return function(*args, **kwargs)
            except Stale as stale:
                client.observe_fence(lease.names, stale.seen)
                if policy.on_conflict == "requeue":
                    _requeue(stale, policy, delivery)
                raise

        # Celery does not follow `__wrapped__` when it checks a call's arguments; it does look at this.
        run.__dict__[MARK] = (wait, ttl)
        run.__signature__ = inspect.signature(function)  # type: ignore[attr-defined]
        return run

    decorate.__dict__[UNFINISHED] = True
    return decorate


@contextlib.contextmanager
def _holding(
    lease: Lease, policy: Policy, delivery: Delivery | None, observers: TaskObservers
) -> Iterator[Skipped | None]:
    """Hold the lease, or say what the task is to return instead."""
    reset = _current.set(lease)
    try:
        with task_events.wait_listeners(*observers, *(() if delivery is None else (delivery,))):
            skipped = _take(lease, policy, delivery)
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


def _take(lease: Lease, policy: Policy, delivery: Delivery | None) -> Skipped | None:
    wait_ms = policy.wait_ms
    try:
        while True:
            try:
                lease.acquire(wait_ms)
            except (LockContended, QuorumUnavailable) as error:
                skipped = policy.refused(error, delivery)
                if skipped is not None:
                    return skipped
                wait_ms = max(policy.wait_ms, delivery.pause_ms() if delivery is not None else 0)
            else:
                policy.refuse_a_copy(lease.resource, delivery, settle=True)
                if delivery is not None:
                    lease.waited_ms = max(lease.waited_ms, delivery.waited_ms())
                return None
    except SoftTimeLimitExceeded:
        policy.overtime(delivery)
        raise


def _requeue(stale: Stale, policy: Policy, delivery: Delivery | None) -> None:
    """Requeue a run that the store refused; waits until it can be sent."""
    try:
        while True:
            policy.refused(stale, delivery)
            time.sleep(delivery.pause_ms() / 1000 if delivery is not None else 0)
    except SoftTimeLimitExceeded:
        policy.overtime(delivery)
        raise


def _max_hold_ms(max_hold: float | None, task: Task | None) -> int | None:
    """What was asked for, else the hard time limit where the pool kills at that: the lease of a dead task may end."""
    if max_hold is None and task is not None and not task.request.called_directly and pools.enforces_hard_limits():
        hard, _ = task.request.timelimit or (None, None)
        max_hold = hard or task.time_limit or task.app.conf.task_time_limit
    return None if max_hold is None else int(max_hold * 1000)


def _check(ttl: float | None, max_hold: float | None, on_lost: str) -> None:
    if ttl is not None:
        _validation.number("ttl", ttl)
    if max_hold is not None:
        _validation.number("max_hold", max_hold)
    if on_lost not in ("check", "raise"):
        raise ConfigurationError(f"on_lost is {on_lost!r}; it must be 'check' or 'raise'")


def _owner_label(task: Task | None) -> str:
    since = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    request = task.request if task is not None else None
    if request is None or request.called_directly:
        return f"pid {os.getpid()}@{socket.gethostname()} since {since}"
    return f"{request.id}@{request.hostname or socket.gethostname()} since {since}"
