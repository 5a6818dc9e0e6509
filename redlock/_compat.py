"""All code that depends on the version of redis-py.

Each branch names the version that must be the oldest supported version before the branch can be deleted.

Invariants:
1. No other module of the package asks for the version of a library.
2. TLS always verifies the host name, unless the address disables this check or the whole verification.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import redis
from redis.connection import Connection, SSLConnection
from redis.connection import parse_url as _parse_url

if TYPE_CHECKING:
    import socket
    from collections.abc import Mapping

_REDIS_PY = tuple(int(part) for part in redis.__version__.split(".")[:2])


def parse_url(url: str) -> dict[str, Any]:
    """An address as options of a redis-py connection.

    Raises:
        ValueError: An option has no valid value; the message may repeat the value.
    """
    options = dict(_parse_url(url))  # type: ignore[no-untyped-call]
    # Superfluous from redis-py 8.1 on: older versions fail with a text only during the handshake.
    if "ssl_min_version" in options:
        options["ssl_min_version"] = int(options["ssl_min_version"])
    return options


def connection_options(kind: object, given: Mapping[str, object]) -> dict[str, Any]:
    """The options of a redis-py connection whose names or defaults depend on the version.

    Args:
        kind: The class of the connection; an address may name something else.
        given: The options of the address.
    """
    options: dict[str, Any] = {}
    # Without the condition from redis-py 7.2 on.
    if _REDIS_PY >= (7, 2):
        options["driver_info"] = None
    # Without the condition from redis-py 7.0 on.
    if _REDIS_PY >= (7, 0):
        from redis.maint_notifications import MaintNotificationsConfig  # noqa: PLC0415 - older versions have no such module

        options["maint_notifications_config"] = MaintNotificationsConfig(enabled=False)
    # Superfluous from redis-py 6.0 on, which verifies the host name by default.
    is_tls = isinstance(kind, type) and issubclass(kind, SSLConnection)
    if _REDIS_PY < (6, 0) and is_tls and given.get("ssl_cert_reqs") not in _UNVERIFIED:
        options["ssl_check_hostname"] = given.get("ssl_check_hostname", True)
    return options


_UNVERIFIED = ("none", 0)


def with_tls(connection: SSLConnection, sock: socket.socket) -> socket.socket:
    """This connected socket with TLS, by the options of a connection that was not connected.

    Raises:
        OSError: The handshake failed.
        RedisError: A TLS option can't be used.
    """
    # Always this branch from redis-py 5.1 on.
    if _REDIS_PY >= (5, 1):
        secured: socket.socket = connection._wrap_socket_with_ssl(sock)  # type: ignore[no-untyped-call]  # noqa: SLF001 - only redis-py knows its options
        return secured
    around = _AroundSocket.__new__(_AroundSocket)
    vars(around).update(vars(connection))
    around.connected = sock
    secured = around._connect()  # type: ignore[no-untyped-call]  # noqa: SLF001 - as above
    around._sock = None  # noqa: SLF001 - the caller owns the socket
    return secured


class _FromSocket(Connection):
    """The step before TLS: a socket that is connected already."""

    connected: socket.socket

    def _connect(self) -> socket.socket:
        return self.connected


class _AroundSocket(SSLConnection, _FromSocket):
    """Up to redis-py 5.0, the method that sets up TLS first calls the method of the next class, which connects."""
