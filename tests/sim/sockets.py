"""The sockets and the poll object of a simulated process, and waits in virtual time.

Invariants: a socket belongs to the process that makes the socket. No socket depends on the garbage collector: a
dropped socket sends nothing.
"""

from __future__ import annotations

import errno
import os
import select
from collections import deque
from collections.abc import Callable

from greenlet import getcurrent

from tests.sim.network import FIRST_PORT, Network, Wire
from tests.sim.world import Strand, here

_WOKEN = object()
_READ, _WRITE = select.POLLIN, select.POLLOUT


def time_limit(seconds: float | None) -> int | None:
    """The time at which this many seconds have passed for the process; None for no limit."""
    return None if seconds is None else here().machine.time_after(seconds)


def _need_descriptor() -> None:
    if here().machine.lacks_sockets:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))


class Waiters:
    """Strands that wait for the same thing."""

    __slots__ = ("strands",)

    def __init__(self) -> None:
        self.strands: deque[tuple[Strand, int]] = deque()

    def park(self, until: int | None) -> bool:
        strand = here()
        self.strands.append((strand, strand.ticket))
        try:
            return strand.park(until) is not None
        except BaseException:
            # The strand may have been woken already.
            self.wake()
            raise

    def wake(self) -> None:
        """Wake the first strand that still waits."""
        while self.strands:
            strand, ticket = self.strands.popleft()
            if strand.ticket == ticket and not strand.dead and strand.machine.alive:
                if type(getcurrent()) is Strand:
                    strand.world.after(0, strand.wake, ticket, _WOKEN)
                else:
                    strand.wake(ticket, _WOKEN)
                return

    def wake_all(self) -> None:
        for _ in range(len(self.strands)):
            self.wake()


class Socket:
    """`socket.socket`."""

    def __init__(self, *_: object) -> None:
        _need_descriptor()
        sockets = here().machine.sockets
        self._descriptor = len(sockets)
        sockets.append(self)
        self.on_ready: Callable[[], None] | None = None
        """Called when the socket becomes readable or writable."""
        self.is_readable = False
        """Whether `recv` would not wait."""
        self._inbox = b""
        self._is_ended = False
        self._error: OSError | None = None
        self._timeout: float | None = None
        self._wire: Wire | None = None
        self._blocked_until = 0
        self._reader: tuple[Strand, int] | None = None

    def fileno(self) -> int:
        return self._descriptor

    def setsockopt(self, *_: object) -> None:
        """Nothing depends on options."""

    def settimeout(self, seconds: float | None) -> None:
        self._timeout = seconds

    def connect(self, address: tuple[str, int]) -> None:
        machine = here().machine
        network: Network = machine.network  # type: ignore[attr-defined]  # of every process with sockets
        place = address[1] - FIRST_PORT
        self._wire = Wire(network, machine, network.nodes[machine.aliases.get(place, place)], self)
        self._wire.dial(None if self._timeout is None else machine.time_after(self._timeout))

    @property
    def is_writable(self) -> bool:
        """Whether `send` would not wait."""
        return self._error is not None or here().machine.world.now >= self._blocked_until

    def _open_wire(self) -> Wire:
        if self._error is not None:
            raise self._error
        if self._wire is None or not self._wire.is_open:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        return self._wire

    def send(self, data: bytes | bytearray) -> int:
        wire, size = self._open_wire(), len(data)
        network = wire.network
        world = network.world
        if world.now < self._blocked_until:
            raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
        if network.pieces and self._timeout == 0 and size > 1 and world.chance.random() < network.pieces:
            size = int(world.chance.random() * size)
            self._blocked_until = world.now + network.delay()
            world.at(self._blocked_until, self._notify)
        if size:
            sent = bytes(data[:size])
            if network.on_send is not None:
                network.on_send(wire.machine, sent)
            wire.send(sent)
        elif self._blocked_until > world.now:
            raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
        return size

    def sendall(self, data: bytes) -> None:
        self._open_wire().send(bytes(data))

    def recv(self, size: int) -> bytes:
        if not self.is_readable:
            self._await_data()
        if self._inbox:
            data, self._inbox = self._inbox[:size], self._inbox[size:]
            self.is_readable = bool(self._inbox) or self._is_ended or self._error is not None
            return data
        if self._error is not None:
            raise self._error
        return b""

    def _await_data(self) -> None:
        strand, until = here(), time_limit(self._timeout)
        while not self.is_readable:
            self._open_wire()
            if until is not None and until <= strand.world.now:
                if self._timeout == 0:
                    raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
                raise TimeoutError("timed out")
            self._reader = strand, strand.ticket
            strand.park(until)
            self._reader = None

    def arrived(self, piece: bytes) -> None:
        """The network delivers data."""
        self._inbox = self._inbox + piece if self._inbox else piece
        self.is_readable = True
        self._notify()

    def end(self) -> None:
        """The other side sends nothing any more."""
        self._is_ended = self.is_readable = True
        self._notify()

    def reset(self) -> None:
        """The connection was reset."""
        self._error = ConnectionResetError(errno.ECONNRESET, os.strerror(errno.ECONNRESET))
        self.is_readable = True
        self._notify()

    def _notify(self) -> None:
        if self.on_ready is not None:
            self.on_ready()
        if self._reader is not None:
            strand, ticket = self._reader
            strand.machine.world.after(0, strand.wake, ticket, self)

    def forget(self) -> None:
        """Let go of the world: finalizers keep sockets in memory for as long as their users are."""
        self._wire = self._reader = self.on_ready = None

    def shutdown(self, _how: int) -> None:
        if self._wire is not None:
            self._wire.close()

    def close(self) -> None:
        """Send nothing: the garbage collector may call this, at any time."""


class Poll:
    """The object of `select.poll()`."""

    def __init__(self) -> None:
        self._watched: dict[int, Socket] = {}
        self._events: dict[int, int] = {}
        """The events of the sockets that are not only watched for data."""
        self._waiters = Waiters()

    def register(self, descriptor: int, events: int) -> None:
        sock = self._watched[descriptor] = here().machine.sockets[descriptor]
        sock.on_ready = self._waiters.wake
        self.modify(descriptor, events)

    def modify(self, descriptor: int, events: int) -> None:
        self._events.pop(descriptor, None)
        if events != _READ:
            self._events[descriptor] = events

    def unregister(self, descriptor: int) -> None:
        self._events.pop(descriptor, None)
        self._watched.pop(descriptor).on_ready = None

    def poll(self, wait_ms: int) -> list[tuple[int, int]]:
        ready = self._ready()
        if ready or wait_ms == 0:
            return ready
        machine = here().machine
        until, world = machine.time_after(wait_ms / 1000), machine.world
        while not ready and until > world.now:
            self._waiters.park(until)
            ready = self._ready()
        return ready

    def _ready(self) -> list[tuple[int, int]]:
        if not self._events:
            return [(descriptor, _READ) for descriptor, sock in self._watched.items() if sock.is_readable]
        found = []
        for descriptor, sock in self._watched.items():
            events, has = self._events.get(descriptor, _READ), _READ if sock.is_readable else 0
            if events != _READ and sock.is_writable:
                found.append((descriptor, has | _WRITE))
            elif has & events:
                found.append((descriptor, has))
        return found
