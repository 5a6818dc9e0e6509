"""The sync driver: carries a round out on all nodes at once and comes back with an election.

Rules of this file:
1. A round costs one exchange with all nodes in parallel, and is over when it is decided; the answers of the
   slow nodes are read before the next command's, on the same connection, and count for nothing.
2. No thread per node: the sockets are multiplexed with `selectors`, which gevent patches too. A set of links
   is used by one thread at a time.
3. An exception may strike anywhere (time limits, SystemExit from a signal). Where it strikes while nothing but
   waiting is done, nothing is hurt; anywhere else the whole set is thrown away, because the order of its answers
   is no longer known.
"""

from __future__ import annotations

import selectors
import threading
from typing import TYPE_CHECKING, TypeVar

import hiredis

from redlock import log, wire
from redlock.clock import now_ms
from redlock.commands import Acquire, Command, Inspect, Release, Round, Wait
from redlock.errors import ConfigurationError
from redlock.link import Link
from redlock.model import UNANSWERED, Election, Kind, Vote, counted, decided, quorum_of, silent, timed_out
from redlock.nodes import Dial
from redlock.wire import LESSONS, SCRIPTS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from redlock.nodes import Dialled, Node
    from redlock.protocol import Steps
    from redlock.wire import Codec

T = TypeVar("T")

_RELEASE_MS = 80
"""A hard time limit leaves a Celery child 100 ms between SIGTERM and SIGKILL (billiard/pool.py)."""
_IDLE_MS = 1_000
_SUSPECT_MS = 1_000
_NOBODY = 0
"""The ticket of an answer that no round waits for."""


class Links:
    """One connection per node, used by one thread at a time."""

    def __init__(self, nodes: Sequence[Node], codec: Codec) -> None:
        self.lock = threading.Lock()
        self._nodes = nodes
        self._selector = selectors.DefaultSelector()
        self._links = self._fresh()
        self._quorum = quorum_of(len(nodes))
        self._codec = codec
        self._timeout_ms = nodes[0].timeout_ms
        self._ticket = 0
        self._used_ms = now_ms()
        self._struck = False

    def _fresh(self) -> list[Link]:
        return [Link(place, node, self._selector) for place, node in enumerate(self._nodes)]

    def run(self, steps: Steps[T]) -> T:
        """Carry out the rounds of a protocol generator and return its result."""
        try:
            round_ = next(steps)
            while True:
                round_ = steps.send(self.ask(round_))
        except StopIteration as stop:
            result: T = stop.value
            return result

    def ask(self, round_: Round) -> Election:
        """Send one command to all nodes at once, and come back as soon as the round is over."""
        if self._struck:
            self.abandon()
            self._selector = selectors.DefaultSelector()
            self._links = self._fresh()
        self._struck = True
        election = self._ask(round_)
        self._struck = False
        return election

    def _ask(self, round_: Round) -> Election:
        command = round_.command
        if round_.wait is not Wait.SENT:
            self._make_ready(command)
        self._ticket += 1
        words = self._codec.encode(command)
        sent_ms = now_ms()
        admits = SCRIPTS[type(command)].admits
        votes = [UNANSWERED] * len(self._links)
        for link in self.order(command):
            votes[link.place] = self._send(link, round_, words + link.last_word if admits else words)
        if round_.wait is not Wait.SENT:
            limit_ms = self._timeout_ms if not isinstance(command, Release) else min(self._timeout_ms, _RELEASE_MS)
            self._collect(round_, votes, sent_ms, limit_ms)
        self._used_ms = now_ms()
        return Election(tuple(votes), sent_ms, self._used_ms)

    def order(self, command: Command) -> Sequence[Link]:
        """Whom to tell first: a release goes to where it wakes somebody last, or who is woken is there before it."""
        if not isinstance(command, Release):
            return self._links
        return [self._links[place] for place in reversed(wire.waiting_order(command.names, len(self._links)))]

    def _send(self, link: Link, round_: Round, words: bytes) -> Vote:
        suspect = link.suspect_since_ms is not None
        if round_.to is not None and link.place not in round_.to:
            return silent("not asked")
        if link.sock is None or (suspect and isinstance(round_.command, Acquire | Inspect)):
            return silent(link.reason or link.node.error)
        if not link.send(words, self._ticket) or suspect:
            return silent(link.reason)
        # A refusal that came too late for its round still bars this client until the node says otherwise.
        return UNANSWERED if link.refusal is None else link.refusal._replace(unanswered=True)

    def _collect(self, round_: Round, votes: list[Vote], sent_ms: int, limit_ms: int) -> None:
        command = round_.command
        while not self._is_over(round_, votes):
            # A process that is stopped and goes on finds its wait cut short, and its answers there (epoll_wait(2)
            # fails with EINTR): so the last look comes after the wait, or it would take all nodes for silent.
            wait_ms = max(0, sent_ms + limit_ms - now_ms())
            if not (self._pump(wait_ms, command, votes, sent_ms) or self._pump(0, command, votes, sent_ms)):
                self._give_up(votes, limit_ms)
                return
        lost = isinstance(command, Acquire) and sum(vote.kind is Kind.GRANTED for vote in votes) < self._quorum
        if lost and any(vote.unanswered for vote in votes):
            # Who has said no by now, though nobody waited for it, need not be told that the attempt is over.
            self._pump(0, command, votes, sent_ms)

    def _is_over(self, round_: Round, votes: list[Vote]) -> bool:
        granted = denied = unanswered = 0
        for vote in votes:
            if vote.kind is Kind.GRANTED:
                granted += 1
            elif vote.kind is Kind.DENIED:
                denied += 1
            elif vote.unanswered:
                unanswered += 1
        if round_.wait is Wait.ALL:
            return unanswered == 0
        if round_.wait is Wait.COUNTED:
            return counted(granted, denied, unanswered, self._quorum)
        return decided(granted, unanswered, self._quorum)

    def _pump(self, wait_ms: int, command: Command | None, votes: list[Vote], sent_ms: int) -> bool:
        """Read what has arrived within this time; False if nothing has."""
        self._struck = False
        ready = self._selector.select(wait_ms / 1000)
        self._struck = True
        for key, _ in ready:
            link: Link = key.data
            for ticket, reply in link.receive():
                mine = command is not None and ticket == self._ticket
                if isinstance(reply, hiredis.ReplyError) and str(reply).startswith("NOSCRIPT"):
                    self._teach(link, command if mine else None)
                elif mine:
                    votes[link.place] = vote = wire.decode(reply)
                    if vote.time_ms:
                        link.refusal = vote if vote.terms else None
                        link.node.watch(vote.time_ms, sent_ms, now_ms())
                elif reply != wire.RELEASED:
                    self._late(link, reply)
            if link.sock is None and votes and votes[link.place].unanswered:
                votes[link.place] = silent(link.reason)
        return bool(ready)

    def _teach(self, link: Link, command: Command | None) -> None:
        """Teach a node all the scripts that it has lost, so that a cancel finds its own; then ask again."""
        link.send(LESSONS, _NOBODY, len(SCRIPTS))
        if command is not None:
            words = self._codec.encode(command)
            link.send(words + link.last_word if SCRIPTS[type(command)].admits else words, self._ticket)

    @staticmethod
    def _late(link: Link, reply: object) -> None:
        vote = wire.decode(reply)
        if vote.terms:
            link.refusal = vote

    def _give_up(self, votes: list[Vote], limit_ms: int) -> None:
        """The time is over. Only a node that had all of its time is suspect: a release is cut short for our sake."""
        reason = f"no answer within {limit_ms} ms"
        for place, link in enumerate(self._links):
            if votes[place].unanswered:
                votes[place] = timed_out(reason)
                if limit_ms >= self._timeout_ms:
                    link.reason, link.suspect_since_ms = reason, now_ms()
                    log.warning("node-silent", node=link.node.label, reason=reason)

    def _make_ready(self, command: Command) -> None:
        """Read what is late, drop what is useless, and dial; wait only for nodes not known to be bad."""
        now = now_ms()
        suspects = [link for link in self._links if link.suspect_since_ms is not None]
        if suspects or now - self._used_ms > _IDLE_MS:
            self._pump(0, None, [], now)
        for link in suspects:
            if link.suspect_since_ms is not None and now - link.suspect_since_ms > _SUSPECT_MS:
                link.suspect_since_ms = None
                link.node.is_bad(link.reason)
                link.drop(link.reason)
        down = [link for link in self._links if link.sock is None]
        if down:
            self._dial(command, down)

    def _dial(self, command: Command, down: Sequence[Link]) -> None:
        patient = not isinstance(command, Release) or len(self._links) - len(down) < self._quorum
        awaited = [link for link in down if patient and not link.node.error]
        for link in down:
            if link.dial is None and link.node.may_dial():
                link.dial = Dial(link.node)
        self._struck = False
        for link in awaited:
            if link.dial is not None:
                link.dial.done.wait(4 * self._timeout_ms / 1000)
        self._struck = True
        for link in down:
            self._adopt(link)

    def _adopt(self, link: Link) -> None:
        dial = link.dial
        if dial is None or not dial.done.is_set():
            link.reason = link.node.error or link.reason
            return
        link.dial = None
        if dial.result is None:
            link.reason = dial.error
        else:
            self._refuse_duplicates(link, dial.result)
            link.adopt(dial.result)
            if dial.result.terms not in {"", self._codec.terms}:
                link.refusal = wire.disagrees(dial.result.terms)

    def _refuse_duplicates(self, new: Link, dialled: Dialled) -> None:
        for link in self._links:
            if link is not new and link.sock is not None and link.run_id == dialled.run_id:
                dialled.connection.disconnect()  # type: ignore[no-untyped-call]
                raise ConfigurationError(
                    f"nodes {link.node.label} and {new.node.label} are the same server; "
                    "each lock node must be a server of its own, or one failure costs two votes"
                )

    def abandon(self) -> None:
        """Close every connection of a set that nobody will use again."""
        for link in self._links:
            link.abandon()
        self._selector.close()
