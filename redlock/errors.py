"""The exceptions of this package.

    redis.exceptions.LockError            the base class of redis-py's lock errors.
    └── RedlockError                      the base class of all errors of this package.
        ├── ConfigurationError            the call or the settings are wrong; waiting will not help.
        ├── LockContended                 another client holds the lock.
        ├── QuorumUnavailable             too few nodes answered.
        ├── NoThread                      this process can start no thread.
        ├── NotHeld                       release or extension of a lock that the caller does not hold.
        ├── LockLost                      the lease ended too early (also a LockNotOwnedError).
        └── Stale                         the fenced store has seen a newer token.

Invariants: `args` are the arguments of the constructor, and all of them are plain JSON values. So each error survives
pickle and Celery's JSON results. No argument ever holds a password.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, SupportsInt

from redis.exceptions import LockError, LockNotOwnedError

from redlock._masking import mask

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = [
    "ConfigurationError",
    "LockContended",
    "LockLost",
    "NoThread",
    "NotHeld",
    "QuorumUnavailable",
    "RedlockError",
    "Stale",
]


class RedlockError(LockError):
    """The base class of all errors of this package."""

    def __init__(self, message: str = "", lock_name: str | None = None) -> None:
        super().__init__(message, lock_name)
        self.args = (message, lock_name)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self)!r})"

    def __str__(self) -> str:
        return str(self.message)


class ConfigurationError(RedlockError):
    """The call, the settings or the set of nodes cannot work; the message names a valid value."""

    def __init__(self, message: str = "", lock_name: str | None = None) -> None:
        super().__init__(mask(message), lock_name)


class NotHeld(RedlockError):
    """The thread does not hold the lock that the call needs."""


class LockContended(RedlockError):
    """Another client holds the lock.

    Args:
        resource: The name that is locked.
        holder: The holder, without the secret part of the owner token; None after a split vote.
        remaining: Seconds until a quorum of nodes would be free if the holder died now; None if unknown.
    """

    def __init__(self, resource: str, holder: str | None = None, remaining: float | None = None) -> None:
        if holder:
            reason = f"held by {holder}"
            end = "" if remaining is None else f"; the lease ends in {remaining:.3f} s unless the holder renews it"
        else:
            reason = "the vote was split between several clients"
            end = "" if remaining is None else f"; their keys end in {remaining:.3f} s at most"
        super().__init__(f"lock {resource!r} is not free: {reason}{end}", resource)
        self.args = (resource, holder, remaining)
        self.resource, self.holder, self.remaining = resource, holder, remaining


class QuorumUnavailable(RedlockError):
    """Too few nodes gave a vote. The error does not say whether another client holds the lock.

    Args:
        resource: The name of the request.
        needed: The number of votes for a quorum.
        nodes: The number of nodes.
        reasons: The reason of each node without a vote, by node label.
    """

    def __init__(self, resource: str, needed: int, nodes: int, reasons: Mapping[str, str]) -> None:
        listed = "; ".join(f"{label}: {reason}" for label, reason in reasons.items())
        super().__init__(
            f"no quorum for {resource!r}: {len(reasons)} of {nodes} nodes gave no vote, "
            f"{needed} votes are needed ({listed})",
            resource,
        )
        self.args = (resource, needed, nodes, dict(reasons))
        self.resource, self.needed, self.nodes, self.reasons = resource, needed, nodes, dict(reasons)


class NoThread(RedlockError):
    """This process can start no thread now: at the limit of its container or user, or at the end of the process."""


class LockLost(RedlockError, LockNotOwnedError):
    """The lease ended before its release or extension. Another client may hold the lock.

    Args:
        resource: The name that was locked.
        why: The evidence of the loss.
    """

    def __init__(self, resource: str, why: str) -> None:
        super().__init__(f"lock {resource!r} was lost: {why}", resource)
        self.args = (resource, why)
        self.resource, self.why = resource, why


class Stale(RedlockError):
    """The fenced store has seen a newer token, or another transaction of the same token.

    Args:
        resource: The name in the store.
        token: The token that was refused, a whole number of any type, such as the Decimal of a database.
        seen: The largest token that the store has seen. A new lease must propose a larger token.
    """

    def __init__(self, resource: str, token: SupportsInt, seen: SupportsInt) -> None:
        token, seen = int(token), int(seen)
        super().__init__(f"token {token} for {resource!r} is stale: the store has seen {seen}", resource)
        self.args = (resource, token, seen)
        self.resource, self.token, self.seen = resource, token, seen
