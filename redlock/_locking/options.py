"""The validated options of a lease and of a lock, each as one frozen value."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any, NamedTuple

from redlock import _validation
from redlock._locking import misuse

if TYPE_CHECKING:
    from collections.abc import Callable

_MOST_KNOWN = 128
_PLAIN = frozenset({bool, int, float, type(None)})
"""The types of options that are remembered. A subclass could change its value, or keep objects alive."""


class LeaseOptions(NamedTuple):
    """The options of a lease; see `Redlock.lease`."""

    ttl_ms: int
    renew: bool = False
    max_hold_ms: int | None = None
    reentrant: bool = False
    on_lost: Callable[[Any], object] | None = None


class LockOptions(NamedTuple):
    """The options of a lock; see `Redlock.lock`."""

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


def lock_options(
    ttl_ms: int,
    *,
    renew: object,
    max_hold: object,
    reentrant: object,
    on_lost: Callable[[Any], object] | None,
    blocking: object,
    blocking_timeout: object,
    wait_for_release: object,
    thread_local: object = False,
) -> LockOptions:
    """The options of a lock, as a caller gave them. `ttl_ms` and `on_lost` are checked before."""
    # By position: to look for remembered keyword arguments takes as long as to check them.
    given = (ttl_ms, renew, max_hold, reentrant, blocking, blocking_timeout, wait_for_release, thread_local)
    options = _known(*given) if _PLAIN.issuperset(map(type, given)) else _checked(*given)
    return options if on_lost is None else options._replace(lease=options.lease._replace(on_lost=on_lost))


def _checked(  # noqa: PLR0917 - as the keyword arguments of `lock`
    ttl_ms: int,
    renew: object,
    max_hold: object,
    reentrant: object,
    blocking: object,
    blocking_timeout: Any,  # noqa: ANN401 - checked here
    wait_for_release: object,
    thread_local: object,
) -> LockOptions:
    flag, max_hold_ms = _validation.flag, _validation.max_hold_ms(max_hold)
    return LockOptions(
        LeaseOptions(ttl_ms, flag("renew", renew), max_hold_ms, flag("reentrant", reentrant)),
        misuse.checked_blocking("lock", blocking),
        _validation.acquire_timeout(blocking_timeout),
        flag("wait_for_release", wait_for_release),
        flag("thread_local", thread_local),
    )


# A program makes thousands of locks with the same options. The types count too: 1 equals True, and only True is valid.
_known = functools.lru_cache(_MOST_KNOWN, typed=True)(_checked)
