"""The sync driver: carries rounds out on all nodes at once and comes back with elections.

Rules of this file:
1. A round costs one exchange with all nodes in parallel, and is over when it is decided; the answers of the
   slow nodes are read before the next command's, on the same connection, and count for nothing.
2. Rounds that do not need each other's outcome share the exchange.
3. What nobody waits for is sent at once too, unless this thread is in the habit of coming back within a millisecond:
   then it goes out with the next round, in one piece, and `look` sends it where no next round comes.
4. No thread per node: the sockets are multiplexed with `selectors`, which gevent patches too.
"""

from __future__ import annotations

from selectors import EVENT_READ
from typing import TYPE_CHECKING, TypeVar

from hiredis import ReplyError

from redlock import _log
from redlock._clock import now_ms
from redlock._core.commands import Acquire, Inspect, Release, Round, Wait
from redlock._core.vote_tally import VoteTally
from redlock._core.votes import UNANSWERED, Kind, Vote, silent, timed_out
from redlock._transport import codec as wire
from redlock._transport.codec import SCRIPTS
from redlock._transport.pending_releases import RELEASE_MS, PendingRelease, PendingReleases

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from redlock._core.protocol import Outcome, Steps
    from redlock._transport.codec import Codec
    from redlock._transport.connection import NodeConnection
    from redlock._transport.node import Node

T = TypeVar("T")

_IDLE_MS = 1_000
_MOST_BEGUN = 512
"""So many releases are under way at most: their replies fit into what a socket takes without being read."""


class NodeConnections(PendingReleases):
    """Rounds on one connection per node, for one thread at a time."""

    def __init__(self, nodes: Sequence[Node], codec: Codec) -> None:
        super().__init__(nodes, codec.fingerprint)
        self.rounds = 0
        """How many have been sent; who looks twice sees whether the set is in use."""
        self._codec = codec
        self._used_ms = now_ms()

    def run(self, steps: Steps[T], until_ms: int | None = None) -> T:
        """Carry out the rounds of a protocol generator and return its result.

        Args:
            steps: The generator.
            until_ms: When the last of its rounds is over at the latest; default: in two node timeouts.
        """
        self._until_ms = now_ms() + 2 * self._timeout_ms if until_ms is None else until_ms
        return self._carry_on(steps, self._ask(next(steps)))

    def run_all(self, courses: Sequence[Steps[T]]) -> list[T]:
        """Carry out generators that do not need each other's outcome: their rounds share the exchanges."""
        self._until_ms = now_ms() + 2 * self._timeout_ms
        begun: list[tuple[Steps[T], VoteTally]] = []
        results: dict[Steps[T], T] = {}
        try:
            for steps in courses:
                try:
                    begun.append((steps, self._ask(next(steps), hold=True)))
                except StopIteration as stop:
                    results[steps] = stop.value
                self._struck = False
            self._enter()
            self._flush()
            for steps, tally in begun:
                results[steps] = self._carry_on(steps, tally)
        finally:
            for steps, tally in begun:
                tally.closed = True
                steps.close()
        return [results[steps] for steps in courses]

    def send_release(self, steps: Steps[Outcome], done: Callable[[Outcome], None]) -> None:
        """Send a release, or hold it back for a moment, and wait for nothing; `done` is told the outcome later."""
        self._until_ms = now_ms() + 2 * self._timeout_ms
        if len(self._begun) >= _MOST_BEGUN:
            # Faster than the nodes: no command may be dropped for that, so this one waits for the oldest.
            self._enter()
            self._flush()
            self._collect(self._begun[0].tally)
            self._tell(over=1)
            self._struck = False
        tally = self._ask(next(steps), hold=self._comes_back)
        self._begun.append(PendingRelease(tally, steps, done))
        self._begun_ms = tally.sent_ms
        if self._holds_back and self._is_time_to_flush(tally.sent_ms):
            self._flush()
            self._pump(0)
            self._tell()
        self._struck = False

    def poll(self) -> None:
        """Send what was held back, and read what has come."""
        if self._begun:
            self._enter()
            self._flush()
            self._pump(0)
            self._tell()
            self._struck = False

    def await_releases(self) -> None:
        """Wait until the outcome of every release is known, at most as long as a release may take."""
        if self._begun:
            self._until_ms = now_ms() + RELEASE_MS
            self._enter()
            self._flush()
            while self._begun:
                self._collect(self._begun[0].tally)
                self._tell(over=1)
            self._struck = False

    def drain(self, until_ms: int) -> None:
        """Read until every node has answered every command, at most until this moment.

        A node that can't write an answer because the connection has ended drops the commands that it has not read,
        and with them the release of a lock that it has set.
        """
        self._enter()
        while (wait_ms := until_ms - now_ms()) > 0 and any(link.is_awaited for link in self._links):
            self._pump(wait_ms)
        self._struck = False

    def _enter(self) -> None:
        """Something is begun: where that is so already an exception struck, and the order of the answers is lost."""
        if self._struck:
            for link in self._links:
                link.flush()
            self.abandon()
            self._start_afresh()
            self._tell(over=len(self._begun))
        self._struck = True

    def _carry_on(self, steps: Steps[T], tally: VoteTally) -> T:
        try:
            while True:
                if tally.wait is not Wait.SENT:
                    self._collect(tally)
                self._used_ms = now_ms()
                if self._was_rejected:
                    self._overrule(tally)
                round_result = tally.close(self._used_ms)
                if self._begun:
                    self._tell()
                self._struck = False
                tally = self._ask(steps.send(round_result))
        except StopIteration as stop:
            result: T = stop.value
            return result
        finally:
            # Struck while it waits: nothing of it may be asked again after what takes it back.
            tally.closed = True

    def _ask(self, round_: Round, *, hold: bool = False) -> VoteTally:
        """Send one command to all nodes at once."""
        self._enter()
        command = round_.command
        if round_.wait is not Wait.SENT:
            self._make_ready(round_)
        words = self._codec.encode(command)
        self.rounds += 1
        sent_ms = now_ms()
        tally = VoteTally(round_, len(self._links), sent_ms)
        admits, to = SCRIPTS[type(command)].admits, round_.to
        barred = admits and self._barred
        for link in self.order(command):
            if to is not None and link.place not in to:
                tally.cast(link.place, silent("not asked"))
            elif barred:
                tally.cast(link.place, self._not_asked(link))
            elif link.sock is None or link.suspect_since_ms is not None or link.refusal is not None:
                vote = self._send_to_unfit(link, tally, words + link.run_id_argument if admits else words)
                tally.cast(link.place, vote)
            elif hold:
                link.hold_back(words + link.run_id_argument if admits else words, tally)
            else:
                link.send(words + link.run_id_argument if admits else words, tally)
        self._hold_back(sent_ms, hold=hold)
        return tally

    def _send_to_unfit(self, link: NodeConnection, tally: VoteTally, words: bytes) -> Vote:
        """A node that is down, suspect, or refused us: it may be told, and is not waited for."""
        suspect = link.suspect_since_ms is not None
        if link.sock is None or (suspect and isinstance(tally.command, Acquire | Inspect)):
            return silent(link.reason or link.node.error)
        if not link.send(words, tally) or suspect:
            return silent(link.reason)
        # It has no vote until it says otherwise, and a quorum of the others has accepted the configuration.
        return UNANSWERED if link.refusal is None else link.refusal._replace(fingerprint="", unanswered=True)

    def _collect(self, tally: VoteTally) -> None:
        limit_ms = self._timeout_ms
        if type(tally.command) is Release:
            limit_ms = min(limit_ms, RELEASE_MS)
        until_ms = min(tally.sent_ms + limit_ms, self._until_ms)
        while not tally.is_over:
            wait_ms = until_ms - now_ms()
            if wait_ms > 0:
                self._pump(wait_ms)
                continue
            # A process that is stopped and goes on finds its time over and the answers there: so the last look comes
            # after the wait, or it would take all nodes for silent. It is one look: a node can send without end.
            self._pump(0)
            if not tally.is_over:
                self._give_up(tally, limit_ms)
                return
        if tally.is_lost and type(tally.command) is Acquire:
            # Who has said no by now, though nobody waited for it, need not be told that the attempt is over.
            self._pump(0)

    def _pump(self, wait_ms: int) -> bool:
        """Read what has arrived within this time; False if nothing has."""
        self._struck = False
        ready = self._selector.select(wait_ms / 1000)
        self._struck = True
        read_ms = now_ms()
        for key, mask in ready:
            link: NodeConnection = key.data
            if mask != EVENT_READ:
                link.write()
            for tally, reply in link.receive():
                if tally is None:
                    continue
                if type(reply) is ReplyError and link.taught is not tally and str(reply).startswith("NOSCRIPT"):
                    self._load_scripts(link, tally)
                else:
                    self._count(link, tally, reply, read_ms)
        return bool(ready)

    def _count(self, link: NodeConnection, tally: VoteTally, reply: object, read_ms: int) -> None:
        if tally.closed:
            # Too late for its round. What it says of the configuration counts all the same.
            late = wire.refusal(reply) if link.agreed else wire.decode(reply)
            if late is not None and late.time_ms:
                self._note_terms(link, late)
            return
        vote = wire.decode(reply)
        if vote.fence > tally.most_fence:
            vote = self._if_plausible(link, vote)
        tally.cast(link.place, self._counted_once(link, tally, vote) if link.twins else vote)
        if vote.time_ms:
            if vote.kind is Kind.SILENT or not link.agreed:
                self._note_terms(link, vote)
            link.node.watch(vote.time_ms, tally.sent_ms, read_ms)

    def _load_scripts(self, link: NodeConnection, tally: VoteTally) -> None:
        """Teach a node all the scripts that it has lost, so that a cancel finds its own; then ask again, once."""
        link.taught = tally
        link.load_scripts()
        if not tally.closed:
            words = self._codec.encode(tally.command)
            if not link.send(words + link.run_id_argument if SCRIPTS[type(tally.command)].admits else words, tally):
                tally.record_silence(link.place, link.reason)

    def _give_up(self, tally: VoteTally, limit_ms: int) -> None:
        """The time is over. Only a node that had all of its time is suspect: a release is cut short for our sake."""
        reason, now = f"no answer within {limit_ms} ms", now_ms()
        for link in self._links:
            if tally.votes[link.place].unanswered:
                tally.cast(link.place, timed_out(reason))
                if now - tally.sent_ms >= self._timeout_ms:
                    link.reason, link.suspect_since_ms = reason, now
                    _log.warning("node-silent", node=link.node.label, reason=reason)

    def _make_ready(self, round_: Round) -> None:
        """Read what is late where that is needed, drop what is useless, and dial."""
        unfit = [one for one in self._links if one.sock is None or one.suspect_since_ms is not None or one.refusal]
        self._barred = False
        idle = now_ms() - self._used_ms > _IDLE_MS
        if not (unfit or idle):
            return
        suspects = [link for link in unfit if link.suspect_since_ms is not None]
        if idle or any(link.sock is not None for link in unfit):
            self._pump(0)
        self._connect(round_.command, suspects)
