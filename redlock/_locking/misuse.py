"""Clear errors for calls that cannot work here: options of redis-py, calls in an event loop, pickles."""

from __future__ import annotations

from asyncio.events import _get_running_loop
from typing import TYPE_CHECKING

from redlock.errors import ConfigurationError, RedlockError

if TYPE_CHECKING:
    from collections.abc import Mapping

_NO_SLEEP = "leave the option out: a release wakes the next waiter, so there is no polling interval"
_LOCK = {
    "timeout": "the lease's length is `ttl`, the time to wait is `blocking_timeout`",
    "sleep": _NO_SLEEP,
    "lock_class": "leave the option out: there is one class of locks",
    "raise_on_release_error": "catch LockLost and NotHeld",
}
_ASYNCIO_LOCK = _LOCK | {
    "thread_local": "leave the option out: a Lock is held by the code that has it, not by a thread or task",
}
_ACQUIRE = {
    "timeout": "the time to wait is `blocking_timeout`",
    "sleep": _NO_SLEEP,
    "token": "leave the option out: each attempt has an owner token of its own",
}

NO_PICKLE = (
    "a Redlock client can't be pickled: the pickle would carry the passwords of the nodes; "
    "make a client in the child process, from the same settings"
)


def check_lock(options: Mapping[str, object]) -> None:
    """Refuse options of redis-py's `lock()`; the message names the right option."""
    _refuse("lock", options, _LOCK)


def check_asyncio_lock(options: Mapping[str, object]) -> None:
    """Refuse options of the locks of redis-py and of `redlock`; the message names the right option."""
    _refuse("lock", options, _ASYNCIO_LOCK)


def check_acquire(blocking: object, options: Mapping[str, object]) -> None:
    """Refuse options of redis-py's `acquire()`; the message names the right option."""
    if blocking is not None and not isinstance(blocking, bool):
        raise ConfigurationError(
            f"acquire(): blocking is {blocking!r:.40}; it must be True or False. "
            "The time to wait is `blocking_timeout`, and redis-py's `sleep` has no meaning here"
        )
    if options:
        _refuse("acquire", options, _ACQUIRE)


def _refuse(call: str, options: Mapping[str, object], known: Mapping[str, str]) -> None:
    for name in options:
        if name in known:
            raise ConfigurationError(f"{call}() has no option {name!r}; {known[name]}")
        raise TypeError(f"{call}() got an unexpected keyword argument {name!r}")


def check_event_loop() -> None:
    """Refuse a blocking call inside a running asyncio event loop."""
    if _get_running_loop() is not None:
        raise RedlockError(
            "a redlock.Lock blocks its thread, and this thread runs an asyncio event loop; use redlock.asyncio.Redlock "
            "there, or allow the call with Redlock(..., allow_event_loop=True)"
        )
