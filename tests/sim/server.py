"""The protocol side of a simulated server: commands as bytes, replies as bytes, and blocking reads.

Invariants: commands of a connection run in their order. A connection that blocks runs no further command. A server
notices the end of a blocking read up to a tenth of a second late, as Redis does.
"""

from __future__ import annotations

import functools
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from hiredis import Reader

from redlock._transport import codec
from redlock._transport.reply_reader import ReplyError
from tests.sim.world import MS

if TYPE_CHECKING:
    from tests.sim.nodes import Node

_MORE = object()
_EXPIRY_MS = 100
_LIE_US = 2 * 3600 * 1_000_000
"""How far ahead of all clocks the tokens of a lying node are."""
_MOST_KNOWN = 64
_WAKE = codec.Script.load("wake")


def encode(value: Any) -> bytes:  # noqa: ANN401 - any reply
    """A reply in the Redis protocol."""
    if type(value) is list:
        return b"*%d\r\n%b" % (len(value), b"".join(map(encode, value)))
    if type(value) is int:
        return b":%d\r\n" % value
    if value is None:
        return b"$-1\r\n"
    if isinstance(value, str):
        text = value.encode()
        return b"$%d\r\n%s\r\n" % (len(text), text)
    if isinstance(value, bytes):
        return b"$%d\r\n%s\r\n" % (len(value), value)
    return b"-%s\r\n" % str(value).encode()


_SHAS = {script.source: (script.sha, encode(script.sha)) for script in codec.SCRIPTS.values()}
_MASTER = encode("role:master\r\n")
_NO_SCRIPT = encode(ReplyError("NOSCRIPT No matching script."))
_greetings: dict[bytes, list[list[bytes]]] = {}
"""Greetings that arrived in one piece, and their commands. All clients send the same few."""


def _as_bytes(commands: list[list[bytes]]) -> bytes:
    return b"".join([codec.pack(*words) for words in commands])


class Session:
    """The server's side of one connection.

    Args:
        node: The server.
        write: Sends bytes to the client.
    """

    def __init__(self, node: Node, write: Callable[[bytes], None]) -> None:
        self.node, self._write = node, write
        reader = Reader(notEnoughData=_MORE)
        self._feed, self._gets = reader.feed, reader.gets
        self._commands: deque[list[bytes]] = deque()
        self._is_new = True
        """Whether nothing has arrived yet."""
        self._blocking: list[str] = []
        """The keys of the blocking read that runs."""
        self._reads = 0

    def receive(self, data: bytes) -> None:
        """Run the commands that these bytes complete."""
        self._commands += self._greeting(data) if self._is_new else self._parsed(data)
        self._run()

    def _parsed(self, data: bytes) -> list[list[bytes]]:
        self._feed(data)
        return list(iter(self._gets, _MORE))

    def _greeting(self, data: bytes) -> list[list[bytes]]:
        """The first commands of a connection."""
        self._is_new = False
        commands = _greetings.get(data)
        if commands is None:
            commands = self._parsed(data)
            if len(_greetings) < _MOST_KNOWN and _as_bytes(commands) == data:
                _greetings[data] = commands
        return commands

    def _run(self) -> None:
        commands, answers = self._commands, []
        while commands and not self._blocking:
            answer = self._execute(commands.popleft())
            if answer is not None:
                answers.append(answer)
        if answers:
            self._write(b"".join(answers))
        if self.node.blocked:
            serve(self.node)

    def _execute(self, words: list[bytes]) -> bytes | None:
        name, node = words[0], self.node
        if name == b"EVALSHA":
            if words[1] not in node.scripts:
                return _NO_SCRIPT
            compiled, keys, arguments = node.lua.by_sha(words[1]), int(words[2]), words[3:]
            if node.mood != "lying":
                return node.encoded_reply(compiled, keys, arguments)
            reply: Any = node.run_words(compiled, keys, arguments)
            if type(reply) is list and reply[0] == 1 and reply[2]:
                reply[2] += _LIE_US
            return encode(reply)
        if name == b"BLPOP":
            return self._block([word.decode() for word in words[1:-1]], int(words[-1]))
        return self._evaluate(words) if name == b"EVAL" else self._introduce(words)

    def _introduce(self, words: list[bytes]) -> bytes:
        """Answer the questions of a greeting."""
        name, node = words[0], self.node
        if name == b"SCRIPT":
            sha, reply = _SHAS[words[2]]
            node.scripts.add(sha)
            return reply
        if name == b"INFO":
            return _MASTER if words[1] == b"replication" else _info(node.run_id)
        assert name == b"HMGET", words
        record = words[1].decode()
        return encode([node.field(record, "run_id"), node.field(record, "fingerprint")])

    def _evaluate(self, words: list[bytes]) -> bytes:
        lua = self.node.lua
        compiled = lua.wake if words[1] == _WAKE.source else lua.by_text(words[1])
        reply = self.node.run_words(compiled, int(words[2]), words[3:])
        return encode(reply if isinstance(reply, Exception) else reply[0])

    def _block(self, keys: list[str], seconds: int) -> bytes | None:
        node, answer = self.node, self._popped(keys)
        if answer is not None:
            return answer
        self._blocking = keys
        self._reads += 1
        node.blocked.append(self)
        late = int(node.world.chance.random() * _EXPIRY_MS * MS)
        node.world.after(seconds * 1_000 * MS + late, self._expire, self._reads)
        return None

    def _popped(self, keys: list[str]) -> bytes | None:
        """The reply with an item of the first of these keys that has one."""
        for key in keys:
            item = self.node.pop(key)
            if item is not None:
                return encode([key, item])
        return None

    def _expire(self, read: int) -> None:
        if self._blocking and read == self._reads:
            if self.node.frozen_until > self.node.world.now:
                self.node.world.at(self.node.frozen_until, self._expire, read)
                return
            self._unblock(b"*-1\r\n")

    def _unblock(self, answer: bytes) -> None:
        self._blocking = []
        if self in self.node.blocked:
            self.node.blocked.remove(self)
        self._write(answer)
        self._run()

    def serve(self) -> None:
        """Answer the blocking read if one of its keys has an item."""
        answer = self._popped(self._blocking)
        if answer is not None:
            self._unblock(answer)

    def close(self) -> None:
        """The connection has ended."""
        self._blocking = []
        self._commands.clear()
        if self in self.node.blocked:
            self.node.blocked.remove(self)


@functools.lru_cache(_MOST_KNOWN)
def _info(run_id: str) -> bytes:
    return encode(f"redis_version:7.4.0\r\nredis_mode:standalone\r\nrun_id:{run_id}\r\n")


def serve(node: Node) -> None:
    """Give items to blocking reads, the oldest read first."""
    for session in list(node.blocked):
        session.serve()
