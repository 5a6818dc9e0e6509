"""The connections of a set, one per node: which nodes are dialled, and for which nodes a round waits.

Invariants:
1. A set is used by one thread at a time, the thread that has the turn.
2. A round waits for a dial once, for one node timeout. After that the node is down: a thread dials the node in the
   background, and no round waits for the node until a dial succeeds. While fewer nodes than a quorum are connected, a
   round waits until its own deadline.
3. An exception can interrupt any instruction (time limits, SystemExit from a signal). An interrupted wait does no harm.
   Anywhere else the whole set is discarded, because the order of its replies is unknown.
"""

from __future__ import annotations

import selectors
from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING

from redlock import _log
from redlock._clock import now_ms, wall_us
from redlock._core.commands import Command, Release
from redlock._core.observed_fences import FENCE_AHEAD_MS
from redlock._core.votes import Kind, quorum_of, silent
from redlock._mutex import Mutex
from redlock._transport import codec
from redlock._transport.connection import NodeConnection
from redlock._transport.node import PendingConnection

if TYPE_CHECKING:
    from collections.abc import Sequence

    from redlock._core.vote_tally import VoteTally
    from redlock._core.votes import Vote
    from redlock._transport.node import Node

_SUSPECT_MS = 1_000


class ConnectionSet(Mutex):
    """A connection to each node, used by one thread at a time.

    Args:
        nodes: The nodes, in their order.
        fingerprint: The configuration fingerprint of the client.
    """

    def __init__(self, nodes: Sequence[Node], fingerprint: str) -> None:
        super().__init__()
        self._nodes = nodes
        self._fingerprint = fingerprint
        self._quorum = quorum_of(len(nodes))
        self._timeout_ms = nodes[0].timeout_ms
        self._until_ms = 0
        """The deadline of the rounds that are being executed."""
        self._ended_dials: SimpleQueue[None] = SimpleQueue()
        """A hint for each dial that has ended."""
        self._is_half_done = False
        """Whether an exception would now leave an operation half done."""
        self._barred = False
        """Whether no command that asks for a vote may be sent: see `_is_barred`."""
        self._was_rejected = False
        self._reset()

    def _reset(self) -> None:
        self._selector = selectors.DefaultSelector()
        self._connections = [NodeConnection(place, node, self._selector) for place, node in enumerate(self._nodes)]

    def order(self, command: Command) -> Sequence[NodeConnection]:
        """The order in which nodes get the command. The waiters' node gets a release last: see `waiting_order`.

        Otherwise a waiter could be woken and reach the other nodes before the release does.
        """
        if type(command) is not Release:
            return self._connections
        return [
            self._connections[place] for place in reversed(codec.waiting_order(command.names, len(self._connections)))
        ]

    def _connect(self, command: Command, suspects: Sequence[NodeConnection]) -> None:
        """Drop connections that were suspect for too long, and dial; wait only for nodes that are not known as down."""
        now = now_ms()
        # If a quorum is silent, the connections are probably broken: a firewall has forgotten them. A release stays on
        # its connection, or the release could overtake its acquire.
        fit = sum(
            connection.sock is not None and connection.suspect_since_ms is None for connection in self._connections
        )
        renews = fit < self._quorum and type(command) is not Release
        for connection in suspects:
            if connection.suspect_since_ms is None:
                continue
            overdue = now - connection.suspect_since_ms > _SUSPECT_MS
            if overdue:
                connection.node.mark_down(connection.reason)
            if overdue or renews:
                connection.suspect_since_ms = None
                connection.drop(connection.reason)
        admits = codec.SCRIPTS[type(command)].admits
        if admits and self._is_barred():
            # A new connection reads the node's record again, without a command that would create a record.
            for connection in self._connections:
                if connection.refusal is not None:
                    connection.drop(connection.refusal.reason)
        down = [connection for connection in self._connections if connection.sock is None]
        if down:
            self._dial(command, down)
        self._barred = admits and self._is_barred()

    def _is_barred(self) -> bool:
        """Whether nodes reject this client's configuration, and no larger number of nodes accepts it.

        A command of such a client could store its configuration on a node that has just lost its memory. If fewer nodes
        reject than accept the configuration, the rejecting nodes have no vote and do not stop the client.
        """
        rejecting = self._rejecting
        return rejecting > 0 and sum(connection.may_agree for connection in self._connections) <= rejecting

    @property
    def _rejecting(self) -> int:
        return sum(connection.refusal is not None for connection in self._connections)

    def _is_refused(self) -> bool:
        """Whether the client is barred, and no node that is down now could change that."""
        final = self._rejecting >= self._quorum or all(connection.sock is not None for connection in self._connections)
        return final and self._is_barred()

    def _not_asked(self, connection: NodeConnection) -> Vote:
        """The vote of a node to which a barred client sends nothing."""
        if connection.refusal is None:
            return silent(connection.reason or "not asked: another node rejects this client's configuration")
        return connection.refusal if self._is_refused() else connection.refusal._replace(fingerprint="")

    def _note_fingerprint(self, connection: NodeConnection, vote: Vote) -> None:
        """Remember whether a node accepts this client's configuration, from its reply."""
        if vote.fingerprint:
            connection.refusal, connection.agreed, self._was_rejected = vote, False, True
            connection.node.rejects(vote.fingerprint)
            return
        connection.agreed = vote.kind is not Kind.SILENT
        if connection.refusal is not None:
            connection.refusal = None
            connection.node.rejects("")

    def _discard_rejections(self, tally: VoteTally) -> None:
        """At the end of a round: hide the rejections, unless enough nodes reject the client's configuration."""
        self._was_rejected = self._rejecting > 0
        if not self._is_refused():
            tally.votes = [vote._replace(fingerprint="") if vote.fingerprint else vote for vote in tally.votes]

    def _dial(self, command: Command, down: Sequence[NodeConnection]) -> None:
        patient = not isinstance(command, Release) or len(self._connections) - len(down) < self._quorum
        awaited = [connection for connection in down if patient and not connection.node.error]
        for connection in down:
            if connection.dial is None and connection.node.may_dial():
                connection.dial = PendingConnection(connection.node, self._ended_dials)
        dials = [connection.dial for connection in awaited if connection.dial is not None]
        self._is_half_done = False
        self._await(dials, len(self._connections) - len(down))
        self._is_half_done = True
        for connection in down:
            self._adopt(connection)
        self._find_duplicates()

    def _await(self, dials: Sequence[PendingConnection], connected: int) -> None:
        while late := [dial for dial in dials if not dial.done.is_set()]:
            limit_ms = min(dial.began_ms for dial in late) + self._timeout_ms
            if connected + sum(dial.result is not None for dial in dials) < self._quorum:
                # The last node timeout before the deadline is for the round itself.
                limit_ms = max(limit_ms, self._until_ms - self._timeout_ms)
            wait_ms = min(limit_ms, self._until_ms) - now_ms()
            if wait_ms <= 0:
                break
            with suppress(Empty):
                self._ended_dials.get(timeout=wait_ms / 1000)
        for dial in late:
            dial.mark_overdue()

    def _adopt(self, connection: NodeConnection) -> None:
        dial = connection.dial
        if dial is None or not dial.done.is_set():
            connection.reason = connection.node.error or connection.reason
            return
        connection.dial = None
        if dial.result is None:
            connection.reason = dial.error
        else:
            connection.adopt(dial.result)
            connection.agreed = dial.result.fingerprint == self._fingerprint
            if dial.result.fingerprint and not connection.agreed:
                self._note_fingerprint(connection, codec.disagrees(dial.result.fingerprint))

    def _find_duplicates(self) -> None:
        """Find addresses that lead to the same server, because an address is wrong or a server is an impostor.

        The wrong address is unknown, so all of them get the commands, and together they cast one vote of a kind.
        """
        places: dict[str, list[NodeConnection]] = {}
        for connection in self._connections:
            if connection.sock is not None:
                places.setdefault(connection.run_id, []).append(connection)
        for connection in self._connections:
            duplicates = tuple(other for other in places.get(connection.run_id, ()) if other is not connection)
            if connection.sock is not None and duplicates != connection.duplicates:
                connection.duplicates = duplicates
                if duplicates and duplicates[0].place < connection.place:
                    _log.warning("node-duplicate", node=connection.node.label, same_as=duplicates[0].node.label)

    @staticmethod
    def _counted_once(connection: NodeConnection, tally: VoteTally, vote: Vote) -> Vote:
        """The vote of a server with several addresses; no vote if another address has brought the same vote."""
        for duplicate in connection.duplicates:
            if tally.votes[duplicate.place].kind is vote.kind and not tally.votes[duplicate.place].unanswered:
                return silent(f"the same server as {duplicate.node.label}")._replace(same_as=duplicate.node.label)
        return vote

    def _if_plausible(self, connection: NodeConnection, vote: Vote) -> Vote:
        """The vote; no vote if its token is more than an hour ahead of the clocks of the other nodes.

        The other nodes would refuse a larger token, so this node alone would make every attempt fail.
        """
        offsets = sorted(
            offset
            for other in self._connections
            if other is not connection and (offset := other.node.clock.offset_ms) is not None
        )
        now = now_ms() + offsets[len(offsets) // 2] if offsets else wall_us() // 1_000
        if vote.fence > (now + FENCE_AHEAD_MS) * 1_000:
            return silent("reported a fencing token that is more than an hour ahead of the clocks of the other nodes")
        return vote

    def abandon(self) -> None:
        """Close all connections; the set must not be used again."""
        for connection in self._connections:
            connection.abandon()
        self._selector.close()
