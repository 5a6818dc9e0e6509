"""Reads the addresses of Celery's broker, as Celery and kombu read them.

Invariants:
1. No I/O, and no import of Celery or kombu: the doctor also runs without them.
2. A broker that an address can't describe gives no address. A wrong address would give a wrong finding.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from types import NoneType
from typing import Any
from urllib.parse import parse_qsl, quote, urlencode, urlsplit

from redlock._validation import is_utf8

AMQP = ("amqp", "amqps", "pyamqp", "librabbitmq")
"""Celery's transports to a RabbitMQ."""
REDIS = {
    "redis": "redis",
    "rediss": "rediss",
    "unix": "unix",
    "redis+socket": "unix",
    "redis+tls": "rediss",
}
"""Celery's transports to a Redis, and the scheme of redis-py for each."""
_PLAIN = (str, int, os.PathLike, NoneType)
"""The types of values that an address can hold."""
_CERTIFICATE_CHECKS = {
    **dict.fromkeys(("CERT_NONE", "0", "None"), "none"),
    **dict.fromkeys(("CERT_OPTIONAL", "1"), "optional"),
    **dict.fromkeys(("CERT_REQUIRED", "2"), "required"),
}
"""The words of kombu and the constants of `ssl` for `ssl_cert_reqs`, in the words of redis-py."""


def urls(broker: str) -> list[str]:
    """The addresses in Celery's `broker_url`, which may be a list for failover, separated by semicolons."""
    return [part.strip() for part in broker.split(";") if part.strip()]


def redis_url(url: str, conf: Mapping[str, Any]) -> str:
    """Return a broker address in the form of redis-py.

    Celery has a default host and port, another name for sockets, and its own options behind the question mark.

    Args:
        url: The address, as Celery takes it.
        conf: The app's configuration.

    Returns:
        The address. Empty if the broker is not a Redis, or has an option that no address of redis-py can hold.
    """
    scheme = REDIS.get(url.partition("://")[0].lower())
    if scheme is None:
        return ""
    try:
        url.encode()
        parts = urlsplit(url)
    except ValueError:
        # The reader of addresses explains what is wrong.
        return url
    options = dict(parse_qsl(parts.query))
    known = {name: value for name, value in options.items() if name in {"password", "db"}}
    if scheme == "unix" and "virtual_host" in options:
        known["db"] = options["virtual_host"].strip("/")
    tls = _tls_options(scheme, options, conf)
    user, password = (conf.get(name) or "" for name in ("broker_user", "broker_password"))
    if "credential_provider" in options or not all(map(_is_plain, [*tls.values(), user, password])):
        return ""
    known |= {name: _text(name, value) for name, value in tls.items() if value is not None or name == "ssl_cert_reqs"}
    netloc, host, path = parts.netloc, parts.netloc.rpartition("@")[2], parts.path
    if scheme != "unix":
        scheme = "rediss" if tls else "redis"
        netloc = _login(netloc, str(user), str(password)) + (host or "localhost")
        netloc += "" if ":" in host.rpartition("]")[2] else f":{conf.get('broker_port') or 6379}"
        if not path.strip("/") and (vhost := str(conf.get("broker_vhost") or "").strip("/")):
            path = f"/{vhost}"
    return f"{scheme}://{netloc}{path}" + (f"?{urlencode(known)}" if known else "")


def _login(netloc: str, user: str, password: str) -> str:
    """User and password before the host; a part that the address lacks is that of the configuration."""
    own_user, _, own_password = netloc.rpartition("@")[0].partition(":")
    user, password = own_user or quote(user, safe=""), own_password or quote(password, safe="")
    return f"{user}:{password}@" if password else f"{user}@" if user else ""


def _tls_options(scheme: str, options: Mapping[str, str], conf: Mapping[str, Any]) -> Mapping[str, Any]:
    """The options of TLS as kombu uses them: those of the address, else those of `broker_use_ssl`."""
    tls = {name: value for name, value in options.items() if name.startswith("ssl_")} or conf.get("broker_use_ssl")
    if scheme == "rediss" and not tls:
        return {"ssl_cert_reqs": None}
    # For a Redis, True has no effect.
    return tls if isinstance(tls, Mapping) else {}


def _is_plain(value: object) -> bool:
    return isinstance(value, _PLAIN) and is_utf8(str(value))


def _text(name: str, value: object) -> str:
    # The text of a constant of `ssl` depends on the version of Python.
    text = str(int(value) if isinstance(value, int) else value)
    return _CERTIFICATE_CHECKS.get(text, text) if name == "ssl_cert_reqs" else text
