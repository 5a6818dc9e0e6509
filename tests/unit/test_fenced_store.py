"""`redlock.fencing.redis_store`: the commands of a store, and the meaning of the replies."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import logging
import traceback
from types import SimpleNamespace
from typing import Any, TypeAlias

import pytest
import redis.asyncio
import redis.utils

from redlock import ConfigurationError, LockLost, Stale
from redlock.fencing import AsyncFencedStore, FencedStore
from redlock.fencing._turns import left, pauses
from redlock.fencing.redis_store import REMEMBERED_MS, FencedTransaction, StoreWords

LEASE = SimpleNamespace(fence=7, owner="me", remaining=lambda: 60.0)
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
        name = {StoreWords.OPEN: "open", StoreWords.WRITE: "write"}[source]
        return lambda *, keys, args: self._reply(name, keys, args)

    def hget(self, *words: object) -> Any:  # noqa: ANN401
        return self._reply("hget", *words)

    def hset(self, *words: object) -> Any:  # noqa: ANN401
        return self._reply("hset", *words)


def done(result: Any) -> Any:  # noqa: ANN401
    """The result of a call of either store."""

    async def awaited() -> object:
        return await result

    return asyncio.run(awaited()) if inspect.isawaitable(result) else result


def store_of(kind: AnyStore, *replies: object, **options: Any) -> tuple[Any, Redis]:  # noqa: ANN401
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
def test_an_update_is_repeated_for_an_operation_of_its_lease(kind: AnyStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("redlock._chance.fraction", lambda: 0.0)
    monkeypatch.setattr("time.sleep", lambda _: None)
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


def test_the_pauses_of_a_store_grow_and_end_with_the_lease(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("redlock._chance.fraction", lambda: 0.5)
    lefts = [60.0] * 12 + [0.5, 0.0]
    found = []
    with pytest.raises(LockLost, match="other operations of the same lease"):
        for pause in pauses("x", SimpleNamespace(fence=7, owner="me", remaining=lambda: lefts.pop(0))):
            found.append(pause)  # noqa: PERF402 - the end is an error
    assert found == [*(0.005 * 2**number for number in range(10)), 5.0, 5.0, 0.25]
    endless = SimpleNamespace(fence=7, owner="me", remaining=lambda: float("inf"))
    assert left("x", endless) == 10.0, "then the lease is checked again"


@kinds
@pytest.mark.parametrize(
    "url",
    [
        "redis://user:hunter2/secret@host:6379/0",
        "redis://user:hunter2#secret@host:6379/0",
        "redis://user:hunter2?secret@host:6379/0",
        "redis://user:[hunter2@host:6379/0",
        "redis://user:hunter2@host:63790000/0",
        "reddis://user:hunter2@host:6379/0",
        "redis://user:hunter2@host:6379/0?socket_timeout=hunter2",
        "redis://user:hunter2@host:6379/0?hunter2=1",
        "redis://user:hunter2@host:6379/0?protocol=hunter2",
        "redis://user:hunter2@host:6379/0?encoding=hunter2",
        "redis://user:hunter2@host:6379/0?protocol=9",
        "redis://user:hunter2@host:6379/0?credential_provider=hunter2",
        "redis://user:hunter2@host:6379/0?max_connections=-1",
        "redis://user:hunter2@host:6379/0?maint_notifications_config=hunter2",
    ],
)
def test_a_wrong_url_is_refused_without_its_password(kind: AnyStore, url: str) -> None:
    with pytest.raises(ConfigurationError, match=r"the (address|client) of the fenced store") as caught:
        kind(url)
    assert "hunter2" not in "".join(traceback.format_exception(caught.value, chain=True)).replace(url, "")
    assert caught.value.__context__ is None


@pytest.mark.parametrize("size", [2**64, 2**62])
def test_a_buffer_that_is_too_large_is_refused(size: int) -> None:
    refused: Any = pytest.raises(ConfigurationError, match="an option")
    # Without hiredis, redis-py makes no buffer before it connects.
    with refused if redis.utils.HIREDIS_AVAILABLE else contextlib.nullcontext():
        FencedStore(f"redis://host:6379/0?socket_read_size={size}")


@kinds
def test_an_alarm_while_a_client_is_made_is_raised(kind: AnyStore, monkeypatch: pytest.MonkeyPatch) -> None:
    def from_url(*_: object, **__: object) -> None:
        raise TimeoutError

    for made in (redis.Redis, redis.asyncio.Redis):
        monkeypatch.setattr(made, "from_url", from_url)
    with pytest.raises(TimeoutError):
        kind("redis://host:6379/0")


@kinds
@pytest.mark.parametrize("wrong", [None, b"redis://user:hunter2@host:6379/0", 5])
def test_what_is_no_client_is_refused(kind: AnyStore, wrong: Any) -> None:  # noqa: ANN401
    right = "it must be a client of redis-py, or the URL of a Redis"
    with pytest.raises(ConfigurationError, match=f"store is {type(wrong).__name__}; {right}"):
        kind(wrong)


@kinds
def test_the_client_of_the_other_store_is_refused(kind: AnyStore) -> None:
    of_threads, of_asyncio = redis.Redis(), redis.asyncio.Redis()
    wrong: tuple[Any, ...] = (of_asyncio, of_asyncio.pipeline(), of_threads.pipeline())
    name = "AsyncFencedStore"
    if kind is AsyncFencedStore:
        wrong, name = (of_threads, *wrong[1:]), "FencedStore"
    for client in wrong:
        with pytest.raises(ConfigurationError, match=rf"the client of the fenced store is redis.* or use `{name}`"):
            kind(client)


@kinds
def test_a_client_with_another_encoding_is_refused(kind: AnyStore) -> None:
    clients: Any = redis.asyncio if kind is AsyncFencedStore else redis
    assert kind(clients.Redis(encoding="UTF8"))
    for client in (clients.Redis(encoding="latin-1"), clients.Redis(encoding="none")):
        with pytest.raises(ConfigurationError, match="another encoding than UTF-8"):
            kind(client)


@kinds
@pytest.mark.parametrize("bad", [b"\xff\xfe", b"text", None, 5, 1.5, True, ["x"], "\ud800"])
def test_a_value_that_is_no_text_is_not_sent(kind: AnyStore, bad: Any) -> None:  # noqa: ANN401
    store, redis = store_of(kind, OPENED)
    with pytest.raises(ConfigurationError, match="a value for the fenced store"):
        done(store.update("x", LEASE, "op", lambda _: bad))
    assert [sent[0] for sent in redis.sent] == ["open"]
    with pytest.raises(ConfigurationError, match="a value for the fenced store"):
        done(store.write_unfenced("x", bad))


@kinds
@pytest.mark.parametrize(
    ("lease", "fault"),
    [
        (None, "NoneType is no lease; give the lease of a `with` block"),
        ("lease", "str is no lease"),
        (SimpleNamespace(fence=7, owner="me"), "SimpleNamespace is no lease"),
        (SimpleNamespace(fence=7, owner="me", remaining=5.0), "SimpleNamespace is no lease"),
        (SimpleNamespace(fence=7, owner=5, remaining=float), "the owner token of the lease is int; it must be text"),
        (SimpleNamespace(fence=7, owner="\ud800", remaining=float), "half a surrogate pair"),
        (SimpleNamespace(fence=0, owner="me", remaining=float), "fencing token 0 cannot be used"),
        (SimpleNamespace(fence=2**53, owner="me", remaining=float), "the largest token of a fenced store is"),
    ],
)
def test_what_is_no_lease_is_not_sent(kind: AnyStore, lease: Any, fault: str) -> None:  # noqa: ANN401
    store, redis = store_of(kind)
    with pytest.raises(ConfigurationError, match=fault):
        done(store.open("x", lease))
    with pytest.raises(ConfigurationError, match=fault):
        done(store.update("x", lease, "op", lambda old: f"{old}+"))
    assert redis.sent == []


@kinds
def test_an_update_checks_its_operation_first(kind: AnyStore) -> None:
    store, redis = store_of(kind)
    with pytest.raises(ConfigurationError, match="operation id"):
        done(store.update("x", LEASE, "", lambda old: f"{old}+"))
    with pytest.raises(ConfigurationError, match="operation id"):
        done(store.write(FencedTransaction("x", None, 3, 7, "me"), "new", ""))
    assert redis.sent == []


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
    assert words.writing(opened, "new", "op") == (["shop:x", "shop:x\x01done:op"], [7, "me", 3, "new", 1_234])
    with pytest.raises(ConfigurationError):
        words.writing(opened, "new", "")
    for verdict, applied in ((b"WRITTEN", True), ("DUPLICATE", False)):
        written = words.written(opened, [verdict, b"6:a:b"])
        assert (written.value, written.fence, written.applied) == ("a:b", 6, applied)
    for reply in ([b"STALE", 9], ["STALE", b"9"]):
        with pytest.raises(Stale) as stale:
            words.written(FencedTransaction("x", None, 3, 7, "me"), reply)
        assert (stale.value.token, stale.value.seen) == (7, 9)
        with pytest.raises(Stale):
            words.opened("x", lease, reply)
