"""Lock nodes: address, dial and greeting.

Invariants:
1. A dial has one deadline for name resolution, connection, TLS and greeting together, and runs in its own thread.
2. A connection is ready only with the node's `run_id`, read on the same connection: a connection can't outlive the
   server process, so the `run_id` stays right.
3. Messages name a node by its label (see `address`), which never holds a password.
"""

from __future__ import annotations

import errno
import re
import threading
import time
from typing import TYPE_CHECKING

from redis.backoff import NoBackoff
from redis.connection import AbstractConnection, Connection
from redis.exceptions import RedisError
from redis.retry import Retry

from redlock import _threads
from redlock._clock import now_ms
from redlock._compat import connection_options
from redlock._escaping import escape, statement
from redlock._transport import address, codec, node_info
from redlock._transport.codec import pack
from redlock._transport.decoder import explain
from redlock._transport.dial import open_socket
from redlock._transport.exchange import Exchange
from redlock._transport.node_health import NodeHealth
from redlock._transport.reply_reader import ReplyError, UnreadableReply
from redlock._transport.socket_errors import ConnectionFailed, NoReply
from redlock.errors import ConfigurationError, NoThread

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Mapping, Sequence

DEFAULT_PORTS = (63791, 63792, 63793, 63794, 63795)
DEFAULT_NODES = tuple(f"redis://127.0.0.1:{port}" for port in DEFAULT_PORTS)

DIAL_TIMEOUTS = 4
"""The most node timeouts of a dial. With a quorum connected, a round waits for a single node timeout at most."""
ERRORS = (OSError, RedisError, ConnectionFailed, UnreadableReply)
"""The errors of a dial or an exchange, beside `UnsuitableNode`."""

_RUN_ID = re.compile(r"[0-9A-Za-z]{1,64}")


class UnsuitableNode(Exception):
    """The node answers but can't be a lock node; the message gives the reason."""


class ShutOut(UnsuitableNode):
    """The node refuses all commands of this user, or of all users for now."""


class PendingConnection:
    """A dial in its own daemon thread. `done` is set when `result` or `error` has a value; then `ended` is called.

    Without a thread the dial has failed at once: an exception would interrupt a round of all nodes.
    """

    def __init__(self, node: Node, ended: Callable[[], None] | None = None) -> None:
        self.done = threading.Event()
        self.result: Exchange | None = None
        self.error = ""
        self._node = node
        self._ended = ended
        self._is_wanted = True
        try:
            _threads.start(self._run, f"redlock-dial-{node.label}")
        except NoThread as exc:
            self._fail(exc)
            self._end()

    def _run(self) -> None:
        try:
            self.result = self._node.connect()
            self._node.mark_up()
        except Exception as exc:  # noqa: BLE001 - an error without an end would let each round dial and wait again
            self._fail(exc)
        finally:
            self._end()

    def _fail(self, exc: Exception) -> None:
        self.error = describe_failure(exc, self._node.timeout_ms)
        self._node.mark_down(self.error, now_ms())

    def _end(self) -> None:
        self.done.set()
        if self._ended is not None:
            self._ended()
        self._close_if_unwanted()

    def take(self, waited_seconds: float) -> Exchange | None:
        """The connection, after a wait of at most this long; None if the wait was too short for a failure.

        Raises:
            UnsuitableNode: The dial has failed, or has taken a whole node timeout; the message has the reason.
        """
        if not self.done.is_set():
            if waited_seconds < self._node.timeout_ms / 1000:
                return None
            raise UnsuitableNode(self._node.error or f"no answer within {self._node.timeout_ms} ms")
        if self.result is None:
            raise UnsuitableNode(self.error)
        # From now on `abandon` closes nothing.
        result, self.result = self.result, None
        return result

    def abandon(self) -> None:
        """Close the connection, now or when the dial ends, because nothing will use the connection."""
        self._is_wanted = False
        self._close_if_unwanted()

    def _close_if_unwanted(self) -> None:
        # In this order: another thread may call `take` and then `abandon` meanwhile, and uses the connection.
        if not self._is_wanted and self.done.is_set() and (result := self.result) is not None:
            result.close()


class Node(NodeHealth):
    """The view of a lock node in this process; shared by all connections and threads."""

    def __init__(self, url: str, timeout_ms: int, prefix: str = "") -> None:
        options = address.parse(url)
        super().__init__(escape(address.label(options)))
        self.timeout_ms = timeout_ms
        kind: type[AbstractConnection] = options.pop("connection_class", Connection)
        greeted = {name: options.pop(name) for name in _GREETING_OPTIONS if name in options}
        name = str(greeted.get("client_name") or "")
        self._naming = [pack("CLIENT", "SETNAME", name)] if name else []
        self._greeting = _greeting(greeted.get("username"), greeted.get("password", ""), greeted.get("db"))
        self._introduction = (*_INFO, pack("HMGET", prefix + codec.RECORD, "run_id", "fingerprint"))
        options = (
            options
            | connection_options(kind, options)
            | {
                "retry": Retry(NoBackoff(), 0),
                "retry_on_error": [],
                "health_check_interval": 0,
                "decode_responses": False,
                "encoding": "utf-8",
                "protocol": 2,
            }
        )
        problem = ""
        try:
            self._options = kind(**options | greeted)
        except TypeError:
            problem = f"node address of {self.label} has an option that is not known"
        except (ValueError, RedisError):
            problem = f"an option of the node address of {self.label} can't be used"
        if problem:
            # Outside the handler and without redis-py's message: that error may repeat the option's value.
            raise ConfigurationError(problem)

    def connect(self, seconds: float | None = None, *, admin: bool = False) -> Exchange:
        """Dial, check that the node can be a lock node, and load the scripts, in one exchange on the new connection.

        Args:
            seconds: The most time for all steps together; default: four node timeouts.
            admin: Whether the connection is for administration, where replies can be long.

        Raises:
            UnsuitableNode: The node answers but can't be a lock node.
            OSError: The node can't be reached; also the other `ERRORS`.
        """
        limit = self.timeout_ms / 1000
        until = time.monotonic() + (DIAL_TIMEOUTS * limit if seconds is None else seconds)
        exchange = Exchange(self._open(until, limit), admin=admin)
        try:
            exchange.run_id, exchange.fingerprint = self._greet(exchange, until)
        except BaseException:
            exchange.close()
            raise
        return exchange

    def _open(self, until: float, limit: float) -> socket.socket:
        try:
            return open_socket(self._options, until, limit)
        except (OSError, NoThread):
            # First, because the error of a certificate is a ValueError too, and so is a LockError of redis-py.
            raise
        except (AttributeError, TypeError, ValueError):
            # Only the use shows a bad option of an address, such as a TLS version that does not exist.
            raise UnsuitableNode("its address has an option or a host name that can't be used") from None

    def _greet(self, exchange: Exchange, until: float) -> tuple[str, str]:
        count = len(self._greeting) + len(self._introduction) + len(codec.SCRIPTS)
        words = b"".join([*self._greeting, *self._introduction, codec.LOAD_SCRIPTS, *self._naming])
        answers = exchange.ask(words, count + len(self._naming), until)
        met = _check_answers(answers[:count], len(self._greeting))
        for answer in answers[count:]:
            # The name is for people. A managed service may forbid the command.
            if not str(answer).startswith(FORBIDDEN):
                refuse(answer)
        if not exchange.is_silent:
            raise UnsuitableNode("answered without being asked")
        return met


_GREETING_OPTIONS = ("username", "password", "client_name", "db")
_INFO = (pack("INFO", "server"), pack("INFO", "replication"))


def _greeting(username: str | None, password: str, db: int | None) -> list[bytes]:
    """The first commands of a connection, which go out in the same piece as the introduction."""
    commands = []
    if username or password:
        commands.append(pack("AUTH", *([username] if username else []), password))
    if db:
        commands.append(pack("SELECT", str(db)))
    return commands


def _check_answers(answers: Sequence[object], greeted: int) -> tuple[str, str]:
    """Check the replies to greeting, introduction and scripts, and return the run_id and the fingerprint."""
    for answer in answers[:greeted]:
        # Redis answers ERR to a password where no password is set.
        refuse(answer, "WRONGPASS")
    server, replication, record, *shas = answers[greeted:]
    for answer in (server, replication):
        refuse(answer)
    run_id = _check_info(node_info.fields(server) | node_info.fields(replication))
    for answer in (record, *shas):
        refuse(answer)
    words = record if isinstance(record, list) else []
    if [isinstance(word, bytes | None) for word in words] != [True, True]:
        raise UnsuitableNode(NO_REDIS)
    if shas != [script.sha for script in codec.SCRIPTS.values()]:
        raise UnsuitableNode(NO_REDIS)
    # The client must know the fingerprint before its first round: the other nodes could decide that round before this
    # node rejects the configuration.
    known, fingerprint = ((word or b"").decode(errors="replace") for word in words)
    return run_id, fingerprint if known == run_id else ""


def _check_info(info: Mapping[str, str]) -> str:
    """Check that the fields of INFO are those of a lock node, and return the run_id."""
    if not info:
        raise UnsuitableNode(NO_REDIS)
    for name, section in (("run_id", "server"), ("role", "replication")):
        if name not in info:
            raise UnsuitableNode(f"does not report its {name} (INFO {section}), which the lock needs")
    if not _RUN_ID.fullmatch(info["run_id"]):
        raise UnsuitableNode(NO_REDIS)
    if (mode := node_info.mode(info) or "standalone") != "standalone":
        raise UnsuitableNode(f"in {statement(mode, 20)} mode; lock nodes must be independent masters")
    if info["role"] != "master":
        master = f"{statement(info.get('master_host', ''), 100)}:{statement(info.get('master_port', ''), 5)}"
        raise UnsuitableNode(f"a replica of {master}; lock nodes must be independent masters")
    if node_info.is_too_old(info.get("redis_version", "")):
        raise UnsuitableNode(f"Redis {statement(info['redis_version'], 20)}; lock nodes need 6.2 or later")
    return info["run_id"]


_ACCESS_DENIED = ("NOAUTH", "WRONGPASS", "LOADING", "DENIED")
FORBIDDEN = ("NOPERM", "ERR unknown command")
"""The beginnings of errors for commands that the user may not run, or that were renamed."""
OUT_OF_FILES = "this process has too many open files"
NO_REDIS = "answers, but not as a Redis server does"


def refuse(answer: object, err: str = "ERR") -> None:
    """Raise `UnsuitableNode` if a reply is an error; `err` replaces the code ERR."""
    if isinstance(answer, ReplyError):
        error = re.sub(r"^ERR\b", err, str(answer))
        raise (ShutOut if error.startswith(_ACCESS_DENIED) else UnsuitableNode)(explain(error))


def describe_failure(exc: BaseException, timeout_ms: int) -> str:
    """The reason why a node can't be reached, without secrets."""
    cause: BaseException | None = exc
    while cause is not None:
        if isinstance(cause, NoThread):
            return _threads.NO_THREAD
        if isinstance(cause, TimeoutError | NoReply):
            return f"no answer within {timeout_ms} ms"
        if isinstance(cause, UnsuitableNode | UnreadableReply | ConnectionFailed):
            return str(cause)
        if isinstance(cause, OSError) and cause.errno == errno.EMFILE:
            return OUT_OF_FILES
        if isinstance(cause, OSError) and cause.strerror:
            return cause.strerror.lower()
        cause = cause.__cause__ or cause.__context__
    what = NO_REDIS if isinstance(exc, RedisError) else "can't be dialled"
    return f"{what} ({statement(str(exc) or type(exc).__name__, 100)})"
