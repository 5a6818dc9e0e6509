"""The floor: the least that Python pays for a pair. The bytes of this project's lock on five sockets, and nothing else.

Invariants:
1. Each command goes out with `send`, `poll` waits for the replies of a quorum, and hiredis parses them.
2. No vote is decoded, no deadline is watched, and no error is handled.
3. With `async-release` no release is waited for: each goes out in one piece with the next acquire.
"""

from __future__ import annotations

import secrets
import select
import sys
import time
from functools import partial
from typing import TYPE_CHECKING

import hiredis

from benchmarks.worker import Peer, serve
from redlock._core.commands import Acquire, Release
from redlock._transport.codec import Codec
from redlock._transport.node import Node

if TYPE_CHECKING:
    from redlock._core.commands import Command

_NODE_TIMEOUT_MS, _MAX_TTL_MS = 100, 10_000
_READ_BYTES = 16_384
_LABEL = "benchmark/123456/MainThread"
"""As long as the label of this project's lock."""
_TOKEN, _PROPOSED = f"{'0' * 32}:{_LABEL}", 10**15


class Floor(Peer):
    """Five sockets; `waits` is whether a release is sent at once, and its replies are awaited."""

    def __init__(self, urls: list[str], ttl: float, *, waits: bool) -> None:
        self._waits = waits
        self._ttl_ms = int(ttl * 1000)
        self._codec = Codec(len(urls), self.prefix, _MAX_TTL_MS)
        self._connected = [Node(url, _NODE_TIMEOUT_MS).connect() for url in urls]
        self._nodes = [(one.sock, b"$%d\r\n%b\r\n" % (len(one.run_id), one.run_id.encode())) for one in self._connected]
        self._readers = {one.sock.fileno(): (one.sock, hiredis.Reader()) for one in self._connected}
        self._poll = select.poll()
        for one in self._connected:
            self._poll.register(one.sock, select.POLLIN)
        self._owed = dict.fromkeys(self._readers, 0)
        """The number of replies that each socket has not sent yet."""
        self._quorum = len(urls) // 2 + 1
        self._acquires: dict[str, bytes] = {}
        self._releases: dict[str, bytes] = {}
        self._held_back = b""

    def acquire(self, name: str) -> tuple[str, bytes]:
        """Send an acquire, after a release that was held back."""
        if name not in self._acquires:
            acquire = Acquire((name,), _TOKEN, self._ttl_ms, _PROPOSED, waits_ms=self._ttl_ms)
            self._acquires[name] = self._template(acquire)
            self._releases[name] = self._template(Release((name,), _TOKEN, self._ttl_ms))
        token = f"{secrets.token_hex(16)}:{_LABEL}".encode()
        words, replies = self._acquires[name] % (token, time.time_ns() // 1_000), 1
        if self._held_back:
            words, replies, self._held_back = self._held_back + words, 2, b""
        for sock, run_id in self._nodes:
            sock.send(words + run_id)
        self._await(replies)
        return name, token

    def release(self, held: tuple[str, bytes]) -> None:
        """Send the release, or keep it for the next acquire."""
        name, token = held
        words = self._releases[name] % token
        if not self._waits:
            self._held_back = words
            return
        for sock, _ in self._nodes:
            sock.send(words)
        self._await(1)

    def settle(self) -> None:
        """Send a release that was held back."""
        if self._held_back:
            for sock, _ in self._nodes:
                sock.send(self._held_back)
            self._held_back = b""
            self._await(1)

    def _template(self, command: Command) -> bytes:
        words = self._codec.encode(command).replace(b"%", b"%%").replace(_TOKEN.encode(), b"%b")
        return words.replace(str(_PROPOSED).encode(), b"%d")

    def _await(self, replies: int) -> None:
        """Read until a quorum has sent this many replies; the others' replies come in front of their next ones."""
        owed, missing = self._owed, self._quorum
        for number in owed:
            owed[number] += replies
        while missing > 0:
            for number, _ in self._poll.poll():
                sock, reader = self._readers[number]
                reader.feed(sock.recv(_READ_BYTES))
                while reader.gets() is not False:
                    owed[number] -= 1
                missing -= not owed[number]


if __name__ == "__main__":
    serve(partial(Floor, waits="async-release" not in sys.argv))
