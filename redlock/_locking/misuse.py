"""Clear errors for calls that cannot work here: options of redis-py, calls in an event loop, copies and pickles."""

from __future__ import annotations

import inspect
from asyncio.events import _get_running_loop
from typing import TYPE_CHECKING

from redlock.errors import ConfigurationError, RedlockError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

_NO_SLEEP = "leave the option out: a release wakes the next waiter, so there is no polling interval"
LOCK = {
    "timeout": "the lease's length is `ttl`, the time to wait is `blocking_timeout`",
    "sleep": _NO_SLEEP,
    "lock_class": "leave the option out: there is one class of locks",
    "raise_on_release_error": "catch LockLost and NotHeld",
}
"""The options of redis-py's `lock()`."""
ASYNCIO_LOCK = LOCK | {
    "thread_local": "leave the option out: a Lock is held by the code that has it, not by a thread or task",
}
"""The options of redis-py's `lock()` and of `redlock.Redlock.lock`."""
_ACQUIRE = {
    "timeout": "the time to wait is `blocking_timeout`",
    "sleep": _NO_SLEEP,
    "token": "leave the option out: each attempt has an owner token of its own",
}

NO_PICKLE = (
    "a Redlock client can't be pickled: the pickle would carry the passwords of the nodes; "
    "make a client in the child process, from the same settings"
)
NO_COPY_OF_LOCK = (
    "a Lock can't be copied or pickled: a copy would have the same leases; make another with the client's lock(), "
    "and in another process make a client first"
)
NO_COPY_OF_LEASE = (
    "a lease can't be copied or pickled: a copy would stay held after the release of the other; use the lease itself, "
    "and in another process its `fence`"
)
NO_COPY_OF_STORE = (
    "a fenced store can't be copied or pickled: the pickle would carry the password of its Redis; "
    "make a store in the child process, from the same settings"
)


def refuse_options(call: str, options: Mapping[str, object], known: Mapping[str, str]) -> None:
    """Refuse options that have no meaning here; for a known one the message names the right option."""
    for name in options:
        if name in known:
            raise ConfigurationError(f"{call}() has no option {name!r}; {known[name]}")
        raise TypeError(f"{call}() got an unexpected keyword argument {name!r}")


def check_acquire(blocking: object, options: Mapping[str, object]) -> None:
    """Refuse options of redis-py's `acquire()`; the message names the right option."""
    if blocking is not None:
        checked_blocking("acquire", blocking)
    if options:
        refuse_options("acquire", options, _ACQUIRE)


def checked_blocking(call: str, blocking: object) -> bool:
    """The option `blocking`, which could be a time by mistake."""
    if not isinstance(blocking, bool):
        raise ConfigurationError(
            f"{call}(): blocking is {blocking!r:.40}; it must be True or False. "
            "The time to wait is `blocking_timeout`, and redis-py's `sleep` has no meaning here"
        )
    return blocking


def check_on_lost(on_lost: object) -> None:
    """Refuse an `on_lost` that a thread could not call."""
    if on_lost is None:
        return
    if not callable(on_lost):
        hint = "; only redlock.asyncio can cancel a block" if on_lost == "cancel" else ""
        raise ConfigurationError(f"on_lost is {on_lost!r:.60}; it must be a function, which gets the lease{hint}")
    if _is_any(inspect.iscoroutinefunction, on_lost):
        raise ConfigurationError(
            f"on_lost is the coroutine function {on_lost!r:.60}, which no event loop would run; "
            "use a plain function, or redlock.asyncio"
        )
    _check_no_generator(on_lost)


def check_asyncio_on_lost(on_lost: object) -> None:
    """Refuse an `on_lost` that an event loop could not call."""
    if on_lost is None or on_lost == "cancel":
        return
    if not callable(on_lost):
        raise ConfigurationError(f"on_lost is {on_lost!r:.60}; it must be a function, or 'cancel'")
    _check_no_generator(on_lost)


def _check_no_generator(function: object) -> None:
    if _is_any(inspect.isgeneratorfunction, function) or _is_any(inspect.isasyncgenfunction, function):
        raise ConfigurationError(
            f"on_lost is the generator function {function!r:.60}, whose body no call would run; use a function"
        )


def _is_any(is_of_kind: Callable[[object], bool], function: object) -> bool:
    """Whether a function, or the method by which an object can be called, is of this kind."""
    return is_of_kind(function) or is_of_kind(type(function).__call__)


def check_event_loop() -> None:
    """Refuse a blocking call inside a running asyncio event loop."""
    if _get_running_loop() is not None:
        raise RedlockError(
            "a redlock.Lock blocks its thread, and this thread runs an asyncio event loop; use redlock.asyncio.Redlock "
            "there, or allow the call with Redlock(..., allow_event_loop=True)"
        )
