"""The effects that the generators of this package yield, beside the rounds of the protocol; a driver performs them.

Invariants:
1. A driver resumes the generator with the result of the effect, or throws the exception that ended the effect into the
   generator. The exception of a signal or of a cancellation is thrown too.
2. After the error of a node (`NODE_ERRORS`) the generator may go on with any effect. After any other exception it
   yields only rounds without a wait, `Receive` without a deadline, and `PassOn`.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias, TypeVar

from redlock._core.commands import Round

if TYPE_CHECKING:
    from redlock._locking.local_wait_queue import Place
    from redlock._transport.node import Node

T = TypeVar("T")


class TakeConnections(NamedTuple):
    """Take the connections for the next rounds. Every wait gives them back. The result is the driver's own object.

    If all connections are in use until the deadline, the next rounds end without a vote.

    Attributes:
        until_ms: The deadline of the wait and of the rounds, by the steady clock. None: the wait has no deadline, and
            the rounds have the driver's default.
    """

    until_ms: int | None


class Sleep(NamedTuple):
    """Wait for this many seconds."""

    seconds: float


class AwaitTurn(NamedTuple):
    """Wait until the place may be at the front of the local queue, at most this many seconds."""

    place: Place
    seconds: float


class Borrow(NamedTuple):
    """Take a connection for a blocking read; the result is None if no connection is ready within this many seconds.

    Raises `UnsuitableNode` if the node can't be reached within one node timeout.
    """

    node: Node
    seconds: float


class Send(NamedTuple):
    """Send bytes on a borrowed connection by this deadline of `_clock.monotonic`. Raises `ConnectionFailed`."""

    connection: Any
    words: bytes
    until: float


class Receive(NamedTuple):
    """The next reply on a borrowed connection by this deadline of `_clock.monotonic`.

    Without a deadline the reply must have arrived already. Raises `NoReply` without a reply,
    another `ConnectionFailed` after the end of the connection, and `UnreadableReply`.
    """

    connection: Any
    until: float | None


class PassOn(NamedTuple):
    """Send a command without any wait, because the time of the call may be over; there is no result.

    The driver for asyncio lets the connection read the reply later, and gives the connection back for the next wait.
    The driver for threads closes the connection. After an error the connection is closed.
    """

    node: Node
    connection: Any
    words: bytes


Effect: TypeAlias = Round | TakeConnections | Sleep | AwaitTurn | Borrow | Send | Receive | PassOn
Effects: TypeAlias = Generator[Effect, Any, T]
