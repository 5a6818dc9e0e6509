"""Rounds on the connections of a set: a state machine without I/O.

A driver gives times and received bytes to this machine, and writes the outboxes.

Invariants:
1. No I/O, no clock and no thread. Any number of rounds can be open at a time.
2. A reply counts for the round of its own command only, and only until the round is closed.
3. A node with too many overdue replies or unread bytes, or with a reply that is not valid, loses the connection.
   Commands that are lost with a connection cost at most one TTL.
4. A client that nodes reject, and that no larger number of nodes accepts, sends no command that asks for a vote.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from redlock._core.commands import Acquire, Command, Inspect, Release, Round
from redlock._core.vote_tally import VoteTally
from redlock._core.votes import Kind, Vote, silent, timed_out
from redlock._transport import codec, vote_checks
from redlock._transport.codec import SCRIPTS
from redlock._transport.connected_nodes import ConnectedNodes
from redlock._transport.connection import MOST_PENDING
from redlock._transport.reply_reader import UnreadableReply

if TYPE_CHECKING:
    from collections.abc import Sequence

    from redlock._core.votes import RoundResult
    from redlock._transport.connection import NodeConnection

_SILENT = Kind.SILENT
RELEASE_MS = 80
"""A hard time limit leaves a Celery child 100 ms between SIGTERM and SIGKILL (billiard/pool.py)."""


class NodeConnections(ConnectedNodes):
    """Rounds on a connection to each node."""

    def order(self, command: Command) -> Sequence[NodeConnection]:
        """The order in which nodes get the command. The waiters' node gets a release last: see `waiting_order`.

        Otherwise a waiter could be woken and reach the other nodes before the release does.
        """
        if type(command) is not Release:
            return self.all
        return self._release_orders[codec.waiting_order(command.names, len(self.all))[0]]

    def begin(self, round_: Round, now_ms: int) -> VoteTally:
        """Begin a round: its command is in the outboxes then."""
        command, to = round_.command, round_.to
        words = self._codec.encode(command)
        tally = VoteTally(round_, len(self.all), now_ms)
        admits = SCRIPTS[type(command)].admits
        if not self._all_fit or to is not None:
            self._begin_partly(tally, words, to)
            return tally
        for one in self.order(command):
            own_words = words + one.run_id_argument if admits else words
            if not (one.outbox or len(one.pending) >= MOST_PENDING):
                # As `request`, for speed.
                one.pending.append(tally)
                one.outbox = own_words
            elif not one.request(own_words, tally):
                self._lost_as_overdue(one)
        return tally

    def _begin_partly(self, tally: VoteTally, words: bytes, to: tuple[int, ...] | None) -> None:
        """Begin a round that not all nodes get, or for which not all nodes are fit."""
        command, admits = tally.command, SCRIPTS[type(tally.command)].admits
        barred = admits and vote_checks.is_barred(self.all)
        for one in self.order(command):
            own_words = words + one.run_id_argument if admits else words
            if to is not None and one.place not in to:
                tally.cast(one.place, silent("not asked"))
            elif barred:
                refused = vote_checks.is_refused(self.all, self._quorum)
                tally.cast(one.place, vote_checks.not_asked(one, refused=refused))
            elif not one.is_fit:
                tally.cast(one.place, self._request_unavailable(one, tally, own_words))
            elif not one.request(own_words, tally):
                self._lost_as_overdue(one)

    def _lost_as_overdue(self, connection: NodeConnection) -> None:
        self.lost(connection, "takes no more commands: earlier commands are overdue")

    def _request_unavailable(self, connection: NodeConnection, tally: VoteTally, words: bytes) -> Vote:
        """Send a command to a node that is down, suspect or rejecting, if useful. The round waits for no reply."""
        suspect = connection.suspect_since_ms is not None
        if connection.handle is None:
            return silent(connection.node.error or connection.reason)
        if suspect and isinstance(tally.command, Acquire | Inspect):
            return silent(connection.reason)
        if not connection.request(words, tally):
            self._lost_as_overdue(connection)
        refusal = connection.refusal
        if suspect or connection.handle is None or refusal is None:
            return silent(connection.reason)
        # The node has no vote until it accepts the configuration, which a quorum of the other nodes has accepted.
        return refusal._replace(fingerprint="", unanswered=True)

    def limit_ms(self, tally: VoteTally) -> int:
        """How long a round takes at most."""
        return min(self.timeout_ms, RELEASE_MS) if type(tally.command) is Release else self.timeout_ms

    def receive(self, connection: NodeConnection, data: bytes, now_ms: int) -> None:
        """Bytes have arrived; no bytes mean that the node has closed the connection."""
        pending = connection.pending
        try:
            votes = connection.reader.read(data)
        except UnreadableReply as exc:
            self.lost(connection, str(exc))
            return
        if not data or len(votes) > len(pending):
            self.lost(connection, "answered without being asked" if data else "the node closed the connection")
            return
        if votes:
            connection.suspect_since_ms = None
        for vote in votes:
            self._voted(connection, pending.popleft(), vote, now_ms)

    def _voted(self, connection: NodeConnection, tally: VoteTally | None, vote: Vote, now_ms: int) -> None:
        if tally is None:
            connection.loading -= 1
            return
        if vote.kind is _SILENT or not connection.agreed:
            if self._loads_scripts(connection, tally, vote.reason, now_ms):
                return
            is_news = vote.fingerprint or not connection.agreed
            if vote.time_ms and (is_news or not tally.closed):
                self._note_fingerprint(connection, vote, now_ms)
        if tally.closed:
            is_open = vote.kind is _SILENT and tally.votes[connection.place].unanswered
            if is_open and SCRIPTS[type(tally.command)].admits:
                connection.node.refuses_late(vote.reason, now_ms)
            return
        if connection.duplicates or tally.doubted or vote.fence > tally.most_fence:
            vote_checks.count(self.all, connection, tally, vote)
        else:
            tally.cast(connection.place, vote)
        if now_ms >= connection.node.watch_from_ms and vote.time_ms:
            connection.node.watch(vote.time_ms, tally.sent_ms, now_ms)
        if tally.on_news is not None:
            self.with_news.append(tally)

    def _loads_scripts(self, connection: NodeConnection, tally: VoteTally, reason: str, now_ms: int) -> bool:
        """Load all scripts again, so that a cancel finds its script too; then repeat the command once.

        After the end of its round only a release is repeated: that does no harm, and the key would stay for its TTL.
        """
        if connection.place in tally.repeated or not reason.startswith("NOSCRIPT"):
            return False
        tally.repeated += (connection.place,)
        connection.load_scripts()
        if not tally.closed or type(tally.command) is Release:
            words = self._codec.encode(tally.command)
            admits = SCRIPTS[type(tally.command)].admits
            if tally.closed:
                # The node is not late with a reply that is due from now on.
                tally.sent_ms = now_ms
            # The next round looks at the limit: `receive` goes on with this connection.
            connection.request(words + connection.run_id_argument if admits else words, tally)
        return True

    def expire(self, tally: VoteTally, now_ms: int) -> None:
        """End the round at its deadline. A node is suspect only after a full node timeout: a release ends earlier."""
        reason = f"no answer within {self.limit_ms(tally)} ms"
        vote_checks.count_doubted(self.all, tally)
        for one in self.all:
            if tally.votes[one.place].unanswered and one.place not in tally.doubted:
                tally.cast(one.place, timed_out(reason))
                if now_ms - tally.sent_ms >= self.timeout_ms:
                    self.suspect(one, reason, now_ms)

    def finish(self, tally: VoteTally, now_ms: int) -> RoundResult:
        """Close the round; later replies do not count."""
        if self._was_rejected:
            # Hide the rejections, unless enough nodes reject the client's configuration.
            self._was_rejected = vote_checks.rejecting(self.all) > 0
            if not vote_checks.is_refused(self.all, self._quorum):
                tally.votes = [vote._replace(fingerprint="") if vote.fingerprint else vote for vote in tally.votes]
        return tally.close(now_ms)
