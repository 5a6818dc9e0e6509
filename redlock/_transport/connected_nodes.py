"""The connections of a set, one per node: which nodes are connected, suspect or rejecting, and which are dialled.

A driver dials the nodes in `to_dial`, and closes the handles in `to_close`.

Invariants:
1. No I/O, no clock and no thread.
2. A round waits for a dial once, for one node timeout. After that the node is down, and no round waits for the node
   until a dial succeeds. With a quorum, no round waits for a node whose last connection was too short. While fewer
   nodes than a quorum are connected, a round waits until its own deadline.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from redlock._core.commands import Command, Release
from redlock._core.votes import Kind, quorum_of
from redlock._transport import vote_checks
from redlock._transport.codec import SCRIPTS
from redlock._transport.connection import NodeConnection
from redlock._transport.decoder import disagrees

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from redlock._core.vote_tally import VoteTally
    from redlock._core.votes import Vote
    from redlock._transport.codec import Codec
    from redlock._transport.node_health import NodeHealth

_CHECK_MS = 1_000
"""How often a set looks for ended connections and overdue replies, while all nodes are fit."""
_SUSPECT_MS = 1_000
_UNSTEADY_MS = 1_000
"""A node whose connection ends sooner after its dial could make every round wait for the next dial."""
_BETWEEN_DIALS_MS = 100
"""The shortest time between two dials while a quorum is connected: a node can end each connection at once."""


class ConnectedNodes:
    """A connection to each node, in the order of the nodes."""

    def __init__(self, nodes: Sequence[NodeHealth], codec: Codec, timeout_ms: int, now_ms: int) -> None:
        self.all = [NodeConnection(place, node) for place, node in enumerate(nodes)]
        count = len(nodes)
        self._release_orders = [
            [self.all[(first - step) % count] for step in range(1, count + 1)] for first in range(count)
        ]
        """For each node of the waiters, the order in which the nodes get a release."""
        self.to_dial: list[NodeConnection] = []
        """Nodes that the driver dials now; the driver empties the list."""
        self.to_close: list[Any] = []
        """Handles of ended connections, which the driver closes; the driver empties the list."""
        self.with_news: list[VoteTally] = []
        """Tallies whose `on_news` is due; the driver empties the list, and calls."""
        self._codec = codec
        self.timeout_ms = timeout_ms
        self._quorum = quorum_of(len(nodes))
        self._checked_ms = now_ms
        self._all_fit = False
        """Whether every node is fit. False also if a node has become fit since the last `make_ready`."""
        self._was_rejected = False

    def is_ready(self, now_ms: int) -> bool:
        """Whether a round can begin at once, without `make_ready`."""
        return self._all_fit and not self._is_check_due(now_ms)

    def needs_read(self, now_ms: int) -> bool:
        """Whether bytes that have arrived must be received before `make_ready`."""
        return self._is_check_due(now_ms) or any(one.handle is not None and not one.is_fit for one in self.all)

    def _is_check_due(self, now_ms: int) -> bool:
        return now_ms - self._checked_ms > _CHECK_MS

    def suspect(self, connection: NodeConnection, reason: str, now_ms: int) -> None:
        """The node has not answered a command within the node timeout."""
        connection.reason, connection.suspect_since_ms, self._all_fit = reason, now_ms, False
        connection.node.is_silent(reason, now_ms)

    def make_ready(self, command: Command, now_ms: int, until_ms: int) -> DialWait:
        """Drop useless connections and choose the nodes to dial, after all bytes that have arrived were received.

        `now_ms` is the clock before the bytes were received: the same time as for `needs_read`.
        """
        self._suspect_overdue(now_ms)
        self._drop_useless(command, now_ms)
        self._all_fit = all(one.is_fit for one in self.all)
        down = [one for one in self.all if one.handle is None]
        is_few = len(self.all) - len(down) < self._quorum
        has_quorum = sum(one.is_fit for one in self.all) >= self._quorum
        patient = type(command) is not Release or is_few
        for one in down:
            too_soon = has_quorum and now_ms - one.dialled_ms < _BETWEEN_DIALS_MS
            if not (one.is_dialling or too_soon) and one.node.may_dial(now_ms):
                one.is_unsteady = now_ms - one.dialled_ms < _UNSTEADY_MS
                # In this order: after an exception between these lines, the dial is asked for twice, and not never.
                self.to_dial.append(one)
                one.is_dialling, one.dialled_ms = True, now_ms
        awaited = [one for one in down if patient and not one.node.error and (is_few or not one.is_unsteady)]
        return DialWait(self, awaited, until_ms, now_ms)

    def _drop_useless(self, command: Command, now_ms: int) -> None:
        # If a quorum is silent, the connections are probably broken: a firewall has forgotten them. A release stays on
        # its connection, or the release could overtake its acquire.
        fit = sum(one.handle is not None and one.suspect_since_ms is None for one in self.all)
        renews = fit < self._quorum and type(command) is not Release
        for one in self.all:
            if one.suspect_since_ms is None:
                continue
            overdue = now_ms - one.suspect_since_ms > _SUSPECT_MS
            if overdue:
                one.node.mark_down(one.reason, now_ms)
            if overdue or renews:
                self.lost(one, one.reason)
        if SCRIPTS[type(command)].admits and vote_checks.is_barred(self.all):
            # A new connection reads the node's record again, without a command that would create a record.
            for one in self.all:
                if one.refusal is not None:
                    self.lost(one, one.refusal.reason)

    def _suspect_overdue(self, now_ms: int) -> None:
        """Once a second, suspect a minority of nodes that owe replies to rounds which the other nodes have decided.

        If a quorum owes replies, this process is late itself: a round that waits in vain suspects its nodes.
        """
        if not self._is_check_due(now_ms):
            return
        self._checked_ms = now_ms
        overdue = [one for one in self.all if one.is_fit and one.is_overdue(now_ms, self.timeout_ms)]
        if len(self.all) - len(overdue) >= self._quorum:
            for one in overdue:
                self.suspect(one, f"no answer within {self.timeout_ms} ms", now_ms)

    def connected(self, connection: NodeConnection, handle: object, run_id: str, fingerprint: str) -> None:
        """A dial has succeeded: `handle` is the driver's socket, on which the rest was read; see `Exchange`."""
        connection.adopt(handle, run_id)
        connection.node.mark_up()
        connection.agreed = fingerprint == self._codec.fingerprint
        if fingerprint and not connection.agreed:
            self._note_fingerprint(connection, disagrees(fingerprint), connection.dialled_ms)
        vote_checks.find_duplicates(self.all, connection.dialled_ms)
        self._all_fit = all(one.is_fit for one in self.all)

    @staticmethod
    def dial_failed(connection: NodeConnection, reason: str) -> None:
        """A dial has failed."""
        connection.is_dialling, connection.reason = False, reason

    def _note_fingerprint(self, connection: NodeConnection, vote: Vote, now_ms: int) -> None:
        """Remember whether a node accepts this client's configuration, from its reply."""
        if vote.fingerprint:
            connection.refusal, connection.agreed, self._was_rejected, self._all_fit = vote, False, True, False
            connection.node.rejects(vote.fingerprint, now_ms)
            return
        connection.agreed = vote.kind is not Kind.SILENT
        if connection.refusal is not None:
            connection.refusal = None
            connection.node.rejects("", now_ms)

    def lost(self, connection: NodeConnection, reason: str) -> None:
        """The connection has ended, or must end; the node casts no vote until the next dial succeeds."""
        self._all_fit = False
        if connection.handle is not None:
            self.to_close.append(connection.handle)
        for tally in connection.end(reason):
            tally.record_silence(connection.place, reason)
            if tally.is_doubt_over:
                vote_checks.count_doubted(self.all, tally)
            if tally.on_news is not None:
                self.with_news.append(tally)

    def interrupted(self, connections: Iterable[NodeConnection]) -> None:
        """An exception has interrupted a send or a read on these connections; they end, and no node is blamed.

        The node may have half of a command, and a reply may be lost, so a later reply could count for another command.
        """
        for one in connections:
            if one.handle is not None:
                self.lost(one, "interrupted in the middle of a command")

    def hold_back(self) -> None:
        """Keep the commands in the outboxes back; see `NodeConnection.hold_back`."""
        for one in self.all:
            one.hold_back()

    def drop_requests(self) -> None:
        """Leave only commands in the outboxes that were held back; see `NodeConnection.drop_requests`.

        A connection on which only half of a command may have been sent ends.
        """
        for one in self.all:
            if one.is_blocked or one.is_sending:
                self.interrupted([one])
            else:
                one.drop_requests()

    @property
    def unsent(self) -> int:
        """The number of bytes that wait until their socket accepts more."""
        return sum(len(one.outbox) for one in self.all if one.is_blocked)

    @property
    def is_awaited(self) -> bool:
        """Whether a node that is not suspect still has to answer a command."""
        return any(one.is_awaited for one in self.all)


class DialWait:
    """The wait of a round for dials.

    A process that was stopped finds the time over, and the nodes' replies to its dials unread. The wait then goes on
    for as long as the process woke late, once and for at most one node timeout. The round gets the lost time back, also
    the time between the choice of the nodes and the wait.
    """

    def __init__(self, state: ConnectedNodes, awaited: Sequence[NodeConnection], until_ms: int, now_ms: int) -> None:
        self.awaited = awaited
        self._state, self._until_ms = state, until_ms
        self._wake_ms, self._added_ms = now_ms, 0
        self._is_waiting = self._was_late = False

    @property
    def until_ms(self) -> int:
        """The deadline of the round."""
        return self._until_ms + self._added_ms

    def left_ms(self, now_ms: int) -> int:
        """How long the round goes on waiting; 0 if the dials have ended, or count as overdue from now on."""
        late_ms = now_ms - self._wake_ms
        if not self._is_waiting:
            self._is_waiting, self._added_ms = True, late_ms
        # Both readings are rounded down: a single millisecond can be the rounding alone.
        elif late_ms > 1 and not self._was_late:
            self._added_ms += late_ms + min(late_ms, self._state.timeout_ms)
            self._was_late = True
        left_ms = self._dials_ms(now_ms - self._added_ms)
        self._wake_ms = now_ms + left_ms
        return left_ms

    def _dials_ms(self, now_ms: int) -> int:
        state = self._state
        late = [one for one in self.awaited if one.is_dialling]
        if not late:
            return 0
        limit_ms = min(one.dialled_ms for one in late) + state.timeout_ms
        if sum(one.handle is not None for one in state.all) < quorum_of(len(state.all)):
            # The last node timeout before the deadline is for the round itself.
            limit_ms = max(limit_ms, self._until_ms - state.timeout_ms)
        wait_ms = min(limit_ms, self._until_ms) - now_ms
        if wait_ms > 0:
            return wait_ms
        for one in late:
            one.node.mark_down(f"no answer within {state.timeout_ms} ms", now_ms)
        return 0
