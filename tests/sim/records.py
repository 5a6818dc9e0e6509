"""The records of a history, which the checks read; the same for simulated and for real runs."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple


class Question(NamedTuple):
    """A command to the store: the script, the state, the arguments and the operation."""

    door: str
    name: str
    arguments: tuple[str, ...]
    identity: str


@dataclasses.dataclass
class Operation:
    """Something that must be applied once.

    Attributes:
        identity: Its id, the same for every delivery.
        names: The locked resources; the first is the counter of the task.
    """

    identity: str
    names: tuple[str, ...]
    acknowledged: bool = False


@dataclasses.dataclass
class Lease:
    """A lease; times in microseconds of true time.

    Attributes:
        holder: The name of the client.
        names: The locked resources.
        fence: Its token.
        began: When the attempt began.
        start: The time of the grant.
        end: When the holder stops to believe that the lease is valid.
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
