"""One lock node: its address, how it is dialled, and whether it is known to be down.

Invariants:
1. A dial has one deadline for name, connection, TLS and greeting together, and runs in a thread of its own.
2. A connection is ready only with the node's `run_id`, read on that very connection: a connection can't outlive
   the server process, so the two belong together.
3. A node is named by its label (see `address`), which never holds a password.
"""

from __future__ import annotations

import re
import threading
import time
from typing import TYPE_CHECKING, NamedTuple

import hiredis
from redis.backoff import NoBackoff
from redis.connection import AbstractConnection, Connection
from redis.exceptions import RedisError
from redis.maint_notifications import MaintNotificationsConfig
from redis.retry import Retry

from redlock import _log
from redlock._clock import now_ms
from redlock._core.clock_jump import ClockWatch
from redlock._escaping import escape
from redlock._transport import address, codec, node_info
from redlock._transport.dial import open_socket
from redlock._transport.exchange import Exchange, pack
from redlock._transport.reply_reader import UnreadableReply
from redlock.errors import ConfigurationError

if TYPE_CHECKING:
    import socket
    from collections.abc import Sequence
    from queue import SimpleQueue

DEFAULT_PORTS = (63791, 63792, 63793, 63794, 63795)
DEFAULT_NODES = tuple(f"redis://127.0.0.1:{port}" for port in DEFAULT_PORTS)

DIAL_TIMEOUTS = 4
"""How many node timeouts a dial may take; no round waits for more than one of them once a quorum is there."""
ERRORS = (OSError, RedisError, UnreadableReply)
"""What a dial and an exchange with a node raise, beside `UnsuitableNode`."""

_RETRY_FIRST_MS, _RETRY_LAST_MS = 100, 1_000
_RUN_ID = re.compile(r"[0-9A-Za-z]{1,64}")


class UnsuitableNode(Exception):
    """The node answers, and can't be a lock node; the message says why."""


class ShutOut(UnsuitableNode):
    """The node answers no command of this user, or of any user yet."""


class Connected(NamedTuple):
    """A connection that is ready for rounds."""

    exchange: Exchange
    run_id: str
    fingerprint: str
    """What other clients agreed on with this very server; empty if nobody has."""

    @property
    def sock(self) -> socket.socket:
        """The socket."""
        return self.exchange.sock

    def close(self) -> None:
        """End the connection."""
        self.exchange.close()


class PendingConnection:
    """One attempt to connect, in its own daemon thread: `done` is set when `result` or `error` is there.

    Args:
        node: What to connect to.
        arrivals: Gets an item when the dial has ended, for a thread that waits for several.
    """

    def __init__(self, node: Node, arrivals: SimpleQueue[None] | None = None) -> None:
        self.began_ms = now_ms()
        self.done = threading.Event()
        self.result: Connected | None = None
        self.error = ""
        self._node = node
        self._arrivals = arrivals
        self._is_wanted = True
        threading.Thread(target=self._run, name=f"redlock-dial-{node.label}", daemon=True).start()

    def _run(self) -> None:
        try:
            self.result = self._node.connect()
            self._node.mark_up()
        except Exception as exc:  # noqa: BLE001 - what listens there may be anything, and answer anything
            self.error = describe_failure(exc, self._node.timeout_ms)
            self._node.mark_down(self.error)
        finally:
            self.done.set()
            if self._arrivals is not None:
                self._arrivals.put(None)
            self._close_if_unwanted()

    def is_overdue(self) -> None:
        """It has been waited for: the node is down until the dial succeeds."""
        self._node.mark_down(f"no answer within {self._node.timeout_ms} ms")
        if self.result is not None:
            # It has succeeded at this very moment.
            self._node.mark_up()

    def abandon(self) -> None:
        """Nothing will use its connection any more."""
        self._is_wanted = False
        self._close_if_unwanted()

    def _close_if_unwanted(self) -> None:
        if self.result is not None and self.done.is_set() and not self._is_wanted:
            self.result.close()


class Node:
    """A lock node as one process sees it; shared by all its connections and threads."""

    def __init__(self, url: str, timeout_ms: int, prefix: str = "") -> None:
        options = address.parse(url)
        self.label = escape(address.label(options))
        self.timeout_ms = timeout_ms
        self._kind: type[AbstractConnection] = options.pop("connection_class", Connection)
        greeted = {name: options.pop(name) for name in _GREETED if name in options}
        self._greeting = _greeting(**greeted)
        self._introduction = (*_INFO, pack("HMGET", prefix + codec.RECORD, "run_id", "fingerprint"))
        self._options = options | {
            "retry": Retry(NoBackoff(), 0),
            "retry_on_error": [],
            "health_check_interval": 0,
            "decode_responses": False,
            "encoding": "utf-8",
            "protocol": 2,
            "driver_info": None,
            "maint_notifications_config": MaintNotificationsConfig(enabled=False),
        }
        problem = ""
        try:
            self._kind(**self._options | greeted)
        except TypeError:
            problem = f"node address of {self.label} has an option that is not known"
        except (ValueError, RedisError):
            problem = f"an option of the node address of {self.label} can't be used"
        if problem:
            # Neither in redis-py's own words nor inside the handler: its error may repeat the option's value.
            raise ConfigurationError(problem)
        self.error = ""
        """Why it is known to be bad; empty while it is not."""
        self.clock = ClockWatch()
        self._other_terms = ""
        self._failures = 0
        self._retry_at_ms = 0

    def watch(self, time_ms: int, sent_ms: int, done_ms: int) -> None:
        """Look at the time that the node told, and report a clock that jumped."""
        jump_ms = self.clock.see(time_ms, sent_ms, done_ms)
        if jump_ms:
            _log.warning("clock-jump", node=self.label, by_ms=jump_ms, jumps=self.clock.jumps)

    def rejects(self, fingerprint: str) -> None:
        """Other clients work there under these terms; empty if it accepts this client's."""
        if fingerprint and fingerprint != self._other_terms:
            _log.warning("node-disagrees", node=self.label, fingerprint=fingerprint)
        self._other_terms = fingerprint

    def mark_up(self) -> None:
        """It has just been reached."""
        if self.error:
            _log.info("node-up", node=self.label)
        self.error, self._failures = "", 0

    def mark_down(self, error: str) -> None:
        """It could not be reached: nobody waits for it again until it has been."""
        if error != self.error:
            _log.warning("node-down", node=self.label, reason=error)
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

    def connect(self, seconds: float | None = None, *, admin: bool = False) -> Connected:
        """Dial, check that it can be a lock node, and teach it the scripts: one exchange once connected.

        Args:
            seconds: How long all of it may take; default: four node timeouts.
            admin: Whether the connection is for administration, where replies can be long.

        Raises:
            UnsuitableNode: It answers, and can't be a lock node.
            OSError: It can't be reached; also `UnreadableReply` and `RedisError`, see `ERRORS`.
        """
        limit = self.timeout_ms / 1000
        until = time.monotonic() + (DIAL_TIMEOUTS * limit if seconds is None else seconds)
        exchange = Exchange(open_socket(self._kind(**self._options), until, limit), admin=admin)
        try:
            run_id, fingerprint = self._greet(exchange, until)
        except BaseException:
            exchange.close()
            raise
        exchange.sock.settimeout(0)
        return Connected(exchange, run_id, fingerprint)

    def _greet(self, exchange: Exchange, until: float) -> tuple[str, str]:
        count = len(self._greeting) + len(self._introduction) + len(codec.SCRIPTS)
        answers = exchange.ask(b"".join([*self._greeting, *self._introduction, codec.LOAD_SCRIPTS]), count, until)
        met = _met(answers, len(self._greeting))
        if not exchange.is_silent:
            raise UnsuitableNode("answered without being asked")
        return met


_GREETED = ("username", "password", "client_name", "db")
_INFO = (pack("INFO", "server"), pack("INFO", "replication"))


def _greeting(username: str = "", password: str = "", client_name: str = "", db: int = 0) -> list[bytes]:
    """What a connection begins with. It goes out in one piece with the first questions."""
    words: list[tuple[str, ...]] = []
    if username or password:
        words.append(("AUTH", *([username] if username else []), password))
    if client_name:
        words.append(("CLIENT", "SETNAME", client_name))
    if db:
        words.append(("SELECT", str(db)))
    return [pack(*command) for command in words]


def _met(answers: Sequence[object], greeted: int) -> tuple[str, str]:
    """Check what a server said to the greeting, the introduction and the scripts; its run_id, and its terms."""
    for answer in answers[:greeted]:
        # To a password where none is set Redis says ERR.
        refuse(answer, "WRONGPASS")
    server, replication, record, *shas = answers[greeted:]
    refuse(server)
    info = node_info.fields(server) | node_info.fields(replication)
    run_id, version = info.get("run_id", ""), node_info.version(info.get("redis_version", ""))
    if not _RUN_ID.fullmatch(run_id) or version is None:
        raise UnsuitableNode(NO_REDIS)
    if info.get("redis_mode", "standalone") != "standalone":
        raise UnsuitableNode(f"in {info['redis_mode']:.20} mode; lock nodes must be independent masters")
    if info.get("role") != "master":
        master = f"{info.get('master_host', ''):.100}:{info.get('master_port', ''):.5}"
        raise UnsuitableNode(f"a replica of {master}; lock nodes must be independent masters")
    if version < (6, 2):
        raise UnsuitableNode(f"Redis {info['redis_version']:.20}; lock nodes need 6.2 or later")
    for answer in (record, *shas):
        refuse(answer)
    words = record if isinstance(record, list) else []
    if [isinstance(word, bytes | None) for word in words] != [True, True]:
        raise UnsuitableNode(NO_REDIS)
    if shas != [script.sha for script in codec.SCRIPTS.values()]:
        raise UnsuitableNode(NO_REDIS)
    # Known before the first round: one that other clients' nodes decide could be over before this one refuses.
    known, fingerprint = ((word or b"").decode(errors="replace") for word in words)
    return run_id, fingerprint if known == run_id else ""


_SHUT_OUT = ("NOAUTH", "WRONGPASS", "LOADING", "DENIED")
NO_REDIS = "answers, but not as a Redis server does"


def refuse(answer: object, err: str = "ERR") -> None:
    """Raise `UnsuitableNode` if an answer is an error; `err` is what the code ERR means."""
    if isinstance(answer, hiredis.ReplyError):
        error = re.sub(r"^ERR\b", err, str(answer))
        raise (ShutOut if error.startswith(_SHUT_OUT) else UnsuitableNode)(codec.explain(error))


def describe_failure(exc: BaseException, timeout_ms: int) -> str:
    """A failure to reach a node, in words that say what is wrong with it and hold no secret."""
    cause: BaseException | None = exc
    while cause is not None:
        if isinstance(cause, UnsuitableNode | UnreadableReply):
            return str(cause)
        if isinstance(cause, TimeoutError):
            return f"no answer within {timeout_ms} ms"
        if isinstance(cause, OSError) and cause.strerror:
            return cause.strerror.lower()
        cause = cause.__cause__ or cause.__context__
    return f"{NO_REDIS} ({str(exc) or type(exc).__name__:.100})"
