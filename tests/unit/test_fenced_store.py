"""`redlock.fencing.redis_store`: the commands of a store, and the meaning of the replies."""

from __future__ import annotations

import asyncio
import inspect
import logging
from types import SimpleNamespace
from typing import Any, TypeAlias

import pytest

from redlock import ConfigurationError, Stale
from redlock.fencing import AsyncFencedStore, FencedStore
from redlock.fencing.redis_store import REMEMBERED_MS, FencedTransaction, StoreWords

LEASE = SimpleNamespace(fence=7, owner="me")
OPENED: Any = [b"OPEN", 3, b"old"]
AnyStore: TypeAlias = "type[FencedStore | AsyncFencedStore]"


class Redis:
    """A client that keeps the commands, and has a reply for each."""

    def __init__(self, *replies: object, asynchronous: bool) -> None:
        self.sent: list[tuple[object, ...]] = []
        self._replies, self._asynchronous = list(replies), asynchronous

    def _reply(self, *sent: object) -> Any:  # noqa: ANN401 - a reply, or a coroutine
        self.sent.append(sent)
        reply = self._replies.pop(0)

        async def later() -> object:
            return reply

        return later() if self._asynchronous else reply

    def register_script(self, source: bytes) -> Any:  # noqa: ANN401 - a function
        """As a client of redis-py."""
        name = {StoreWords.OPEN: "open", StoreWords.WRITE: "write"}[source]
        return lambda *, keys, args: self._reply(name, keys, args)

    def hget(self, *words: object) -> Any:  # noqa: ANN401
        """As a client of redis-py."""
        return self._reply("hget", *words)

    def hset(self, *words: object) -> Any:  # noqa: ANN401
        """As a client of redis-py."""
        return self._reply("hset", *words)


def done(result: Any) -> Any:  # noqa: ANN401
    """The result of a call of either store."""

    async def awaited() -> object:
        return await result

    return asyncio.run(awaited()) if inspect.isawaitable(result) else result


def store_of(kind: AnyStore, *replies: object, **options: Any) -> tuple[Any, Redis]:  # noqa: ANN401
    """A store, and its Redis with these replies."""
    redis: Any = Redis(*replies, asynchronous=kind is AsyncFencedStore)
    return kind(redis, **options), redis


kinds = pytest.mark.parametrize("kind", [FencedStore, AsyncFencedStore])


@kinds
def test_a_store_sends_keys_and_arguments_to_its_scripts(kind: AnyStore) -> None:
    store, redis = store_of(kind, OPENED, [b"WRITTEN", b"7:new"], None, b"new", 1)
    transaction = done(store.open("x", LEASE))
    assert transaction == ("x", "old", 3, 7, "me")
    assert done(store.write(transaction, "new", "op")) == ("new", 7, True)
    assert done(store.read_unfenced("x")) is None
    assert done(store.read_unfenced("x")) == "new"
    done(store.write_unfenced("x", "set up"))
    assert redis.sent == [
        ("open", ["store:x"], [7, "me"]),
        ("write", ["store:x", "store:x\x01done:op"], [7, "me", 3, "new", REMEMBERED_MS]),
        ("hget", "store:x", "value"),
        ("hget", "store:x", "value"),
        ("hset", "store:x", "value", "set up"),
    ]
    store, redis = store_of(kind, OPENED, prefix="shop:", remembered_ms=1_234)
    done(store.open("x", LEASE))
    assert redis.sent == [("open", ["shop:x"], [7, "me"])]
    assert store._words._remembered_ms == 1_234


@kinds
def test_an_update_is_repeated_for_an_operation_of_its_lease(kind: AnyStore) -> None:
    store, redis = store_of(kind, OPENED, [b"STALE", 7], [b"OPEN", 5, b"between"], [b"WRITTEN", b"7:between+"])
    written = done(store.update("x", LEASE, "op", lambda old: f"{old}+"))
    assert written == ("between+", 7, True)
    assert [sent[0] for sent in redis.sent] == ["open", "write"] * 2
    assert redis.sent[-1][2] == [7, "me", 5, "between+", REMEMBERED_MS]


@kinds
def test_an_update_under_an_old_lease_is_stale(kind: AnyStore, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, "redlock")
    for replies in ([OPENED, [b"STALE", 9]], [[b"STALE", 9]]):
        store, _ = store_of(kind, *replies)
        with pytest.raises(Stale) as stale:
            done(store.update("x", LEASE, "op", lambda old: f"{old}+"))
        assert (stale.value.resource, stale.value.token, stale.value.seen) == ("x", 7, 9)
    assert caplog.messages == ["STALE resource=x token=7 seen=9"] * 2


@kinds
def test_a_store_makes_a_client_of_a_url(kind: AnyStore) -> None:
    store: Any = kind("redis://h:6390/3")
    assert store._redis.connection_pool.connection_kwargs["port"] == 6390


def test_the_text_of_a_transaction_has_no_secret_and_no_value() -> None:
    assert repr(FencedTransaction("x", "old", 3, 7, "me")) == "FencedTransaction('x', number=3, fence=7)"


def test_the_words_of_a_store_carry_every_option() -> None:
    assert REMEMBERED_MS == 604_800_000, "a week"
    words, lease = StoreWords("shop:", 1_234), LEASE
    assert words.opening("x", lease) == (["shop:x"], [7, "me"])
    opened = words.opened("x", lease, [b"OPEN", 3, b"old"])
    assert (opened.value, opened.number) == ("old", 3)
    assert words.opened("x", lease, ["OPEN", 3, None]).value is None
    assert words.keys(opened, "op") == ["shop:x", "shop:x\x01done:op"]
    assert words.arguments(opened, "new") == [7, "me", 3, "new", 1_234]
    with pytest.raises(ConfigurationError):
        words.keys(opened, "")
    for verdict, applied in ((b"WRITTEN", True), ("DUPLICATE", False)):
        written = words.written(opened, [verdict, b"6:a:b"])
        assert (written.value, written.fence, written.applied) == ("a:b", 6, applied)
    for reply in ([b"STALE", 9], ["STALE", b"9"]):
        with pytest.raises(Stale) as stale:
            words.written(FencedTransaction("x", None, 3, 7, "me"), reply)
        assert (stale.value.token, stale.value.seen) == (7, 9)
        with pytest.raises(Stale):
            words.opened("x", lease, reply)
