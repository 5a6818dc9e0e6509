"""The commands of a round, as frozen values. Times are integer milliseconds with the suffix `_ms`."""

from __future__ import annotations

import enum
from typing import NamedTuple, TypeAlias

from redlock._core.votes import masked_repr

Names: TypeAlias = tuple[str, ...]
"""A resource, or a set of resources that is acquired all or nothing."""


class Acquire(NamedTuple):
    """Set the locks if all are free; every fence becomes the same number, max(fences + 1, proposed).

    A client that was woken (`woken`) may also acquire a lock that is reserved for the woken waiter. If a denied client
    goes on waiting, for `waits_ms`, the next release reserves the lock for the waiter that it wakes.

    The proposal comes from the wall clock, so an old proposal must not count. An attempt that is not decided by
    `decide_by_ms` of the steady clock is lost (None: no such limit).
    """

    names: Names
    token: str
    ttl_ms: int
    proposed: int
    woken: bool = False
    waits_ms: int = 0
    decide_by_ms: int | None = None

    def __repr__(self) -> str:
        return masked_repr(self)


class Confirm(NamedTuple):
    """Raise the fences to this number where the locks hold this token and the fences are smaller."""

    names: Names
    token: str
    fence: int

    def __repr__(self) -> str:
        return masked_repr(self)


class Extend(NamedTuple):
    """Extend the locks that hold this token to at least this TTL. Never shortens or creates a lock."""

    names: Names
    token: str
    ttl_ms: int

    def __repr__(self) -> str:
        return masked_repr(self)


class Repair(NamedTuple):
    """Write locks that are missing again, and their fence."""

    names: Names
    token: str
    ttl_ms: int
    fence: int

    def __repr__(self) -> str:
        return masked_repr(self)


class Release(NamedTuple):
    """Delete the locks that hold this token, and leave a wake-up that lasts this long; none if 0."""

    names: Names
    token: str
    wake_ms: int

    def __repr__(self) -> str:
        return masked_repr(self)


class Inspect(NamedTuple):
    """Read the holder: GRANTED means that the lock is free, DENIED names the holder. Changes nothing."""

    names: Names


Command: TypeAlias = Acquire | Confirm | Extend | Repair | Release | Inspect


class Wait(enum.Enum):
    """When a round is over."""

    DECIDED = enum.auto()
    """As soon as no further answer can change the outcome."""
    COUNTED = enum.auto()
    """As soon as a quorum has granted, a quorum has denied, or every node has answered."""
    ALL = enum.auto()
    """When every node has answered or is known not to answer."""
    SENT = enum.auto()
    """At once: the replies are read later and ignored."""


class Round(NamedTuple):
    """A command that goes to all nodes in parallel.

    Attributes:
        command: The command.
        wait: When the round is over.
        to: The places of the nodes that get the command; None means all nodes.
    """

    command: Command
    wait: Wait = Wait.DECIDED
    to: tuple[int, ...] | None = None
