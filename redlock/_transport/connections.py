"""A set of links, one per node: who is connected, who is dialled, and whom a round is to wait for.

Rules of this file:
1. A set is used by one thread at a time, the one that has its turn.
2. A round waits for a dial once, for one node timeout. Then the node is down: it is dialled in the background, and
   no round waits for it until it has been reached. Only while fewer nodes than a quorum are connected a round waits
   longer, as far as its own time goes.
3. An exception may strike anywhere (time limits, SystemExit from a signal). Where it strikes while nothing but
   waiting is done, nothing is hurt; anywhere else the whole set is thrown away, because the order of its answers
   is no longer known.
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
    """One connection per node, used by one thread at a time.

    Args:
        nodes: The nodes, in their order.
        fingerprint: What the clients agree on.
    """

    def __init__(self, nodes: Sequence[Node], fingerprint: str) -> None:
        super().__init__()
        self._nodes = nodes
        self._terms = fingerprint
        self._quorum = quorum_of(len(nodes))
        self._timeout_ms = nodes[0].timeout_ms
        self._until_ms = 0
        """When the rounds that are carried out now are over at the latest."""
        self._arrivals: SimpleQueue[None] = SimpleQueue()
        """A hint for each dial that has ended."""
        self._struck = False
        """Whether something was begun that an exception would leave half done."""
        self._barred = False
        """Whether no command that counts as a vote may be sent: see `_is_barred`."""
        self._was_rejected = False
        self._start_afresh()

    def _start_afresh(self) -> None:
        self._selector = selectors.DefaultSelector()
        self._links = [NodeConnection(place, node, self._selector) for place, node in enumerate(self._nodes)]

    def order(self, command: Command) -> Sequence[NodeConnection]:
        """Whom to tell first: a release goes to where it wakes somebody last, or who is woken is there before it."""
        if type(command) is not Release:
            return self._links
        return [self._links[place] for place in reversed(codec.waiting_order(command.names, len(self._links)))]

    def _connect(self, command: Command, suspects: Sequence[NodeConnection]) -> None:
        """Drop what has been suspect for too long, and dial; wait only for nodes not known to be bad."""
        now = now_ms()
        # Where a quorum is silent the connections are likely to be at fault: a firewall has forgotten them. A release
        # stays on its connection, or it could overtake its acquire.
        fit = sum(link.sock is not None and link.suspect_since_ms is None for link in self._links)
        renews = fit < self._quorum and type(command) is not Release
        for link in suspects:
            if link.suspect_since_ms is None:
                continue
            overdue = now - link.suspect_since_ms > _SUSPECT_MS
            if overdue:
                link.node.mark_down(link.reason)
            if overdue or renews:
                link.suspect_since_ms = None
                link.drop(link.reason)
        admits = codec.SCRIPTS[type(command)].admits
        if admits and self._is_barred():
            # A new connection reads the record again, without a command that would make one.
            for link in self._links:
                if link.refusal is not None:
                    link.drop(link.refusal.reason)
        down = [link for link in self._links if link.sock is None]
        if down:
            self._dial(command, down)
        self._barred = admits and self._is_barred()

    def _is_barred(self) -> bool:
        """Whether nodes reject this client's configuration, and no larger number of nodes works under it.

        A command of such a client could make its configuration that of a node that has just lost its memory. A
        smaller number of nodes that reject the configuration has no vote, and stops no client.
        """
        rejecting = self._rejecting
        return rejecting > 0 and sum(link.may_agree for link in self._links) <= rejecting

    @property
    def _rejecting(self) -> int:
        return sum(link.refusal is not None for link in self._links)

    def _is_refused(self) -> bool:
        """Whether it is barred, and no node that is down now could change that."""
        final = self._rejecting >= self._quorum or all(link.sock is not None for link in self._links)
        return final and self._is_barred()

    def _not_asked(self, link: NodeConnection) -> Vote:
        """The vote of a node to which a barred client sends nothing."""
        if link.refusal is None:
            return silent(link.reason or "not asked: another node rejects this client's configuration")
        return link.refusal if self._is_refused() else link.refusal._replace(fingerprint="")

    def _note_terms(self, link: NodeConnection, vote: Vote) -> None:
        """Remember what a node's answer says of this client's configuration."""
        if vote.fingerprint:
            link.refusal, link.agreed, self._was_rejected = vote, False, True
            link.node.rejects(vote.fingerprint)
            return
        link.agreed = vote.kind is not Kind.SILENT
        if link.refusal is not None:
            link.refusal = None
            link.node.rejects("")

    def _overrule(self, tally: VoteTally) -> None:
        """At the end of a round: nodes that reject the configuration have no vote, and stop no client by themselves."""
        self._was_rejected = self._rejecting > 0
        if not self._is_refused():
            tally.votes = [vote._replace(fingerprint="") if vote.fingerprint else vote for vote in tally.votes]

    def _dial(self, command: Command, down: Sequence[NodeConnection]) -> None:
        patient = not isinstance(command, Release) or len(self._links) - len(down) < self._quorum
        awaited = [link for link in down if patient and not link.node.error]
        for link in down:
            if link.dial is None and link.node.may_dial():
                link.dial = PendingConnection(link.node, self._arrivals)
        dials = [link.dial for link in awaited if link.dial is not None]
        self._struck = False
        self._await(dials, len(self._links) - len(down))
        self._struck = True
        for link in down:
            self._adopt(link)
        self._find_twins()

    def _await(self, dials: Sequence[PendingConnection], connected: int) -> None:
        while late := [dial for dial in dials if not dial.done.is_set()]:
            limit_ms = min(dial.began_ms for dial in late) + self._timeout_ms
            if connected + sum(dial.result is not None for dial in dials) < self._quorum:
                # What is left after that is for the round itself.
                limit_ms = max(limit_ms, self._until_ms - self._timeout_ms)
            wait_ms = min(limit_ms, self._until_ms) - now_ms()
            if wait_ms <= 0:
                break
            with suppress(Empty):
                self._arrivals.get(timeout=wait_ms / 1000)
        for dial in late:
            dial.is_overdue()

    def _adopt(self, link: NodeConnection) -> None:
        dial = link.dial
        if dial is None or not dial.done.is_set():
            link.reason = link.node.error or link.reason
            return
        link.dial = None
        if dial.result is None:
            link.reason = dial.error
        else:
            link.adopt(dial.result)
            link.agreed = dial.result.fingerprint == self._terms
            if dial.result.fingerprint and not link.agreed:
                self._note_terms(link, codec.disagrees(dial.result.fingerprint))

    def _find_twins(self) -> None:
        """Find the addresses that lead to the same server: an address is wrong there, or a server is an impostor.

        Which of them is wrong is unknown, so all of them are asked, and together they cast one vote of a kind.
        """
        places: dict[str, list[NodeConnection]] = {}
        for link in self._links:
            if link.sock is not None:
                places.setdefault(link.run_id, []).append(link)
        for link in self._links:
            twins = tuple(other for other in places.get(link.run_id, ()) if other is not link)
            if link.sock is not None and twins != link.twins:
                link.twins = twins
                if twins and twins[0].place < link.place:
                    _log.warning("node-duplicate", node=link.node.label, same_as=twins[0].node.label)

    @staticmethod
    def _counted_once(link: NodeConnection, tally: VoteTally, vote: Vote) -> Vote:
        """The vote of a server that has several addresses; no vote if another of them has brought the same."""
        for twin in link.twins:
            if tally.votes[twin.place].kind is vote.kind and not tally.votes[twin.place].unanswered:
                return silent(f"the same server as {twin.node.label}")._replace(same_as=twin.node.label)
        return vote

    def _if_plausible(self, link: NodeConnection, vote: Vote) -> Vote:
        """The vote; no vote if its token is more than an hour ahead of the clocks of the other nodes.

        The others would refuse a larger token, so this node alone would end every attempt.
        """
        offsets = sorted(
            offset for other in self._links if other is not link and (offset := other.node.clock.offset_ms) is not None
        )
        now = now_ms() + offsets[len(offsets) // 2] if offsets else wall_us() // 1_000
        if vote.fence > (now + FENCE_AHEAD_MS) * 1_000:
            return silent("told a fencing token that is more than an hour ahead of the clocks of the other nodes")
        return vote

    def abandon(self) -> None:
        """Close every connection of a set that nobody will use again."""
        for link in self._links:
            link.abandon()
        self._selector.close()
