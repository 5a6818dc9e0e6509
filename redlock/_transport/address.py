"""Node addresses: options, label and credentials.

Invariants:
1. No I/O.
2. No message repeats a user name, a password or an option of an address. The errors have no context either, because a
   parser's error repeats its input.
"""

from __future__ import annotations

import re
import socket
from typing import Any
from urllib.parse import SplitResult, parse_qsl, quote, urlencode, urlsplit

from redlock._compat import parse_url
from redlock._validation import is_utf8
from redlock.errors import ConfigurationError

_RIGHT = "write redis://[user:password@]host:port[/db], rediss://... for TLS, or unix:///path"
_SCHEME = re.compile(r"[a-zA-Z][a-zA-Z0-9+.-]{0,19}")
_CERTIFICATE_CHECKS = ("none", "optional", "required")
_PUBLIC_OPTION = re.compile(
    r"db|protocol|ssl_(?!keyfile|certfile|.*password).*|socket_.*|health_check_interval|max_connections"
)


def parse(url: str) -> dict[str, Any]:
    """An address as redis-py's connection options.

    Accepts `redis://`, `rediss://` and `unix://` URLs, and `host:port` alone.

    Raises:
        ConfigurationError: The address is not valid; the message names the fault.
    """
    text = _with_scheme(url)
    scheme = text.partition("://")[0]
    if scheme not in {"redis", "rediss", "unix"}:
        begin = repr(scheme) if _SCHEME.fullmatch(scheme) else "something"
        raise ConfigurationError(f"a node address begins with {begin}, which can't be used; {_RIGHT}")
    parts = _parts(text)
    if _needs_escapes(parts) if parts else _has_right_end(text):
        raise ConfigurationError(
            f"a node address with {scheme}:// has a special character before its @; in a user name or password "
            "write %2F for /, %23 for #, %3F for ?, %5B for [, %5D for ] and %40 for @"
        )
    if parts is None:
        raise ConfigurationError(f"a node address with {scheme}:// has no port from 1 to 65535; {_RIGHT}")
    options = _options(text)
    # A text without a scheme may be no address at all: the rest of a password with a comma, or a file with a password.
    named = f"the node address of {parts.hostname or parts.path}" if "://" in url else "a node address"
    if options is None:
        name = _bad_option(parts.query)
        found = f"the option {name}" if name else "an option"
        raise ConfigurationError(f"{found} of {named} has a value that can't be used; {_RIGHT}")
    if options.get("ssl_cert_reqs", "none") not in _CERTIFICATE_CHECKS:
        right = "none, optional or required, without CERT_"
        raise ConfigurationError(f"the option ssl_cert_reqs of {named} must be {right}")
    if scheme == "unix":
        return _checked_unix(options)
    host, port = parts.hostname, parts.port
    if not host:
        raise ConfigurationError(f"a node address with {scheme}:// has no host; {_RIGHT}")
    if not port:
        raise ConfigurationError(f"{named} has no port; {_RIGHT}")
    database = parts.path.strip("/")
    if database and not database.isdigit():
        raise ConfigurationError(f"the database of {named} is no number; {_RIGHT}")
    return options


def _checked_unix(options: dict[str, Any]) -> dict[str, Any]:
    if not hasattr(socket, "AF_UNIX"):
        raise ConfigurationError("a node address with unix:// can't be used: this platform has no unix sockets")
    if not options.get("path"):
        raise ConfigurationError(f"a node address with unix:// has no path; {_RIGHT}")
    return options


def label(options: dict[str, Any]) -> str:
    """The name of a node in messages: `host:port`, `host:port/db`, or the path of a socket."""
    if "path" in options:
        return str(options["path"])
    host, database = options["host"], options.get("db", 0)
    place = f"[{host}]:{options['port']}" if ":" in host else f"{host}:{options['port']}"
    return f"{place}/{database}" if database else place


def has_password(url: str) -> bool:
    """Whether the address itself holds a password. Raises the error of `parse`."""
    return any("password" in name for name in parse(url))


def with_credentials(url: str, username: str, password: str) -> str:
    """The address with this user and password, unless the address has its own password. Raises the error of `parse`."""
    if not is_utf8(username + password):
        raise ConfigurationError("the user name or password for the nodes is no UTF-8 text")
    options = parse(url)
    user = options.get("username") or username
    if options.get("password") or not (user or password):
        return url
    scheme, _, rest = _with_scheme(url).partition("://")
    own, at, _ = urlsplit(f"{scheme}://{rest}").netloc.rpartition("@")
    return f"{scheme}://{quote(user, safe='')}:{quote(password, safe='')}@{rest[len(own + at) :]}"


def without_credentials(url: str) -> str:
    """The address without user, password, and options that may be secret. Raises the error of `parse`."""
    parse(url)
    parts = urlsplit(_with_scheme(url))
    query = [(name, value) for name, value in parse_qsl(parts.query) if _PUBLIC_OPTION.fullmatch(name)]
    _, _, place = parts.netloc.rpartition("@")
    return f"{parts.scheme}://{place}{parts.path}{'?' if query else ''}{urlencode(query)}"


def _with_scheme(url: str) -> str:
    if not is_utf8(url):
        raise ConfigurationError(f"a node address is no UTF-8 text; {_RIGHT}")
    return url if "://" in url else f"redis://{url}"


def _parts(text: str) -> SplitResult | None:
    try:
        parts = urlsplit(text)
        _ = parts.hostname, parts.port
    except ValueError:
        return None
    return parts


def _needs_escapes(parts: SplitResult) -> bool:
    """Whether the part after the host has the @ that ends the password, or the password has a bracket."""
    bare = [part for part in parts.query.split("&") if "=" not in part]
    # A socket has no host: its user ends with the @, and the path may have another.
    whole = not parts.netloc or (parts.scheme == "unix" and parts.netloc.endswith("@"))
    if not whole and any("@" in rest for rest in (parts.path, parts.fragment, *bare)):
        return True
    # Python 3.10 accepts these before the @, and later versions do not.
    return not {"[", "]"}.isdisjoint(parts.netloc.rpartition("@")[0])


def _has_right_end(text: str) -> bool:
    """Whether the part behind the last @ is right alone. Then the fault is in the user name or password."""
    begin, _, rest = text.partition("://")
    _, at, place = rest.rpartition("@")
    parts = _parts(f"{begin}://{place}")
    # A second :// means two addresses with a wrong separator.
    return bool(at and parts and (begin == "unix" or parts.port)) and "://" not in rest


def _bad_option(query: str) -> str:
    """The name of the first option whose value is invalid; empty if the name may be secret itself."""
    names = (name for name, value in parse_qsl(query) if _options(f"redis://h:1?{urlencode({name: value})}") is None)
    return next(filter(_PUBLIC_OPTION.fullmatch, names), "")


def _options(text: str) -> dict[str, Any] | None:
    try:
        return parse_url(text)
    except ValueError:
        return None
