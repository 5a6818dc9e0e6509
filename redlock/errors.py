"""The errors that leave this package, and what each of them means.

    redis.exceptions.LockError            what users of redis-py's Lock catch already
    └── RedlockError                      everything raised here
        ├── ConfigurationError            the call or the set-up is wrong; waiting will not help
        ├── LockContended                 somebody else has it: who, and for how long
        ├── QuorumUnavailable             too few nodes answered: which, and why each
        ├── NotHeld                       release or extend of a lock that this caller never had
        ├── LockLost                      had it, and has it no longer (also a LockNotOwnedError)
        └── Stale                         the fenced store has seen a newer token

Rules: `args` are what the constructor takes, all of them plain JSON values, so every error survives pickle and
Celery's JSON results; no argument ever holds a password.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from redis.exceptions import LockError, LockNotOwnedError

from redlock._masking import mask

if TYPE_CHECKING:
    from collections.abc import Mapping


class RedlockError(LockError):
    """Base of every error raised by this package."""

    def __init__(self, message: str = "", lock_name: str | None = None) -> None:
        super().__init__(message, lock_name)
        self.args = (message, lock_name)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self)!r})"

    def __str__(self) -> str:
        return str(self.message)


class ConfigurationError(RedlockError):
    """The call, the settings or the set of nodes can't work as they are; the message says what would."""

    def __init__(self, message: str = "", lock_name: str | None = None) -> None:
        super().__init__(mask(message), lock_name)


class NotHeld(RedlockError):
    """Release, extend or a look at a lock that this thread does not hold."""


class LockContended(RedlockError):
    """Somebody else holds the lock.

    Args:
        resource: The name that is locked.
        holder: Who has it, without the secret part of the owner token; None after a split vote.
        remaining: Seconds until a quorum of nodes would be free if the holder died now; None if unknown.
    """

    def __init__(self, resource: str, holder: str | None = None, remaining: float | None = None) -> None:
        if holder:
            why = f"held by {holder}"
            when = "" if remaining is None else f"; the lease ends in {remaining:.3f} s unless the holder renews it"
        else:
            why = "the vote was split between several clients"
            when = "" if remaining is None else f"; their keys end in {remaining:.3f} s at most"
        super().__init__(f"lock {resource!r} is not free: {why}{when}", resource)
        self.args = (resource, holder, remaining)
        self.resource, self.holder, self.remaining = resource, holder, remaining


class QuorumUnavailable(RedlockError):
    """Too few nodes gave an answer that counts. This is never a sign that somebody holds the lock.

    Args:
        resource: The name that was asked for.
        needed: How many nodes make a quorum.
        reasons: For each node that gave no vote, by its label, why.
        nodes: How many nodes there are.
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


class LockLost(RedlockError, LockNotOwnedError):
    """The lock was held and is no longer: its time ran out before it was released or extended.

    Args:
        resource: The name that was locked.
        why: What showed it.
    """

    def __init__(self, resource: str, why: str) -> None:
        super().__init__(f"lock {resource!r} was lost: {why}", resource)
        self.args = (resource, why)
        self.resource, self.why = resource, why


class Stale(RedlockError):
    """The fenced store refused: it has seen a newer token, or another section of this one.

    Args:
        resource: The name in the store.
        token: The token that was refused.
        seen: The largest token that the store has seen. A new lease must propose a larger one.
    """

    def __init__(self, resource: str, token: int, seen: int) -> None:
        super().__init__(f"token {token} for {resource!r} is stale: the store has seen {seen}", resource)
        self.args = (resource, token, seen)
        self.resource, self.token, self.seen = resource, token, seen
