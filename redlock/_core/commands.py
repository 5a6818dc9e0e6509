"""What a round asks of the nodes, as frozen values.

Rules: no clock, no randomness, no socket, no Redis; times are integer milliseconds with the suffix `_ms`.
"""

from __future__ import annotations

import enum
from typing import NamedTuple, TypeAlias

Names: TypeAlias = tuple[str, ...]
"""One resource, or a set of them that is taken all or nothing."""


class Acquire(NamedTuple):
    """Take the locks if all are free; every fence becomes the same, max(fences + 1, proposed).

    Who was woken may also take what is reserved for that. Who goes on waiting for `waits_ms` if it is denied has
    the lock reserved when it is released. A proposal is from the wall clock, so it must not be old when it counts:
    an attempt that is not decided by `decide_by_ms` of the steady clock is lost (None: no such limit).
    """

    names: Names
    token: str
    ttl_ms: int
    proposed: int
    woken: bool = False
    waits_ms: int = 0
    decide_by_ms: int | None = None


class Confirm(NamedTuple):
    """Where the locks are still ours and the fences smaller: the fences become this one."""

    names: Names
    token: str
    fence: int


class Extend(NamedTuple):
    """Where the locks are still ours: let them stand for at least this long. Never shortens, never creates."""

    names: Names
    token: str
    ttl_ms: int


class Repair(NamedTuple):
    """Where the locks are missing: write them and the fence again."""

    names: Names
    token: str
    ttl_ms: int
    fence: int


class Release(NamedTuple):
    """Delete the locks where they are ours; leave a wake-up for this long, none if 0."""

    names: Names
    token: str
    wake_ms: int


class Inspect(NamedTuple):
    """Who holds it? GRANTED means that the lock is free, DENIED names the holder. Changes nothing."""

    names: Names


Command: TypeAlias = Acquire | Confirm | Extend | Repair | Release | Inspect


class Wait(enum.Enum):
    """When a round is over."""

    DECIDED = enum.auto()
    """As soon as no further answer can change the outcome."""
    COUNTED = enum.auto()
    """As soon as a quorum has said the same: yes or no."""
    ALL = enum.auto()
    """When every node has answered or is known not to."""
    SENT = enum.auto()
    """At once: the answers are read later, and count for nothing."""


class Round(NamedTuple):
    """One command to all nodes at once.

    Attributes:
        command: What to do.
        wait: When the round is over.
        to: The places of the nodes that get it; None is all of them.
    """

    command: Command
    wait: Wait = Wait.DECIDED
    to: tuple[int, ...] | None = None
