"""The state of a connection to a node: the bytes to write, and for each reply the tally of its round.

Invariants:
1. No I/O and no clock. The driver writes `outbox`, and owns the connected socket, which is opaque here.
2. A late reply belongs to the tally of its own round and never counts for another attempt.
3. A node that let a round time out is *suspect* until its next reply, and no round waits for a suspect node.
4. A command that is held back stays in the outbox until the next write, in front of the commands of later rounds.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any

from redlock._transport.codec import LOAD_SCRIPTS, SCRIPTS, run_id_argument
from redlock._transport.decoder import VoteReader

if TYPE_CHECKING:
    from redlock._core.vote_tally import VoteTally
    from redlock._core.votes import Vote
    from redlock._transport.node_health import NodeHealth

MOST_PENDING = 4_096
MOST_UNSENT = 16_000_000
"""The most bytes that wait until the socket accepts more: a node can answer commands that it does not read."""


class NodeConnection:
    """A connection to a node, or the reason why no connection exists."""

    def __init__(self, place: int, node: NodeHealth) -> None:
        self.place = place
        self.node = node
        self.handle: Any = None
        """The driver's socket; None while the node is not connected."""
        self.is_dialling = False
        self.dialled_ms = 0
        self.is_unsteady = False
        """Whether this dial follows soon after the last: no round with a quorum waits for the dial."""
        self.run_id = ""
        self.run_id_argument = b""
        """The node's run_id as the last argument of a command whose script admits."""
        self.refusal: Vote | None = None
        """The node's reply, if the node has rejected this client's configuration and not accepted it since."""
        self.agreed = False
        """Whether the node is known to accept this client's configuration."""
        self.duplicates: tuple[NodeConnection, ...] = ()
        """Connections whose addresses lead to the same server."""
        self.suspect_since_ms: int | None = None
        self.reason = "not connected yet"
        self.loading = 0
        """The number of scripts whose load has no reply yet."""
        self.pending: deque[VoteTally | None] = deque()
        """The tallies of the commands without a reply, the oldest first; None for a reply that is ignored."""
        self.outbox: bytes | bytearray = b""
        """The bytes to write now."""
        self.is_blocked = False
        """Whether the system has not accepted all bytes: the driver waits until the socket accepts more."""
        self.is_sending = False
        """Whether a send has begun and its result is not noted: the node may have half of a command."""
        self._held_back: bytes | bytearray = b""
        """The outbox after the last command that was held back."""
        self._owed: VoteTally | None = None
        """The oldest command that the node had not answered at the last check."""
        self._owed_since_ms = 0
        self.reader = VoteReader()

    @property
    def is_fit(self) -> bool:
        """Whether a round can use the node's vote."""
        return self.handle is not None and self.suspect_since_ms is None and self.refusal is None

    @property
    def is_awaited(self) -> bool:
        """Whether the node still has to answer a command and is not suspect."""
        return bool(self.pending) and self.handle is not None and self.suspect_since_ms is None

    def is_overdue(self, now_ms: int, timeout_ms: int) -> bool:
        """Whether the node owes a reply to a round that is over, and owed the same reply a node timeout ago.

        The begin of the round says less: a process can be stopped before it sends the command.
        """
        is_sent = self.is_blocked or not self.outbox
        owed = next((tally for tally in self.pending if tally is not None), None) if is_sent else None
        if owed is not self._owed:
            self._owed, self._owed_since_ms = owed, now_ms
        return owed is not None and owed.closed and now_ms - max(self._owed_since_ms, owed.sent_ms) >= timeout_ms

    @property
    def may_agree(self) -> bool:
        """Whether the node accepts the configuration, or may accept it with a reply that is still pending."""
        asked = (tally for tally in self.pending if tally is not None)
        return self.agreed or (self.refusal is None and any(SCRIPTS[type(tally.command)].admits for tally in asked))

    def adopt(self, handle: object, run_id: str) -> None:
        """Use a new connection, with no reply pending and no suspicion."""
        self.handle, self.run_id, self.run_id_argument = handle, run_id, run_id_argument(run_id)
        self.reader = VoteReader()
        self.suspect_since_ms, self.reason, self.is_dialling = None, "", False
        self.refusal, self.agreed = None, False
        self.loading = 0

    def end(self, reason: str) -> list[VoteTally]:
        """The connection has ended; returns the tallies of the rounds that get no reply from the node."""
        unanswered = [tally for tally in self.pending if tally is not None]
        self.handle, self.reason, self.suspect_since_ms = None, reason, None
        self.pending.clear()
        self.outbox, self.is_blocked, self.is_sending = b"", False, False
        return unanswered

    def request(self, words: bytes, tally: VoteTally) -> bool:
        """Put a command, whose reply belongs to this tally, into the outbox; False if too many are overdue."""
        self.pending.append(tally)
        self.outbox += words
        return len(self.pending) <= MOST_PENDING and not (self.is_blocked and len(self.outbox) > MOST_UNSENT)

    def hold_back(self) -> None:
        """Keep the commands in the outbox back until the next write, also if `drop_requests` is called before."""
        self._held_back = self.outbox

    def drop_requests(self) -> None:
        """Leave only commands in the outbox that were held back."""
        # A release is unique, so an outbox that begins with releases was not written since. An extension is not unique.
        # An extension that is sent although no code counts its reply prolongs a key by one TTL at most.
        self.outbox = self._held_back if self.outbox.startswith(self._held_back) else b""

    def load_scripts(self) -> None:
        """Put commands into the outbox that load all scripts, unless they are under way; the replies are ignored.

        Otherwise a node could have megabytes sent, and copied for seconds, with thousands of short replies at once.
        """
        if self.loading:
            return
        self.loading = len(SCRIPTS)
        self.pending.extend([None] * len(SCRIPTS))
        self.outbox += LOAD_SCRIPTS

    def keep(self, words: bytes | bytearray, sent: int) -> None:
        """Put back the rest of a piece from the outbox, which the system has not accepted."""
        rest = words if isinstance(words, bytearray) else bytearray(words)
        del rest[:sent]
        # An empty rest can be what was held back, which later commands must not change.
        self.outbox, self.is_blocked = rest or b"", bool(rest)
