"""Checks Celery's broker for the doctor: the transport, and the state that an AMQP broker reports.

Invariants:
1. A check creates, changes and deletes nothing on the broker.
2. No finding contains a password.
3. A finding names each transport and property that was not checked.
4. A check ends in time, whatever the server sends, and ends its connection.
"""

from __future__ import annotations

import contextlib
import functools
import re
import socket
from typing import TYPE_CHECKING, Any

from redlock.admin.broker_address import AMQP, REDIS
from redlock.admin.diagnostics import Finding, Level, warning
from redlock.admin.time_limit import ANSWERS, Overdue, within

if TYPE_CHECKING:
    from collections.abc import Callable

QUEUE = "celery"
"""Celery's default queue."""
_DELAYED_EXCHANGE = "celery_delayed_27"
"""The exchange of kombu's native delayed delivery. Workers with quorum queues create this exchange at their start."""
_TRANSPORT = re.compile(r"[a-z][a-z0-9+.-]{0,19}")
_UNSEEN = "persistence of messages, memory and disk alarms, consumer_timeout (30 minutes unless it was changed)"
"""Properties that only RabbitMQ's management interface reports."""
_LARGEST_FRAME = 2**20
"""RabbitMQ's own limit is 128 kB. The client of AMQP would read up to 4 GB."""


def check(url: str, timeout: float, app: Any = None) -> list[Finding]:
    """Check a broker that is not a Redis.

    Args:
        url: The broker's address.
        timeout: Seconds to wait for each answer. The whole check has five times as long.
        app: The Celery app with the other settings of the broker, such as `broker_use_ssl`.
    """
    transport, colon, _ = url.lower().partition("://")
    if not colon or not _TRANSPORT.fullmatch(transport):
        # The part before may be a user and a password.
        what = "its address does not begin with a transport"
        return [warning("address", "broker", what, "write redis://host:port/0 or amqp://user:password@host/vhost")]
    if transport in AMQP:
        return _check_amqp(url, timeout, app)
    what = "the doctor can check Redis and AMQP brokers; this one was not contacted"
    if transport in REDIS:
        what = "it was not contacted: the doctor can't use its credential_provider, or an option of broker_use_ssl"
    return [warning("not-checked", f"broker {transport}", what, "use the broker's own tools")]


def _check_amqp(url: str, timeout: float, app: Any) -> list[Finding]:
    try:
        # Celery is an optional dependency, and kombu comes with Celery.
        from kombu.connection import Connection  # noqa: PLC0415
    except ImportError:
        what = "it was not contacted, because kombu is not installed here"
        return [warning("not-checked", "broker amqp", what, "run the doctor where Celery is installed")]
    # Here, because the app's own transport options could have longer times.
    limits = dict.fromkeys(("connect_timeout", "read_timeout", "write_timeout"), timeout)
    connect = Connection if app is None else app.connection_for_write
    try:
        connection = connect(url, transport_options=limits)
        where = f"broker {_place(connection)}"
    except ImportError:
        what = "it was not contacted, because the library of its transport is not installed here"
        return [warning("not-checked", "broker amqp", what, "run the doctor where the workers run")]
    except (KeyError, TypeError, ValueError):
        return [warning("address", "broker amqp", "its address can't be read", "write amqp://user:password@host/vhost")]
    return _contact(connection.transport, where, timeout)


def _contact(transport: Any, where: str, timeout: float) -> list[Finding]:
    dialled: list[Any] = []
    connect = transport.Connection

    def dial(**options: Any) -> Any:
        amqp = connect(**options)
        amqp.Transport = functools.partial(_bounded, amqp.Transport)
        dialled.append(amqp)
        return amqp

    transport.Connection = dial
    try:
        # The client of AMQP has no limit on the time of a reply that arrives byte by byte.
        return within(ANSWERS * timeout, lambda: _answer(transport, dialled, where, timeout))
    except Overdue:
        what = f"no complete answer within {ANSWERS * timeout:g} s"
        return [warning("unreachable", where, what, "start it, or fix its address; --timeout gives it more time")]
    finally:
        for amqp in dialled:
            _hang_up(amqp)


def _answer(transport: Any, dialled: list[Any], where: str, timeout: float) -> list[Finding]:
    """The findings from a broker's answers. This runs in a thread, where no signal handler raises an exception."""
    from amqp.exceptions import AMQPError  # noqa: PLC0415 - as above

    try:
        # `connection.connect` would try a second time two seconds later.
        with contextlib.closing(transport.establish_connection()) as amqp:
            return _examine(amqp, where)
    except AMQPError as error:
        return [_refused(error, where)]
    except OSError as error:
        reason = f"no answer within {timeout:g} s" if isinstance(error, TimeoutError) else _reason(error)
        return [warning("unreachable", where, reason, "start it, or fix its address")]
    except Exception:  # noqa: BLE001 - a server can make the client of AMQP raise almost anything
        # Only the use shows an option that the client of AMQP does not know, such as a second password. The same errors
        # come from a reply that the client can't read.
        what = "an option in its address can't be used, or it does not speak AMQP"
        return [warning("address", where, what, "take out what follows the ?, or fix the address")]
    finally:
        # After an option or a reply that it can't use, the client of AMQP leaves its socket open.
        for stream in filter(None, map(_stream, dialled)):
            stream.close()


def _bounded(transport: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
    """The transport of an AMQP connection, which here takes no length from the server that would fill the memory."""
    made = transport(*arguments, **options)
    read = made._read  # noqa: SLF001 - there is no public access

    def bounded(size: int, *rest: Any) -> Any:
        if size > _LARGEST_FRAME:
            raise ValueError(size)
        return read(size, *rest)

    made._read = bounded  # noqa: SLF001 - as above
    return made


def _hang_up(amqp: Any) -> None:
    """End a connection that the check has left open, so a thread that still reads from it ends."""
    stream = _stream(amqp)
    if stream is not None:
        with contextlib.suppress(OSError):
            # Not the method of a TLS socket, which changes state that the thread uses.
            socket.socket.shutdown(stream, socket.SHUT_RDWR)


def _stream(amqp: Any) -> socket.socket | None:
    return getattr(getattr(amqp, "_transport", None), "sock", None)


def _examine(connection: Any, where: str) -> list[Finding]:
    properties, heartbeat = connection.server_properties, connection.server_heartbeat
    kind = _queue_type(connection)
    delayed = _exists(connection, lambda channel: channel.exchange_declare(_DELAYED_EXCHANGE, "topic", passive=True))
    findings = []
    if not heartbeat:
        what = "it uses no heartbeat, so a worker that was cut off from it notices late"
        findings.append(warning("heartbeat", where, what, "set heartbeat in rabbitmq.conf, for example to 60"))
    if kind == "quorum" and not delayed:
        what = f"queue {QUEUE!r} is a quorum queue, and no exchange {_DELAYED_EXCHANGE!r} delays tasks in the broker"
        fix = (
            "start a worker of Celery 5.5 or later: it creates the exchange; until then requeued tasks wait in workers"
        )
        findings.append(warning("delayed-delivery", where, what, fix))
    queue = f"queue {QUEUE!r} is {kind}" if kind else f"queue {QUEUE!r} does not exist, or its type can't be told"
    state = "exists" if delayed else "is missing"
    what = (
        f"{properties.get('product', 'an AMQP broker')} {properties.get('version', '')} accepts the user; "
        f"heartbeat {heartbeat} s; {queue}; the exchange of native delayed delivery {state}; "
        f"not checked: {_UNSEEN}"
    )
    return [*findings, Finding(Level.FINE, "amqp", where, what)]


def _queue_type(connection: Any) -> str:
    """Return the type of Celery's default queue, or an empty text if the type is unknown.

    AMQP has no request for the type. The declaration of a queue that exists changes nothing, and where the type
    differs the error names the type.
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


def _exists(connection: Any, declare: Callable[[Any], object]) -> bool:
    from amqp.exceptions import ChannelError  # noqa: PLC0415 - as above

    # An error closes its channel, so each request has its own.
    try:
        with connection.channel() as channel:
            declare(channel)
    except ChannelError:
        return False
    return True


def _refused(error: Any, where: str) -> Finding:
    """Convert an AMQP error. Its text may name the user and the virtual host, and never the password."""
    access, no_such_vhost = 403, 530
    if error.code == access:
        return warning("access", where, "it refuses the user name or the password", "fix the address of the broker")
    if error.code == no_such_vhost:
        return warning("access", where, "it has no such virtual host, or the user may not use it", "fix the address")
    return warning(
        "unreachable", where, f"it ended the connection: {error.reply_text or error!s:.100}", "look at its log"
    )


def _place(connection: Any) -> str:
    port = connection.port or connection.transport.default_connection_params["port"]
    return f"{connection.hostname or 'localhost'}:{port}"


def _reason(error: OSError) -> str:
    reason = (error.strerror or str(error) or type(error).__name__).lower()
    return f"it does not speak TLS: {reason}" if "ssl" in type(error).__name__.lower() else reason
