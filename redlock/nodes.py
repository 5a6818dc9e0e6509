"""One lock node: its address, how it is dialled, and whether it is known to be bad.

Rules of this file:
1. redis-py dials (TLS, AUTH, ACL, unix sockets, URLs). Its own retries and its five-second timeouts are off:
   with its defaults one refused node costs 4.6 s per command.
2. A connection is handed out only with the node's `run_id`, read on that very connection: a connection can't
   outlive the server process, so the two belong together.
3. A node is named by its label (see `address`), which never holds a password.
4. Dialling happens in a thread of its own, so that a dead node can be waited for or not.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any, NamedTuple

from redis.backoff import NoBackoff
from redis.connection import AbstractConnection, Connection
from redis.exceptions import AuthenticationError, RedisError, ResponseError
from redis.exceptions import TimeoutError as RedisTimeout
from redis.maint_notifications import MaintNotificationsConfig
from redis.retry import Retry

from redlock import address, log, wire
from redlock.clock import now_ms
from redlock.errors import ConfigurationError
from redlock.escaping import escape
from redlock.watch import ClockWatch

if TYPE_CHECKING:
    import socket

DEFAULT_PORTS = (63791, 63792, 63793, 63794, 63795)
DEFAULT_NODES = tuple(f"redis://127.0.0.1:{port}" for port in DEFAULT_PORTS)

_RETRY_FIRST_MS, _RETRY_LAST_MS = 100, 1_000


class Unfit(Exception):
    """The node answers, and can't be a lock node; the message says why."""


class Dialled(NamedTuple):
    """A connection that is ready for rounds."""

    connection: AbstractConnection
    sock: socket.socket
    run_id: str
    terms: str
    """What other clients agreed on with this very server; empty if nobody has."""


class Dial:
    """One attempt to connect, in its own daemon thread: `done` is set when `result` or `error` is there."""

    def __init__(self, node: Node) -> None:
        self.done = threading.Event()
        self.result: Dialled | None = None
        self.error = ""
        self._node = node
        threading.Thread(target=self._run, name=f"redlock-dial-{node.label}", daemon=True).start()

    def _run(self) -> None:
        try:
            self.result = self._node.connect()
            self._node.is_good()
        except Exception as exc:  # noqa: BLE001 - what listens there may be anything, and answer anything
            self.error = why(exc, self._node.timeout_ms)
            self._node.is_bad(self.error)
        finally:
            self.done.set()


class Node:
    """A lock node as one process sees it; shared by all its connections and threads."""

    def __init__(self, url: str, timeout_ms: int) -> None:
        options = address.parse(url)
        self.label = escape(address.label(options))
        self.timeout_ms = timeout_ms
        self._kind: type[AbstractConnection] = options.pop("connection_class", Connection)
        self._options = options | {
            "socket_timeout": timeout_ms / 1000,
            "socket_connect_timeout": timeout_ms / 1000,
            "retry": Retry(NoBackoff(), 0),
            "retry_on_error": [],
            "health_check_interval": 0,
            "decode_responses": False,
            "encoding": "utf-8",
            "protocol": 2,
            "driver_info": None,
            "maint_notifications_config": MaintNotificationsConfig(enabled=False),
        }
        try:
            self._kind(**self._options)
        except TypeError:
            raise ConfigurationError(f"node address of {self.label} has an option that is not known") from None
        except (ValueError, RedisError):
            # Not in redis-py's own words: they may repeat the option's value.
            raise ConfigurationError(f"an option of the node address of {self.label} can't be used") from None
        self.error = ""
        """Why it is known to be bad; empty while it is not."""
        self.clock = ClockWatch()
        self._failures = 0
        self._retry_at_ms = 0

    def watch(self, time_ms: int, sent_ms: int, done_ms: int) -> None:
        """Look at the time that the node told, and report a clock that jumped."""
        jump_ms = self.clock.see(time_ms, sent_ms, done_ms)
        if jump_ms:
            log.warning("clock-jump", node=self.label, by_ms=jump_ms, jumps=self.clock.jumps)

    def is_good(self) -> None:
        """It has just been reached."""
        if self.error:
            log.info("node-up", node=self.label)
        self.error, self._failures = "", 0

    def is_bad(self, error: str) -> None:
        """It could not be reached: nobody waits for it again until it has been."""
        if error != self.error:
            log.warning("node-down", node=self.label, reason=error)
        self._failures += 1
        pause_ms = min(_RETRY_FIRST_MS << min(self._failures - 1, 10), _RETRY_LAST_MS)
        self.error, self._retry_at_ms = error, now_ms() + pause_ms

    def may_dial(self) -> bool:
        """Whether it is time to try; takes the turn, so that one thread at a time probes a bad node."""
        if not self.error:
            return True
        now = now_ms()
        if now < self._retry_at_ms:
            return False
        self._retry_at_ms = now + _RETRY_LAST_MS
        return True

    def connect(self) -> Dialled:
        """Dial, check that it can be a lock node, and teach it the scripts: three exchanges at most."""
        connection = self._kind(**self._options)
        try:
            connection.connect()  # type: ignore[no-untyped-call]
            run_id, terms = self._greet(connection)
        except BaseException:
            connection.disconnect()  # type: ignore[no-untyped-call]
            raise
        sock: socket.socket | None = connection._sock  # noqa: SLF001 - redis-py has no public door to what it dialled
        assert sock is not None, "connect() has just returned"
        sock.settimeout(0)
        return Dialled(connection, sock, run_id, terms)

    @staticmethod
    def _greet(connection: AbstractConnection) -> tuple[str, str]:
        asked = [("INFO", "server"), ("INFO", "replication"), ("HMGET", wire.RECORD, "run_id", "terms")]
        questions = connection.pack_commands(asked)  # type: ignore[no-untyped-call]
        connection.send_packed_command([*questions, wire.LESSONS])  # type: ignore[no-untyped-call]
        answers = [_read(connection) for _ in range(len(asked) + len(wire.SCRIPTS))]
        if isinstance(answers[0], ResponseError):
            raise answers[0]
        info = _fields(answers[0]) | _fields(answers[1])
        if not info.get("run_id") or not info.get("redis_version"):
            raise Unfit("answers, but not as a Redis server does")
        if info.get("redis_mode", "standalone") != "standalone":
            raise Unfit(f"in {info['redis_mode']} mode; lock nodes must be independent masters")
        if info.get("role") != "master":
            master = f"{info.get('master_host')}:{info.get('master_port')}"
            raise Unfit(f"a replica of {master}; lock nodes must be independent masters")
        version = info.get("redis_version", "0")
        if tuple(int(part) for part in version.split(".")[:2] if part.isdigit()) < (6, 2):
            raise Unfit(f"Redis {version}; lock nodes need 6.2 or later")
        for answer in answers[2:]:
            if isinstance(answer, ResponseError):
                raise answer
        # Known before the first round: one that other clients' nodes decide could be over before this one refuses.
        known, terms = ((word or b"").decode(errors="replace") for word in answers[2])
        return info["run_id"], terms if known == info["run_id"] else ""


def why(exc: Exception, timeout_ms: int) -> str:
    """A failure to reach a node, in words that say what is wrong with it and hold no secret."""
    cause: BaseException | None = exc
    while cause is not None:
        if isinstance(cause, Unfit):
            return str(cause)
        if isinstance(cause, AuthenticationError | ResponseError):
            return wire.explain(_with_code(cause))
        if isinstance(cause, TimeoutError | RedisTimeout):
            return f"no answer within {timeout_ms} ms"
        if isinstance(cause, OSError) and cause.strerror:
            return cause.strerror.lower()
        cause = cause.__cause__ or cause.__context__
    return f"answers, but not as a Redis server does ({str(exc) or type(exc).__name__:.100})"


def _with_code(error: Exception) -> str:
    # redis-py strips the code off errors that it has a class for, and keeps it in the class.
    codes = {
        "NoPermissionError": "NOPERM",
        "AuthenticationError": "WRONGPASS",
        "BusyLoadingError": "LOADING",
        "OutOfMemoryError": "OOM",
        "ReadOnlyError": "READONLY",
        "MasterDownError": "MASTERDOWN",
    }
    text = str(error)
    code = codes.get(type(error).__name__)
    if code == "WRONGPASS" and "required" in text.lower():
        code = "NOAUTH"
    return f"{code} {text}" if code else text


def _read(connection: AbstractConnection) -> Any:  # noqa: ANN401 - whatever the server says
    try:
        return connection.read_response()
    except ResponseError as error:
        return error


def _fields(info: object) -> dict[str, str]:
    if not isinstance(info, bytes):
        return {}
    lines = (line.partition(":") for line in info.decode(errors="replace").splitlines())
    return {name: value for name, colon, value in lines if colon}
