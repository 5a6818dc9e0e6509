"""A node's address: what it may look like, and how messages name it.

Rules: no I/O; nothing that is said of an address, good or bad, repeats a user name, a password or an option of it.
"""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

from redis.connection import parse_url

from redlock.errors import ConfigurationError

_RIGHT = "write redis://[user:password@]host:port[/db], rediss://... for TLS, or unix:///path"


def parse(url: str) -> dict[str, Any]:
    """An address as redis-py's connection options.

    Accepts `redis://`, `rediss://` and `unix://` URLs, and `host:port` alone.

    Raises:
        ConfigurationError: It is none of these.
    """
    text = url if "://" in url else f"redis://{url}"
    scheme = text.partition("://")[0]
    if scheme not in {"redis", "rediss", "unix"}:
        raise ConfigurationError(f"a node address begins with {scheme[:20]!r}, which can't be used; {_RIGHT}")
    try:
        parts = urlsplit(text)
        host, port = parts.hostname, parts.port
    except ValueError:
        raise ConfigurationError(f"a node address with {scheme}:// has no port from 1 to 65535; {_RIGHT}") from None
    try:
        options = dict(parse_url(text))  # type: ignore[no-untyped-call]
    except ValueError:
        raise ConfigurationError(
            f"an option of the node address of {host or parts.path} can't be used; {_RIGHT}"
        ) from None
    if scheme == "unix":
        if not options.get("path"):
            raise ConfigurationError(f"a node address with unix:// has no path; {_RIGHT}")
        return options
    if not host:
        raise ConfigurationError(f"a node address with {scheme}:// has no host; {_RIGHT}")
    if not port:
        raise ConfigurationError(f"the node address of {host} has no port; {_RIGHT}")
    database = parts.path.strip("/")
    if database and not database.isdigit():
        raise ConfigurationError(f"the database of the node address of {host}:{port} is no number; {_RIGHT}")
    return options


def label(options: dict[str, Any]) -> str:
    """`host:port`, `host:port/db`, or a socket's path."""
    if "path" in options:
        return str(options["path"])
    host, database = options["host"], options.get("db", 0)
    place = f"[{host}]:{options['port']}" if ":" in host else f"{host}:{options['port']}"
    return f"{place}/{database}" if database else place
