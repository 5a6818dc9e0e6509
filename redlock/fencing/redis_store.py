"""Fenced store: shared state in Redis that stays right even if two clients both act as the holder of the lock.

Invariants:
1. Only two Lua scripts change the state, and they alone give the guarantee. `scripts/open.lua` reads the value and
   raises the token. `scripts/write.lua` writes only in the transaction that was opened last.
2. Value and token are in the same key, so a loss of data cannot separate them.
3. Transactions are serialised in token order, and each operation id is applied once, under any behaviour of the lock
   and the network. The conditions: this Redis keeps its data (AOF, fsync always), and an operation id is remembered for
   longer than any redelivery takes.
"""

from __future__ import annotations

import re
import threading
import time
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

from redis import Redis

from redlock import _log, _validation
from redlock._locking import misuse
from redlock._masking import quoted
from redlock._transport import codec
from redlock.errors import ConfigurationError, Stale
from redlock.fencing import _turns
from redlock.fencing._leases import StoreLease, token_and_owner
from redlock.fencing._store_client import is_of_a_cluster, store_client

__all__ = ["REMEMBERED_MS", "FencedStore", "FencedTransaction", "StoreLease", "Written"]

if TYPE_CHECKING:
    from collections.abc import Callable

REMEMBERED_MS = 7 * 24 * 3600 * 1000
"""The time for which operation ids are remembered: a week, far longer than visibility timeout and retries."""
_LONGEST_REMEMBERED_MS = 1_000 * _validation.LONGEST_SECONDS
_HASH_TAG = re.compile(r"[^{]*\{[^}]+\}")
"""Redis hashes only the text between the first `{` and the next `}`, unless that text is empty."""
_LARGEST_TOKEN = 2**53 - 1
"""Above this number, Lua does not tell each token from the next."""


class Written(NamedTuple):
    """The result of a write.

    Attributes:
        value: The value that the operation wrote, now or at its first application.
        fence: The fencing token of that write.
        applied: False if the operation had been applied before. A client of redis-py repeats a write whose reply is
            lost; then its first try was applied by this very call.
    """

    value: str
    fence: int
    applied: bool


class FencedTransaction(NamedTuple):
    """A read-modify-write: the value that was read, and the right to write once.

    Attributes:
        name: The name in the store.
        value: The value that was read; None if the name was never written.
        number: The number of the transaction.
        fence: The fencing token of the lease.
        owner: The owner token of the lease; secret.
    """

    name: str
    value: str | None
    number: int
    fence: int
    owner: str

    def __repr__(self) -> str:
        # Without the secret, and without the value, which belongs to the application.
        return f"FencedTransaction({self.name!r}, number={self.number}, fence={self.fence})"


class StoreWords:
    """The keys of a fenced store, its scripts, and the meaning of their replies, for every client.

    Args:
        prefix: Put before every name.
        remembered_ms: The time in milliseconds for which operation ids are remembered.
        in_cluster: Whether the keys of a script must have the same hash slot.

    Raises:
        ConfigurationError: The prefix or the time cannot be used.
    """

    OPEN, WRITE = codec.Script.load("open").source, codec.Script.load("write").source

    def __init__(self, prefix: str, remembered_ms: int, *, in_cluster: bool = False) -> None:
        self._prefix, self._in_cluster = _validation.prefix(prefix), in_cluster
        self._remembered_ms = _validation.count("remembered_ms", remembered_ms, least=1, most=_LONGEST_REMEMBERED_MS)

    def state(self, name: str) -> str:
        """The key of a name's value."""
        return self._prefix + _validation.resource(name)

    def opening(self, name: str, lease: StoreLease) -> tuple[list[str], list[str | int]]:
        """The keys and the arguments of an opening."""
        fence, owner = token_and_owner(lease)
        if fence > _LARGEST_TOKEN:
            raise ConfigurationError(
                f"fencing token {fence} cannot be used; the largest token of a fenced store is {_LARGEST_TOKEN}"
            )
        state = self.state(name)
        if self._in_cluster and not _HASH_TAG.match(state):
            raise ConfigurationError(
                f"the key {quoted(state)} of the fenced store has no hash tag, and in a cluster all keys of a write "
                "must have one slot; put the name into braces, as in '{account:42}', or a part of the prefix"
            )
        return [state], [fence, owner]

    @staticmethod
    def opened(name: str, lease: StoreLease, reply: Any) -> FencedTransaction:  # noqa: ANN401 - as the server sent it
        """The transaction that the reply opens, or the error `Stale`."""
        fence, owner = lease.fence, lease.owner
        if text(reply[0]) == "STALE":
            raise _stale(name, fence, int(reply[1]))
        value = None if reply[2] is None else text(reply[2])
        return FencedTransaction(name, value, int(reply[1]), fence, owner)

    def writing(self, transaction: FencedTransaction, value: str, op_id: str) -> tuple[list[str], list[str | int]]:
        """The keys and the arguments of a write."""
        if not isinstance(transaction, FencedTransaction):
            raise ConfigurationError(f"{type(transaction).__name__} is no transaction; give the result of `open`")
        state = self.state(transaction.name)
        keys = [state, codec.operation_key(state, _validation.operation(op_id))]
        fence, owner, number = transaction.fence, transaction.owner, transaction.number
        return keys, [fence, owner, number, stored_text(value), self._remembered_ms]

    @staticmethod
    def written(transaction: FencedTransaction, reply: Any) -> Written:  # noqa: ANN401 - as the server sent it
        """The result of a write, or the error `Stale`."""
        verdict = text(reply[0])
        if verdict == "STALE":
            raise _stale(transaction.name, transaction.fence, int(reply[1]))
        fence, _, result = text(reply[1]).partition(":")
        return Written(result, int(fence), applied=verdict == "WRITTEN")


class FencedStore:
    """Values in one Redis, each behind a fence.

    Args:
        client: The Redis with the data, or its URL with a port. The store decodes replies if the client does not.
        prefix: Put before every name, without control characters; lock nodes and store may share no keys. In a Redis
            Cluster, the prefix or each name needs a hash tag, as `{account:42}`.
        remembered_ms: The time in milliseconds for which operation ids are remembered.

    Example:
        >>> with redlock.lock("account:42") as lease:
        ...     store.update("account:42", lease, "deposit:1", lambda old: str(int(old or 0) + 10)).value
        '10'
        >>> with redlock.lock("account:42") as lease:  # the same operation again changes nothing
        ...     store.update("account:42", lease, "deposit:1", lambda old: str(int(old or 0) + 10)).applied
        False
    """

    @_validation.private
    def __init__(self, client: Redis | str, *, prefix: str = "store:", remembered_ms: int = REMEMBERED_MS) -> None:
        self._redis = store_client(Redis, client)
        self._words = StoreWords(prefix, remembered_ms, in_cluster=is_of_a_cluster(self._redis))
        self._turns: _turns.Turns[threading.Event] = _turns.Turns()
        self._open = self._redis.register_script(StoreWords.OPEN)
        self._write = self._redis.register_script(StoreWords.WRITE)

    def __reduce__(self) -> NoReturn:
        raise TypeError(misuse.NO_COPY_OF_STORE)

    def open(self, name: str, lease: StoreLease) -> FencedTransaction:
        """Read under this lease's token, and refuse all smaller tokens from now on.

        Raises:
            Stale: The store has seen a larger token, or the same token from another owner.
            NotHeld: The lease is not held.
            ConfigurationError: The name or the lease cannot be used.
            redis.exceptions.RedisError: The store did not answer.
        """
        keys, arguments = self._words.opening(name, lease)
        reply = self._open(keys=keys, args=arguments)
        return self._words.opened(name, lease, reply)

    def write(self, transaction: FencedTransaction, value: str, op_id: str) -> Written:
        """Write once, in the transaction that was opened last, unless this operation was applied before.

        Raises:
            Stale: Another transaction has been opened since.
            ConfigurationError: The operation id is empty or not text, or the value is not text.
            redis.exceptions.RedisError: The store did not answer. The write may have been applied; a repetition with
                the same operation id is safe.
        """
        keys, arguments = self._words.writing(transaction, value, op_id)
        return self._words.written(transaction, self._write(keys=keys, args=arguments))

    def update(self, name: str, lease: StoreLease, op_id: str, change: Callable[[str | None], str]) -> Written:
        """Open, compute the new value, and write. Repeats this if another operation of the same lease came between.

        The updates of a store under the same lease run one after the other for each name. So `change` can't update the
        same name under the same lease.

        Raises:
            Stale: The store has seen a newer token: repeat the work under a new lease.
            LockLost: The lease ended while other operations of the lease changed the value; nothing was written.
            ConfigurationError: As for `open` and `write`, or an update of this name under this lease runs `change`.
            NotHeld, redis.exceptions.RedisError: As for `open` and `write`.
        """
        _validation.operation(op_id)
        check_change(change)
        update = _turns.Update((id(self), _validation.resource(name), token_and_owner(lease)))
        queue, turn = self._turns.queue(update, name), threading.Event()
        try:
            queue.append(turn)
            while (before := _turns.before(queue, turn)) is not None:
                before.wait(_turns.left(name, lease))
            pauses = _turns.pauses(name, lease)
            while True:
                transaction = self.open(name, lease)
                with update.changing():
                    value = change(transaction.value)
                try:
                    return self.write(transaction, value, op_id)
                except Stale as stale:
                    if stale.seen != transaction.fence:
                        raise
                time.sleep(next(pauses))
        finally:
            update.is_running = False
            _turns.leave(queue, turn)
            turn.set()

    def read_unfenced(self, name: str) -> str | None:
        """The value, read without a token: to show the value, not to compute a new value."""
        value = self._redis.hget(self._words.state(name), "value")
        return None if value is None else text(value)

    def write_unfenced(self, name: str, value: str) -> None:
        """Write without a token: to set up a value, and to show the damage without a fence."""
        self._redis.hset(self._words.state(name), "value", stored_text(value))


def _stale(name: str, token: int, seen: int) -> Stale:
    _log.warning("STALE", resource=name, token=token, seen=seen)
    return Stale(name, token, seen)


def check_change(change: object) -> None:
    """Refuse a `change` that can't be called, before anything is sent."""
    if not callable(change):
        raise ConfigurationError(f"change is {type(change).__name__}; it must be a function of the old value")


def stored_text(value: object) -> str:
    """A value that the store can keep and read again. No message shows the value, which belongs to the application."""
    if not isinstance(value, str):
        raise ConfigurationError(f"a value for the fenced store is {type(value).__name__}; it must be text (str)")
    if not _validation.is_utf8(value):
        raise ConfigurationError("a value for the fenced store holds half a surrogate pair, which is no text")
    return value


def text(value: object) -> str:
    """A reply as text, whether the client decodes replies or not."""
    return value.decode() if isinstance(value, bytes) else str(value)
