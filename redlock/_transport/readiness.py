"""Which sockets have data or room: `select.poll`, or `select.select` on platforms and event libraries without `poll`.

Invariants: no descriptor of its own, so a forked child shares nothing with its parent. gevent and eventlet replace the
functions of `select`, so the functions are looked up at each use. The standard library's `selectors` would do the same
with a twentieth more instructions per pair in the client.
"""

from __future__ import annotations

import math
import select
import time
from typing import TYPE_CHECKING

from redlock._transport.eventlet_select import select_sockets

if TYPE_CHECKING:
    import socket
    from collections.abc import Sequence

    from redlock._transport.connection import NodeConnection

_LONGEST_MS = 2**31 - 1
"""The longest wait that `poll` takes; after it a caller with time left waits again."""
READABLE: int = getattr(select, "POLLIN", 1)
_WRITABLE: int = getattr(select, "POLLOUT", 4)


class Readiness:
    """Waits for the sockets of a connection set."""

    def __init__(self) -> None:
        self._poll = _new_poll()
        self.connections: dict[int, NodeConnection] = {}
        """The connections by the descriptor of their socket."""

    def watch(self, sock: socket.socket, connection: NodeConnection) -> None:
        """Watch a new socket for data."""
        self._poll.register(sock.fileno(), READABLE)
        self.connections[sock.fileno()] = connection

    def watch_room(self, sock: socket.socket, *, wanted: bool) -> None:
        """Watch a socket for room too, or no longer."""
        self._poll.modify(sock.fileno(), READABLE | _WRITABLE if wanted else READABLE)

    def forget(self, sock: socket.socket) -> None:
        """Watch a socket no longer. An interrupted call can be repeated, also after the socket was closed."""
        if self.connections.pop(sock.fileno(), None) is not None:
            self._poll.unregister(sock.fileno())

    def wait(self, wait_ms: int) -> Sequence[tuple[int, int]]:
        """Wait for a socket at most this long; returns descriptors with their events.

        An event that is not only `READABLE` can mean room, an error or the end of the connection.
        """
        return self._poll.poll(min(wait_ms, _LONGEST_MS))


def await_socket(sock: socket.socket, seconds: float, *, room: bool = False) -> None:
    """Wait until this socket has data, or room, at most this long."""
    poll = _new_poll()
    poll.register(sock.fileno(), _WRITABLE if room else READABLE)
    # Rounded up: without a rest of a millisecond the caller would wait in a busy loop.
    poll.poll(min(math.ceil(seconds * 1000), _LONGEST_MS))


def _new_poll() -> select.poll | _Select:
    """The object of the platform, or of the event library that has replaced the functions of `select`."""
    return select.poll() if hasattr(select, "poll") else _Select()


class _Select:
    """The part of `select.poll` that is needed, by `select.select`."""

    def __init__(self) -> None:
        self._events: dict[int, int] = {}

    def register(self, descriptor: int, events: int) -> None:
        self._events[descriptor] = events

    modify = register

    def unregister(self, descriptor: int) -> None:
        del self._events[descriptor]

    def poll(self, wait_ms: int) -> list[tuple[int, int]]:
        if not self._events:
            # Windows refuses three empty lists.
            time.sleep(wait_ms / 1000)
            return []
        data = [descriptor for descriptor, events in self._events.items() if events & READABLE]
        room = [descriptor for descriptor, events in self._events.items() if events & _WRITABLE]
        has_data, has_room = select_sockets(data, room, wait_ms / 1000)
        events = dict.fromkeys(has_data, READABLE)
        for descriptor in has_room:
            events[descriptor] = events.get(descriptor, 0) | _WRITABLE
        return list(events.items())
