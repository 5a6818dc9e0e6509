"""Waiting for a wake-up: a blocking read on one node, so that one release wakes one waiter, first come first served.

Rules of this file:
1. All waiters of a resource wait on the same node as long as they see the same nodes healthy: the first healthy
   one in an order that is made from the name.
2. Wake-ups are hints: losing one costs time, never safety. Every wait has an end.
3. A wait has a connection of its own, which is kept for the next one; a connection whose wait was cut short is
   closed, for the server would still hand a wake-up to it.
"""

from __future__ import annotations

import hashlib
import threading
from typing import TYPE_CHECKING

import hiredis
from redis.exceptions import RedisError

from redlock import wire
from redlock.nodes import Unfit, why

if TYPE_CHECKING:
    from collections.abc import Sequence

    from redlock.commands import Names
    from redlock.nodes import Dialled, Node

_MOST_KEPT = 32
_WAKE = wire.Script.load("wake")


class Waiters:
    """The waiting connections of one client."""

    def __init__(self, nodes: Sequence[Node], codec: wire.Codec) -> None:
        self._nodes = nodes
        self._codec = codec
        self.forget()

    def forget(self) -> None:
        """In a forked child: the parent's connections are not ours."""
        self._kept: dict[Node, list[Dialled]] = {node: [] for node in self._nodes}
        self._lock = threading.Lock()

    def close(self) -> None:
        """Close the connections that nobody waits on."""
        with self._lock:
            for kept in self._kept.values():
                while kept:
                    kept.pop().connection.disconnect()  # type: ignore[no-untyped-call]

    def wait(self, names: Names, wait_ms: int) -> Node | None:
        """Block until a wake-up for one of these resources, or for this long; the node that it came from."""
        for node in self._order(names):
            if node.error:
                continue
            words = ("BLPOP", *self._codec.wake_keys(names), f"{wait_ms / 1000:.3f}")
            if self._ask(node, words, wait_ms + node.timeout_ms) is not None:
                return node
            if not node.error:
                return None
        return None

    def pass_on(self, names: Names, node: Node, wake_ms: int) -> None:
        """Leave a wake-up that was taken in vain for the next waiter."""
        keys = self._codec.wake_keys(names)
        self._ask(node, ("EVAL", _WAKE.source, str(len(keys)), *keys, str(wake_ms)), node.timeout_ms)

    def _order(self, names: Names) -> list[Node]:
        digest = hashlib.sha256(names[0].encode()).digest()
        first = int.from_bytes(digest[:4], "big") % len(self._nodes)
        return [*self._nodes[first:], *self._nodes[:first]]

    def _ask(self, node: Node, words: tuple[str | bytes, ...], limit_ms: int) -> object:
        """One command and its answer; None, and a closed connection, where there was none."""
        dialled: Dialled | None = None
        try:
            dialled = self._take(node)
            dialled.sock.settimeout(limit_ms / 1000)
            dialled.sock.sendall(hiredis.pack_command(words))  # type: ignore[arg-type]  # its stub means one word
            answer = _read(dialled)
            with self._lock:
                if len(self._kept[node]) < _MOST_KEPT:
                    self._kept[node].append(dialled)
                    dialled = None
        except (RedisError, OSError, Unfit, hiredis.ProtocolError) as exc:
            node.is_bad(why(exc, node.timeout_ms))
            return None
        else:
            return answer
        finally:
            if dialled is not None:
                dialled.connection.disconnect()  # type: ignore[no-untyped-call]

    def _take(self, node: Node) -> Dialled:
        with self._lock:
            if self._kept[node]:
                return self._kept[node].pop()
        return node.connect()


def _read(dialled: Dialled) -> object:
    reader = hiredis.Reader()
    while (answer := reader.gets()) is False:
        data = dialled.sock.recv(4_096)
        if not data:
            raise ConnectionResetError("closed while waiting")
        reader.feed(data)
    return answer
