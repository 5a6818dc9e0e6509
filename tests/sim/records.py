"""What a history is made of, as plain records that the checks read; the same for simulated and for real runs."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple


class Question(NamedTuple):
    """A command to the store: which door, of what, with which arguments, for which operation."""

    door: str
    name: str
    arguments: tuple[str, ...]
    identity: str


@dataclasses.dataclass
class Operation:
    """Something that must be applied once.

    Attributes:
        identity: Its id, the same for every delivery.
        names: What its task locks; the first is the counter that it increments.
    """

    identity: str
    names: tuple[str, ...]
    acknowledged: bool = False


@dataclasses.dataclass
class Lease:
    """One lease; times in microseconds of true time.

    Attributes:
        holder: Who.
        names: What.
        fence: Its token.
        began: When the attempt began.
        start: When it was granted.
        end: When its holder stops, or stopped, to believe in it.
        answered: The nodes that granted in the first round.
        certificate: The nodes on which the fence became the token by this attempt.
    """

    holder: str
    names: tuple[str, ...]
    fence: int
    began: int
    start: int
    end: int
    answered: frozenset[int]
    certificate: frozenset[int]


@dataclasses.dataclass
class Write:
    """An accepted write in the store."""

    name: str
    fence: int
    section: int
    identity: str
    value: int
