"""Adapters of the conformance kit for the fenced stores: value and journal are one JSON text in Redis."""

from __future__ import annotations

import asyncio
import contextlib
import json
import uuid
from collections.abc import Coroutine, Iterator
from typing import Any

from redis import Redis

from redlock.errors import Stale
from redlock.fencing import AsyncFencedStore, FencedStore, FencedTransaction
from redlock.fencing.conformance import Lease, Write

NAMES = ("account", "acc", "ACC", "acc ")
EMPTY = '{"value": 0, "journal": []}'


class Overtaken(Exception):
    """Another section of the same lease came between, so the work is repeated."""


class Section:
    """A holder: a transaction for each name of the lease, and the states that the holder has changed."""

    def __init__(self, store: Any) -> None:
        self.store = store
        self.transactions: dict[str, FencedTransaction] = {}
        self.changed: dict[str, Any] = {}

    def state(self, resource: str) -> Any:
        return json.loads(self.transactions[resource].value or EMPTY)


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
        for name in lease.names:
            session.transactions[name] = self.done(session, session.store.open(name, lease))

    def end(self, session: Any) -> None:
        for name, state in session.changed.items():
            write = session.store.write(session.transactions[name], json.dumps(state), uuid.uuid4().hex)
            self.done(session, write)

    def done(self, session: Any, result: Any) -> Any:
        return result

    @contextlib.contextmanager
    def fenced(self, session: Any, lease: Lease) -> Iterator[None]:
        try:
            self.begin(session, lease)
            yield
            self.end(session)
        except Stale as stale:
            if stale.seen == lease.fence and session.transactions:
                raise Overtaken from stale
            raise

    def look(self, session: Any, resource: str) -> None:
        session.looked = self.value(resource)

    def read(self, session: Any, resource: str) -> int:
        return int(session.state(resource)["value"])

    def write(self, session: Any, write: Write, value: int) -> None:
        journal = session.state(write.resource)["journal"]
        session.changed[write.resource] = {"value": value, "journal": [*journal, write]}

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

    def done(self, session: Any, result: Any) -> Any:
        return session.run(result)


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
