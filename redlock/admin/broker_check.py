"""Checks Celery's broker for the doctor: which transport it is, and what an AMQP broker tells of itself.

Invariants: a check creates, changes and deletes nothing on the broker; no finding contains a password; a transport or
property that was not checked is named as such.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, urlencode, urlsplit

from redlock.admin.diagnostics import Finding, Level

if TYPE_CHECKING:
    from collections.abc import Callable

QUEUE = "celery"
"""Celery's default queue."""
_DELAYED_EXCHANGE = "celery_delayed_27"
"""kombu's native delayed delivery: workers with quorum queues create it when they start."""
_REDIS = {
    "redis": "redis",
    "rediss": "rediss",
    "unix": "unix",
    "redis+socket": "unix",
    "redis+tls": "rediss",
}
_AMQP = ("amqp", "amqps", "pyamqp", "librabbitmq")
_UNSEEN = "persistence of messages, memory and disk alarms, consumer_timeout (30 minutes unless it was changed)"
"""What only RabbitMQ's management interface tells."""


def urls(broker: str) -> list[str]:
    """The addresses in Celery's `broker_url`, which may be a list for failover, separated by semicolons."""
    return [part.strip() for part in broker.split(";") if part.strip()]


def redis_url(url: str) -> str:
    """A broker address as redis-py reads it; empty if the broker is not a Redis.

    Celery has a default host and port, another name for sockets, and options of its own behind the question mark.
    """
    parts = urlsplit(url)
    scheme = _REDIS.get(parts.scheme)
    if scheme is None:
        return ""
    options = dict(parse_qsl(parts.query))
    known = {name: value for name, value in options.items() if name.startswith("ssl_") or name in {"password", "db"}}
    if scheme == "unix" and "virtual_host" in options:
        known["db"] = options["virtual_host"].strip("/")
    host, place = parts.netloc, parts.netloc.rpartition("@")[2]
    if scheme != "unix":
        host += "" if place else "localhost"
        host += "" if ":" in place.rpartition("]")[2] else ":6379"
    return f"{scheme}://{host}{parts.path}" + (f"?{urlencode(known)}" if known else "")


def check(url: str, timeout: float) -> list[Finding]:
    """What can be said of a broker that is not a Redis.

    Args:
        url: Its address.
        timeout: Seconds for which each of its answers is waited for.
    """
    transport = url.partition("://")[0]
    if transport.partition("+")[0] in _AMQP:
        return _check_amqp(url, timeout)
    what = "the doctor can check Redis and AMQP brokers; this one was not contacted"
    return [_warning("not-checked", f"broker {transport}", what, "check it with its own tools")]


def _check_amqp(url: str, timeout: float) -> list[Finding]:
    try:
        # Celery is optional for the lock, and kombu comes with it.
        from amqp.exceptions import AMQPError  # noqa: PLC0415
        from kombu.connection import Connection  # noqa: PLC0415
    except ImportError:
        what = "it was not contacted, because kombu is not installed here"
        return [_warning("not-checked", "broker amqp", what, "run the doctor where Celery is installed")]
    limits = {"read_timeout": timeout, "write_timeout": timeout}
    try:
        connection = Connection(url, connect_timeout=timeout, transport_options=limits)
        where = f"broker {_place(connection)}"
    except (ValueError, KeyError):
        return [
            _warning("address", "broker amqp", "its address can't be read", "write amqp://user:password@host/vhost")
        ]
    try:
        # Not `connection.connect`, which tries a second time two seconds later.
        with contextlib.closing(connection.transport.establish_connection()) as amqp:
            return _examine(amqp, where)
    except AMQPError as error:
        return [_refused(error, where)]
    except OSError as error:
        reason = f"no answer within {timeout:g} s" if isinstance(error, TimeoutError) else _reason(error)
        return [_warning("unreachable", where, reason, "start it, or fix its address")]


def _examine(connection: Any, where: str) -> list[Finding]:  # noqa: ANN401 - kombu is untyped
    said, heartbeat = connection.server_properties, connection.server_heartbeat
    kind = _queue_type(connection)
    delayed = _exists(connection, lambda channel: channel.exchange_declare(_DELAYED_EXCHANGE, "topic", passive=True))
    findings = []
    if not heartbeat:
        what = "it uses no heartbeat, so a worker that was cut off from it notices late"
        findings.append(_warning("heartbeat", where, what, "set heartbeat in rabbitmq.conf, for example to 60"))
    if kind == "quorum" and not delayed:
        what = f"queue {QUEUE!r} is a quorum queue, and no exchange {_DELAYED_EXCHANGE!r} delays tasks in the broker"
        mend = (
            "start a worker of Celery 5.5 or later: it creates the exchange; until then requeued tasks wait in workers"
        )
        findings.append(_warning("delayed-delivery", where, what, mend))
    queue = f"queue {QUEUE!r} is {kind}" if kind else f"queue {QUEUE!r} does not exist, or its type can't be told"
    what = (
        f"{said.get('product', 'an AMQP broker')} {said.get('version', '')} accepts the user; heartbeat {heartbeat} s; "
        f"{queue}; native delayed delivery is {'' if delayed else 'not '}set up; not checked: {_UNSEEN}"
    )
    return [*findings, Finding(Level.FINE, "amqp", where, what)]


def _queue_type(connection: Any) -> str:  # noqa: ANN401 - as above
    """The type of Celery's default queue; empty if it can't be told.

    AMQP has no question for it. To declare a queue that exists changes nothing, and where the type differs the error
    names the type.
    """
    from amqp.exceptions import ChannelError, PreconditionFailed  # noqa: PLC0415 - as above

    if not _exists(connection, lambda channel: channel.queue_declare(QUEUE, passive=True)):
        return ""
    try:
        with connection.channel() as channel:
            arguments = {"x-queue-type": "classic"}
            channel.queue_declare(QUEUE, durable=True, auto_delete=False, arguments=arguments)
    except PreconditionFailed as error:
        found = str(error).partition("'x-queue-type'")[2].partition("current is '")[2].partition("'")[0]
        return found if found.isalpha() else ""
    except ChannelError:
        return ""
    return "classic"


def _exists(connection: Any, declare: Callable[[Any], object]) -> bool:  # noqa: ANN401 - as above
    from amqp.exceptions import ChannelError  # noqa: PLC0415 - as above

    # An error closes its channel, so each question has its own.
    try:
        with connection.channel() as channel:
            declare(channel)
    except ChannelError:
        return False
    return True


def _refused(error: Any, where: str) -> Finding:  # noqa: ANN401 - as above
    """An error of the protocol as a finding; its text may name the user and the virtual host, never the password."""
    access, no_such_vhost = 403, 530
    if error.code == access:
        return _warning("access", where, "it refuses the user name or the password", "fix the address of the broker")
    if error.code == no_such_vhost:
        return _warning("access", where, "it has no such virtual host, or the user may not use it", "fix the address")
    return _warning(
        "unreachable", where, f"it ended the connection: {error.reply_text or error!s:.100}", "look at its log"
    )


def _place(connection: Any) -> str:  # noqa: ANN401 - as above
    return f"{connection.hostname or 'localhost'}:{connection.port or connection.transport.default_port}"


def _reason(error: OSError) -> str:
    reason = (error.strerror or str(error) or type(error).__name__).lower()
    return f"it does not speak TLS: {reason}" if "ssl" in type(error).__name__.lower() else reason


def _warning(code: str, where: str, what: str, mend: str) -> Finding:
    return Finding(Level.WARNING, code, where, what, mend)
