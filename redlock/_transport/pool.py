"""The connection sets of a process, for a group of nodes.

Invariants:
1. A set is used by one thread at a time. The pool has as many sets as threads are inside an operation, up to a limit. A
   thread that an exception interrupts leaves its set to the next thread.
2. All commands of a lease use the connections that acquired the lease, so that no release overtakes its acquire.
3. A forked child shares nothing with its parent: the child closes inherited connections without sending anything.
4. A call with a deadline gets a set by its deadline, or its rounds end without a vote.
5. Before the connections are closed, asynchronous releases end and the nodes read all commands. The pool waits at most
   one node timeout for a node that does not answer.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, TypeVar

from redlock._clock import now_ms
from redlock._core import protocol
from redlock._core.vote_tally import unasked
from redlock._transport.background_releaser import BackgroundReleaser
from redlock._transport.connections import RELEASE_MS
from redlock._transport.threads import ConnectionSet
from redlock.errors import NoThread

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from redlock._core.commands import Round
    from redlock._core.protocol import Outcome, Steps
    from redlock._core.votes import RoundResult
    from redlock._mutex import Turn
    from redlock._transport.codec import Codec
    from redlock._transport.node import Node

_MOST_SETS = 16
_DRAIN_SECONDS = 1.0
_IN_USE = f"not asked: all {_MOST_SETS} connection sets of this process are in use"

T = TypeVar("T")


class AllInUse(Exception):
    """All connection sets were in use until the deadline."""


class ConnectionPool:
    """The connection sets of a process; safe to share between threads and across fork."""

    def __init__(self, nodes: Sequence[Node], codec: Codec) -> None:
        self.nodes = tuple(nodes)
        self.codec = codec
        self._sets: list[ConnectionSet] = []
        # A round ends within this time. A set that is still in use may belong to an exception that is being handled.
        self._turn_seconds = 2 * nodes[0].timeout_ms / 1000
        self._releaser = BackgroundReleaser()

    @property
    def is_open(self) -> bool:
        """Whether there are connections; after `close`, those of another thread."""
        return bool(self._sets)

    def connections(self, wanted: ConnectionSet | None = None, until_ms: int | None = None) -> Turn[ConnectionSet]:
        """A connection set for this thread alone, for a `with` block.

        Args:
            wanted: The preferred set; after two node timeouts without the turn, and at the deadline, any set.
            until_ms: The deadline, by the steady clock; None for no deadline.

        Raises:
            AllInUse: All sets were in use until the deadline.
        """
        if wanted is not None and wanted in self._sets:
            turn = wanted.turn() or wanted.turn(self._wait_seconds(until_ms))
            if turn is not None:
                return turn
        while True:
            for connections in self._sets:
                turn = connections.turn()
                if turn is not None:
                    return turn
            if len(self._sets) < _MOST_SETS:
                self._sets.append(ConnectionSet(self.nodes, self.codec, self._releaser.watch))
                continue
            seconds = self._wait_seconds(until_ms)
            if seconds <= 0:
                raise AllInUse
            turn = random.choice(self._sets).turn(seconds)  # noqa: S311 - spreads the waiting
            if turn is not None:
                return turn

    def _wait_seconds(self, until_ms: int | None) -> float:
        """How long to wait for a set: two node timeouts, and not beyond the deadline."""
        return self._turn_seconds if until_ms is None else min(self._turn_seconds, (until_ms - now_ms()) / 1000)

    def run(self, steps: Steps[T], wanted: ConnectionSet | None = None, until_ms: int | None = None) -> T:
        """Execute the rounds of a protocol generator, on the wanted set if possible, and return its result.

        If no set is free by `until_ms`, by default in two node timeouts, the rounds end without a vote.
        """
        if until_ms is None:
            until_ms = now_ms() + int(1000 * self._turn_seconds)
        try:
            turn = self.connections(wanted, until_ms)
        except AllInUse:
            return protocol.run(steps, self.unasked)
        with turn as connections:
            return connections.run(steps)

    def unasked(self, round_: Round) -> RoundResult:
        """The result of a round for which no set was free."""
        return unasked(round_, len(self.nodes), now_ms(), _IN_USE)

    def send_release(
        self, wanted: ConnectionSet | None, steps: Steps[Outcome], done: Callable[[Outcome], None], until_ms: int
    ) -> ConnectionSet | None:
        """Send an asynchronous release; `done` gets the outcome, from any thread.

        Args:
            wanted: The preferred set.
            steps: The generator.
            done: Must be quick and never raise.
            until_ms: When a set must be free, or the outcome is unknown.

        Returns:
            The set that sends the release, for `await_outcome`; None if no set was free.
        """
        try:
            turn = self.connections(wanted, until_ms)
        except AllInUse:
            done(protocol.run(steps, self.unasked))
            return None
        with turn as connections:
            connections.send_release(steps, done)
            try:
                self._releaser.watch(connections)
            except NoThread:
                # No other code would send a release that is held back, or report its outcome.
                connections.await_releases()
            return connections

    def await_outcome(self, connections: ConnectionSet | None) -> None:
        """Wait for the outcome of the releases of a set, at most `RELEASE_MS`, and as long for a set in use."""
        if connections is None or connections not in self._sets:
            return
        turn = connections.turn(RELEASE_MS / 1000)
        if turn is not None:
            with turn:
                connections.await_releases()

    def await_releases(self) -> None:
        """Wait until the outcome of every release is known, and every node has read its commands.

        The first wait lasts at most `RELEASE_MS`, the second wait at most one node timeout.
        """
        self._drain(self._sets)

    def close(self) -> None:
        """Close all connections. Leases that are still held expire with their TTL."""
        sets, self._sets = self._sets, []
        self._drain(sets, ends=True)
        self._releaser.close()

    def _drain(self, sets: Sequence[ConnectionSet], *, ends: bool = False) -> None:
        until_ms = now_ms() + self.nodes[0].timeout_ms
        for connections in sets:
            turn = connections.turn(_DRAIN_SECONDS)
            if turn is not None:
                with turn:
                    connections.await_releases()
                    connections.drain(until_ms)
                    if ends:
                        connections.abandon()

    def reset_after_fork(self) -> None:
        """In a forked child: drop the parent's connections."""
        sets, self._sets = self._sets, []
        self._releaser.reset_after_fork()
        for connections in sets:
            connections.abandon()
