"""The arguments of a fenced transaction, checked before anything is sent."""

from __future__ import annotations

import hashlib
from typing import NamedTuple, Protocol

from redlock import _validation
from redlock._masking import quoted
from redlock.errors import ConfigurationError, LockLost
from redlock.fencing import _leases, _nested
from redlock.fencing import _statements as sql

_LONGEST_SECONDS = 86_400
"""The longest time to wait for another transaction: a day."""


class FencedLease(_leases.StoreLease, Protocol):
    """The part of a lease that a fence needs; `redlock.Lease` has it."""

    @property
    def names(self) -> tuple[str, ...]:
        """The resource names."""


class Given(NamedTuple):
    """The validated arguments of a fence."""

    names: tuple[str, ...]
    token: int
    owner: str
    operation: str | None
    timeout_ms: int

    def __repr__(self) -> str:
        return f"Given({self.names!r}, token={self.token})"


def checked(lease: FencedLease, operation: str | None, lock_timeout: float | None) -> Given:
    """Validate the arguments of a fence; the checks need no database.

    Raises:
        LockLost: The lease has expired.
        ConfigurationError: The token, a name, the operation id or the timeout cannot be used.
    """
    token, owner = _leases.token_and_owner(lease)
    try:
        given = lease.names
    except AttributeError:
        raise _leases.no_lease(lease) from None
    names = _validation.resources(given)
    if lease.remaining() <= 0:
        raise LockLost(", ".join(names), "the lease expired before the fenced transaction began")
    if operation is not None:
        operation = _checked_operation(operation)
    _nested.refuse_without_operations(operation)
    ttl = getattr(lease, "ttl_ms", 5_000) / 1000
    seconds = min(ttl, _LONGEST_SECONDS) if lock_timeout is None else lock_timeout
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 0 < seconds <= _LONGEST_SECONDS:
        raise ConfigurationError(
            f"lock_timeout is {quoted(seconds)}; it must be a number of seconds, more than 0 and at most "
            f"{_LONGEST_SECONDS}"
        )
    hashed = hashlib.sha256(owner.encode()).hexdigest()
    return Given(names, token, hashed, operation, max(1, int(seconds * 1000)))


def _checked_operation(operation: object) -> str:
    if not isinstance(operation, str) or not 0 < len(operation) <= sql.LONGEST_OPERATION or "\0" in operation:
        raise ConfigurationError(
            f"operation id {quoted(operation)} cannot be used; it must be text of 1 to {sql.LONGEST_OPERATION} "
            "characters without NUL, such as a task id"
        )
    return _validation.operation(operation)
