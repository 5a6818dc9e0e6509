"""The fenced store: shared state in Redis that stays right even when two clients believe they hold the lock.

Rules of this file:
1. Two doors, each one Lua script. `open` reads and raises the token; `write` writes only in the section that
   was opened last. State and token live in one key, so they live and die together.
2. Sections are serialised in token order, and each operation id is applied once, whatever the lock, the
   network, or the order of tokens did. The condition: this Redis keeps its data (AOF, fsync always), and
   results are remembered for longer than any redelivery takes.
3. It is for any value that fits in a Redis string; the counter is one user of it.

The scripts are the whole of the guarantee: see `scripts/open.lua` and `scripts/write.lua`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from redis import Redis

from redlock import _log, _validation
from redlock._transport import codec
from redlock.errors import Stale

if TYPE_CHECKING:
    from collections.abc import Callable

    from redlock.lease import Lease

REMEMBERED_MS = 7 * 24 * 3600 * 1000
"""How long operation ids are remembered: a week, far beyond visibility timeout and retries."""


class Written(NamedTuple):
    """What a write came to.

    Attributes:
        value: The value that the operation wrote, now or when it was first applied.
        fence: The fencing token that it was written under.
        applied: False if the operation had been applied before, and this call changed nothing.
    """

    value: str
    fence: int
    applied: bool


class FencedTransaction(NamedTuple):
    """One read-modify-write: the value that was read, and the right to write once.

    Attributes:
        name: The name in the store.
        value: What was read; None if nothing was ever written.
        number: The section's number.
        fence: The token that it was opened with.
        owner: The owner token of the lease.
    """

    name: str
    value: str | None
    number: int
    fence: int
    owner: str


class FencedStore:
    """Values in one Redis, each behind a fence.

    Args:
        client: The Redis that owns the data, or its URL. Replies are decoded here, whatever the client does.
        prefix: Put before every name, without control characters; lock nodes and store may share no keys.
        remembered_ms: How long operation ids are remembered.
    """

    def __init__(self, client: Redis | str, *, prefix: str = "store:", remembered_ms: int = REMEMBERED_MS) -> None:
        self._redis = Redis.from_url(client) if isinstance(client, str) else client
        self._prefix = _validation.prefix(prefix)
        self._remembered_ms = remembered_ms
        self._open = self._redis.register_script(codec.Script.load("open").source)
        self._write = self._redis.register_script(codec.Script.load("write").source)

    def open(self, name: str, lease: Lease) -> FencedTransaction:
        """Read under this lease's token, and shut out every smaller one.

        Raises:
            Stale: The store has seen a larger token, or this one from another owner.
            NotHeld: The lease is not held.
            redis.exceptions.RedisError: The store did not answer.
        """
        fence, owner = lease.fence, lease.owner
        reply = self._open(keys=[self._state(name)], args=[fence, owner])
        if _text(reply[0]) == "STALE":
            raise self._stale(name, fence, int(reply[1]))
        value = None if reply[2] is None else _text(reply[2])
        return FencedTransaction(name, value, int(reply[1]), fence, owner)

    def write(self, section: FencedTransaction, value: str, op_id: str) -> Written:
        """Write once, in the section that was opened last, if this operation was not applied before.

        Raises:
            Stale: Another section has been opened since.
            ConfigurationError: The operation id is empty or not text.
            redis.exceptions.RedisError: The store did not answer. Whether it was written is unknown; doing the
                operation again with the same id is safe.
        """
        state = self._state(section.name)
        keys = [state, codec.operation_key(state, _validation.operation(op_id))]
        args: list[str | int] = [section.fence, section.owner, section.number, value, self._remembered_ms]
        reply = self._write(keys=keys, args=args)
        verdict = _text(reply[0])
        if verdict == "STALE":
            raise self._stale(section.name, section.fence, int(reply[1]))
        fence, _, result = _text(reply[1]).partition(":")
        return Written(result, int(fence), applied=verdict == "WRITTEN")

    def update(self, name: str, lease: Lease, op_id: str, change: Callable[[str | None], str]) -> Written:
        """Open, compute in Python, write. Opens again where another operation of the same lease came between.

        Raises:
            Stale: The store has seen a newer token: the work must be done again under a new lease.
        """
        while True:
            section = self.open(name, lease)
            try:
                return self.write(section, change(section.value), op_id)
            except Stale as stale:
                if stale.seen != lease.fence:
                    raise

    def read_unfenced(self, name: str) -> str | None:
        """The value, read past the fence: for looking at, not for computing a new one."""
        value = self._redis.hget(self._state(name), "value")
        return None if value is None else _text(value)

    def write_unfenced(self, name: str, value: str) -> None:
        """Write past the fence: for setting up, and for showing what happens without one."""
        self._redis.hset(self._state(name), "value", value)

    def _state(self, name: str) -> str:
        return self._prefix + _validation.resource(name)

    @staticmethod
    def _stale(name: str, token: int, seen: int) -> Stale:
        _log.warning("STALE", resource=name, token=token, seen=seen)
        return Stale(name, token, seen)


def _text(value: object) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)
