"""The connections of a client to nodes in memory: a test moves the bytes and sets the clock."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

from redlock._core.commands import Acquire, Command, Extend, Inspect, Release, Round, Wait
from redlock._core.vote_tally import VoteTally
from redlock._transport.codec import SCRIPTS, Codec
from redlock._transport.connection import NodeConnection
from redlock._transport.connections import NodeConnections
from redlock._transport.node_health import NodeHealth
from redlock._transport.reply_reader import ReplyReader
from tests.unit.helpers import NAMES, TOKEN

TIMEOUT_MS = 100
START_MS = 1_000_000
WALL_US = 1_764_000_000_000_000
GRANT = b"*3\r\n:1\r\n:1764000000000\r\n:7\r\n"
DENIAL = b"*5\r\n:0\r\n:1764000000000\r\n:0\r\n$3\r\nx:y\r\n:900\r\n"
RELEASED = b"*3\r\n:1\r\n:0\r\n:0\r\n"
NOSCRIPT = b"-NOSCRIPT No matching script. Please use EVAL.\r\n"
LOADED = b"$40\r\n" + b"0" * 40 + b"\r\n"
ATTEMPT = Acquire(NAMES, TOKEN, 5_000, proposed=WALL_US)
EXTENSION = Extend(NAMES, TOKEN, 5_000)
RELEASE = Release(NAMES, TOKEN, 5_000)
INSPECTION = Inspect(NAMES)
_KINDS = {script.sha: kind for kind, script in SCRIPTS.items()}


def refusal(fingerprint: str = "max_ttl=9s") -> bytes:
    """The reply of a node that has another configuration fingerprint."""
    return b"*3\r\n:3\r\n:1764000000000\r\n$%d\r\n%s\r\n" % (len(fingerprint), fingerprint.encode())


class Handle:
    """The node's end of a connection."""

    def __init__(self) -> None:
        self._reader = ReplyReader(admin=True)
        self.written = bytearray()
        self.commands: deque[list[bytes]] = deque()

    def take(self, words: bytes) -> None:
        self.written += words
        self.commands.extend(self._reader.read(bytes(words)))  # type: ignore[arg-type]  # a command is a list of texts

    def kinds(self) -> list[str]:
        """The commands that the node has read and not answered: the kind of a script, or the name of the command."""
        return [
            _KINDS[words[1]].__name__ if words[0] == b"EVALSHA" else words[0].decode().lower()
            for words in self.commands
        ]


class Client:
    """The connections of a client to nodes in memory.

    Args:
        nodes: The number of nodes.
        connected: Whether all nodes are connected already.
    """

    def __init__(self, nodes: int = 5, *, connected: bool = True) -> None:
        self.now = START_MS
        self.codec = Codec(nodes, "", 10_000)
        self.health = [NodeHealth(f"h:{number}") for number in range(nodes)]
        self.state = NodeConnections(self.health, self.codec, TIMEOUT_MS, self.now)
        self.closed: list[object] = []
        if connected:
            self.dial(INSPECTION)
            for place in range(nodes):
                self.connect(place)
            assert self.state.is_ready(self.now)

    def __getitem__(self, place: int) -> NodeConnection:
        return self.state.all[place]

    def dial(
        self, command: Command, until_ms: int = START_MS + 2 * TIMEOUT_MS
    ) -> tuple[set[int], list[NodeConnection]]:
        """Make ready for a round; returns the places to dial, and the connections that the round waits for."""
        self.dials = self.state.make_ready(command, self.now, until_ms)
        places = {one.place for one in self.state.to_dial}
        self.state.to_dial.clear()
        self.close()
        return places, list(self.dials.awaited)

    def close(self) -> None:
        """Close the ended connections, as a driver does."""
        self.closed += self.state.to_close
        self.state.to_close.clear()

    def connect(self, place: int, run_id: str | None = None, fingerprint: str | None = None) -> None:
        """A dial succeeds."""
        own = self.codec.fingerprint if fingerprint is None else fingerprint
        self.state.connected(self[place], Handle(), f"{place}" * 40 if run_id is None else run_id, own)

    def begin(self, command: Command = ATTEMPT, wait: Wait = Wait.DECIDED, *, hold: bool = False) -> VoteTally:
        """Begin a round, and write everything or hold everything back."""
        tally = self.state.begin(Round(command, wait), self.now)
        if hold:
            self.state.hold_back()
        else:
            self.write()
        return tally

    def write(self, places: Iterable[int] | None = None) -> None:
        for one in self.state.all if places is None else [self[place] for place in places]:
            if one.handle is not None:
                one.handle.take(one.outbox)
                one.outbox = b""
        self.close()

    def receive(self, place: int, data: bytes) -> None:
        self.state.receive(self[place], data, self.now)
        self.close()

    def answer(self, places: Iterable[int], data: bytes) -> None:
        for place in places:
            self.receive(place, data)

    def time_out(self, tally: VoteTally) -> None:
        """A node timeout passes, and the round ends."""
        self.now += TIMEOUT_MS
        self.state.expire(tally, self.now)

    def letters(self, tally: VoteTally) -> str:
        """The votes so far."""
        return "".join("." if vote.unanswered else vote.kind.value for vote in tally.votes)
