"""Connected sockets from addresses: name resolution, TCP, unix sockets and TLS under a single deadline.

redis-py keeps the options of an address and sets up TLS, but does not connect: none of its timeouts bounds a whole
dial, and its name resolution has no timeout.

Invariants:
1. `open_socket` ends by its deadline, however the other side behaves.
2. At most one thread per name remains in the system's resolver, because a resolution can't be interrupted.
"""

from __future__ import annotations

import socket
import threading
import time
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, TypeAlias

from redis.connection import Connection, SSLConnection, UnixDomainSocketConnection

from redlock import _threads
from redlock._compat import with_tls
from redlock._process import after_fork_in_child

if TYPE_CHECKING:
    from collections.abc import Iterator

    from redis.connection import AbstractConnection

_Address: TypeAlias = tuple[Any, ...]
"""An address as `socket.getaddrinfo` returns it."""


def open_socket(options: AbstractConnection, until: float, each_seconds: float) -> socket.socket:
    """A connected socket with a timeout, ready for the first command.

    Args:
        options: A connection of redis-py that was not connected.
        until: The deadline, in seconds of the steady clock.
        each_seconds: How long each of several addresses of a name is tried.

    Raises:
        OSError: The address can't be reached by the deadline; `TimeoutError` if no answer came.
        RedisError: A TLS option can't be used.
    """
    if isinstance(options, UnixDomainSocketConnection):
        return _connected((socket.AF_UNIX, socket.SOCK_STREAM, 0, "", options.path), _left(until), options)
    assert isinstance(options, Connection)
    error: OSError = OSError("its name has no address")
    for address in _addresses(options.host, options.port, until):
        try:
            sock = _connected(address, min(each_seconds, _left(until)), options)
        except OSError as exc:
            error = exc
            continue
        return _with_tls(options, sock, until) if isinstance(options, SSLConnection) else sock
    try:
        raise error
    finally:
        # The name would keep the error and its frames alive until a garbage collection.
        del error


def _left(until: float) -> float:
    left = until - time.monotonic()
    if left <= 0:
        raise TimeoutError("timed out")
    return left


def _connected(address: _Address, seconds: float, options: AbstractConnection) -> socket.socket:
    family, kind, protocol, _, place = address
    sock = socket.socket(family, kind, protocol)
    try:
        if isinstance(options, Connection):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if options.socket_keepalive:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
                for option, value in options.socket_keepalive_options.items():
                    sock.setsockopt(socket.IPPROTO_TCP, option, value)
        sock.settimeout(seconds)
        sock.connect(place)
    except BaseException:
        sock.close()
        raise
    return sock


def _with_tls(options: SSLConnection, sock: socket.socket, until: float) -> socket.socket:
    try:
        with _ended_at(until, sock):
            sock.settimeout(_left(until))
            return with_tls(options, sock)
    except BaseException as exc:
        sock.close()
        if isinstance(exc, OSError) and time.monotonic() >= until:
            raise TimeoutError("timed out") from None
        raise


@contextmanager
def _ended_at(until: float, sock: socket.socket) -> Iterator[None]:
    """Cut the connection at the deadline: a handshake has a timeout for each piece, and none for the whole."""
    # The handshake takes the socket over, so the timer cuts a second handle of the same connection.
    with sock.dup() as handle:
        done = threading.Event()

        def cut_if_late() -> None:
            if not done.wait(_left(until)):
                with suppress(OSError):
                    handle.shutdown(socket.SHUT_RDWR)

        timer = _threads.start(cut_if_late, "redlock-handshake")
        try:
            yield
        finally:
            done.set()
            # Join before the close: a closed handle could be another connection when the timer fires.
            timer.join()


class _Resolution:
    """A request to the system's resolver, in its own thread."""

    def __init__(self, host: str, port: int) -> None:
        self.done = threading.Event()
        self.addresses: list[_Address] = []
        self.error: OSError | None = None
        self._place = host, port

    def run(self) -> None:
        """Ask the resolver, and wait for its answer."""
        try:
            self.addresses = list(socket.getaddrinfo(*self._place, type=socket.SOCK_STREAM))
        except OSError as exc:
            # Its traceback has a frame with this object.
            self.error = exc.with_traceback(None)
        except UnicodeError:
            self.error = OSError("its name can't be resolved")
        finally:
            self.end()

    def end(self) -> None:
        """Let the callers go on, and the next caller ask again."""
        _running.pop(self._place, None)
        self.done.set()


_running: dict[tuple[str, int], _Resolution] = {}


def _addresses(host: str, port: int, until: float) -> list[_Address]:
    with suppress(OSError, UnicodeError):
        return list(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST))
    new = _Resolution(host, port)
    # Not with a mutex: a greenlet that starts a thread lets other greenlets run, and they would wait for the mutex.
    resolution = _running.setdefault((host, port), new)
    if resolution is new:
        try:
            _threads.start(new.run, f"redlock-resolve-{host}")
        except BaseException:
            # Without a thread the resolution would never be over, and no caller would ask again.
            new.error = OSError("its name was not resolved")
            new.end()
            raise
    if not resolution.done.wait(_left(until)):
        raise TimeoutError("timed out")
    if resolution.error is not None:
        # A copy, because several threads raise it.
        raise type(resolution.error)(*resolution.error.args)
    return resolution.addresses


# The child has no thread of its parent.
after_fork_in_child(_running.clear)
