"""The parts of a lease that a fence needs, checked before anything is sent."""

from __future__ import annotations

from typing import Protocol

from redlock import _validation
from redlock.errors import ConfigurationError


class StoreLease(Protocol):
    """The part of a lease that the store needs. The leases of `redlock` and `redlock.asyncio` have these parts."""

    @property
    def fence(self) -> int:
        """The fencing token."""

    @property
    def owner(self) -> str:
        """The owner token."""

    def remaining(self) -> float:
        """Seconds until the deadline."""


def no_lease(given: object) -> ConfigurationError:
    """The error for an object that is no lease."""
    return ConfigurationError(
        f"{type(given).__name__} is no lease; give the lease of a `with` block, or `current_lease()` in a task"
    )


def token_and_owner(lease: StoreLease) -> tuple[int, str]:
    """The fencing token and the owner token of a lease.

    Raises:
        NotHeld: The lease is not held.
        ConfigurationError: The object is no lease, or a token of the lease cannot be used.
    """
    try:
        fence, owner, remaining = lease.fence, lease.owner, lease.remaining
    except AttributeError:
        raise no_lease(lease) from None
    if not callable(remaining):
        raise no_lease(lease)
    # The owner token is a secret, so no message shows the token.
    if not isinstance(owner, str):
        raise ConfigurationError(f"the owner token of the lease is {type(owner).__name__}; it must be text (str)")
    if not _validation.is_utf8(owner):
        raise ConfigurationError("the owner token of the lease holds half a surrogate pair, which is no text")
    return _validation.fence(fence), owner
