"""Adapters of the conformance kit for the fenced stores: value and journal are one JSON text in Redis."""

from __future__ import annotations

import asyncio
import contextlib
import json
import uuid
from typing import TYPE_CHECKING, Any

from redis import Redis

from redlock.errors import Stale
from redlock.fencing import AsyncFencedStore, FencedStore
from redlock.fencing.conformance import Lease, Write

if TYPE_CHECKING:
    from collections.abc import Coroutine, Iterator

    from redlock.fencing import FencedTransaction

NAMES = ("account", "acc", "ACC", "acc ")
EMPTY = '{"value": 0, "journal": []}'


class Overtaken(Exception):
    """Another section of the same lease came between, so the work is repeated."""


class Section:
    """A holder: its transaction, and the state that it has read and changes."""

    def __init__(self, store: Any) -> None:
        self.store = store
        self.transaction: FencedTransaction | None = None
        self.state: Any = None

    def enter(self, transaction: FencedTransaction) -> None:
        self.transaction, self.state = transaction, json.loads(transaction.value or EMPTY)


class StoreAdapter:
    """`FencedStore`: the section is opened at its beginning and written at its end."""

    def __init__(self, url: str) -> None:
        self._url = url

    def reset(self) -> None:
        with Redis.from_url(self._url) as redis:
            redis.flushdb()

    def open(self) -> Any:
        return Section(FencedStore(self._url))

    def close(self, session: Any) -> None:
        session.store._redis.close()

    def begin(self, session: Any, lease: Lease) -> None:
        session.enter(session.store.open(lease.names[0], lease))

    def end(self, session: Any) -> None:
        session.store.write(session.transaction, json.dumps(session.state), uuid.uuid4().hex)

    @contextlib.contextmanager
    def fenced(self, session: Any, lease: Lease) -> Iterator[None]:
        try:
            self.begin(session, lease)
            yield
            self.end(session)
        except Stale as stale:
            if stale.seen == lease.fence and session.transaction is not None:
                raise Overtaken from stale
            raise

    def look(self, session: Any, resource: str) -> None:
        session.looked = self.value(resource)

    def read(self, session: Any, resource: str) -> int:
        return int(session.state["value"])

    def write(self, session: Any, write: Write, value: int) -> None:
        session.state = {"value": value, "journal": [*session.state["journal"], write]}

    def retryable(self, error: Exception) -> bool:
        return isinstance(error, Overtaken)

    def _state(self, resource: str) -> Any:
        store = FencedStore(self._url)
        try:
            return json.loads(store.read_unfenced(resource) or EMPTY)
        finally:
            store._redis.close()

    def committed(self) -> list[Write]:
        return [Write(*write) for name in NAMES for write in self._state(name)["journal"]]

    def value(self, resource: str) -> int:
        return int(self._state(resource)["value"])


class AsyncStoreAdapter(StoreAdapter):
    """`AsyncFencedStore`; each holder has an event loop of its own."""

    def open(self) -> Any:
        return AsyncSection(self._url)

    def close(self, session: Any) -> None:
        session.close()

    def begin(self, session: Any, lease: Lease) -> None:
        session.enter(session.run(session.store.open(lease.names[0], lease)))

    def end(self, session: Any) -> None:
        session.run(session.store.write(session.transaction, json.dumps(session.state), uuid.uuid4().hex))


class AsyncSection(Section):
    """A holder with an event loop."""

    def __init__(self, url: str) -> None:
        super().__init__(AsyncFencedStore(url))
        self._loop = asyncio.new_event_loop()

    def run(self, work: Coroutine[Any, Any, Any]) -> Any:
        return self._loop.run_until_complete(work)

    def close(self) -> None:
        self.run(self.store.aclose())
        self._loop.close()
