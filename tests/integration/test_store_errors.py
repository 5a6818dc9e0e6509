"""The fenced stores: a write that fails leaves nothing half applied."""

from __future__ import annotations

import asyncio
import inspect
import re
from collections.abc import Iterator
from typing import Any, TypeAlias

import pytest
import redis.asyncio
from redis import Redis
from redis.exceptions import RedisError

from redlock import ConfigurationError
from redlock.fencing import AsyncFencedStore, FencedStore
from redlock.fencing.conformance import Lease
from redlock.testing.redis_server import Server
from tests.integration.shell import run_python
from tests.integration.tools import eventually, raw, sixth_redis
from tests.servers import need_redis_7

NAME, KEY = "account", "store:account"
LEASE = Lease(7, "me")
AnyStore: TypeAlias = "type[FencedStore | AsyncFencedStore]"
USER = {"username": "u", "password": "p"}
FORBIDDEN = "(?i)permission|can't run this command"
"""The error after a forbidden command in a script: of Redis 7.2 and later, and of older versions."""
kinds = pytest.mark.parametrize("kind", [FencedStore, AsyncFencedStore])


def ten_more(value: str | None) -> str:
    return str(int(value or 0) + 10)


def call(kind: AnyStore, server: Server, method: str, *arguments: object, **options: Any) -> Any:  # noqa: ANN401
    """The result of a call of a new store with these options of its client."""
    client: Any = (redis.asyncio.Redis if kind is AsyncFencedStore else Redis).from_url(server.url, **options)
    return done(client, getattr(kind(client), method)(*arguments))


def done(client: Any, result: Any) -> Any:  # noqa: ANN401
    """The result of a call of either store; closes the client."""

    async def awaited() -> object:
        try:
            return await result
        finally:
            await client.aclose()

    if inspect.isawaitable(result):
        return asyncio.run(awaited())
    client.close()
    return result


@kinds
@pytest.mark.parametrize("forbidden", ["set", "hset", "hincrby", "hmget", "get"])
def test_a_forbidden_command_applies_nothing(kind: AnyStore, forbidden: str, broker: Server) -> None:
    """The user lost the command after an update: the value and the operation stay as they were."""
    with raw(broker) as admin:
        admin.execute_command("ACL", "SETUSER", "u", "reset", "on", ">p", "~*", "+@all")
        assert call(kind, broker, "update", NAME, LEASE, "op-1", ten_more, **USER).value == "10"
        admin.execute_command("ACL", "SETUSER", "u", f"-{forbidden}")
        for _ in range(2):
            with pytest.raises(RedisError, match=FORBIDDEN):
                call(kind, broker, "update", NAME, LEASE, "op-2", ten_more, **USER)
            assert admin.hget(KEY, "value") == "10"
        admin.execute_command("ACL", "SETUSER", "u", f"+{forbidden}")
        assert call(kind, broker, "update", NAME, LEASE, "op-2", ten_more, **USER) == ("20", 7, True)
        assert call(kind, broker, "update", NAME, LEASE, "op-2", ten_more, **USER) == ("20", 7, False)


@kinds
def test_keys_that_may_only_be_read_apply_nothing(kind: AnyStore, broker: Server) -> None:
    need_redis_7("permissions to read keys only")
    with raw(broker) as admin:
        admin.execute_command("ACL", "SETUSER", "u", "reset", "on", ">p", f"~{KEY}", "%R~*", "+@all")
        for _ in range(2):
            with pytest.raises(RedisError, match=FORBIDDEN):
                call(kind, broker, "update", NAME, LEASE, "op-1", ten_more, **USER)
            assert admin.hget(KEY, "value") is None


@kinds
def test_a_failed_write_leaves_its_section_closed(kind: AnyStore, broker: Server) -> None:
    """Otherwise the transaction could write later with another operation id."""
    with raw(broker) as admin:
        admin.execute_command("ACL", "SETUSER", "u", "reset", "on", ">p", "~*", "+@all", "-set")
        transaction = call(kind, broker, "open", NAME, LEASE)
        with pytest.raises(RedisError, match=FORBIDDEN):
            call(kind, broker, "write", transaction, "10", "op-1", **USER)
        assert admin.hgetall(KEY).keys() == {"fence", "owner", "section", "open"}
        assert admin.hget(KEY, "open") == ""


@kinds
def test_a_store_without_memory_applies_nothing(kind: AnyStore, broker: Server) -> None:
    with raw(broker) as admin:
        transaction = call(kind, broker, "open", NAME, LEASE)
        admin.config_set("maxmemory", "1")
        try:
            with pytest.raises(RedisError, match="maxmemory"):
                call(kind, broker, "write", transaction, "10", "op-1")
        finally:
            admin.config_set("maxmemory", "0")
        assert admin.hget(KEY, "value") is None
        assert call(kind, broker, "write", transaction, "10", "op-1") == ("10", 7, True)


@kinds
@pytest.mark.parametrize("bad", [604_800_000.0, 0, -1, True, "week", 2**63, 10**12 + 1, None])
def test_remembered_ms_is_a_number_that_redis_takes(kind: AnyStore, bad: Any, broker: Server) -> None:  # noqa: ANN401
    with pytest.raises(ConfigurationError, match=r"remembered_ms is .* a whole number from 1 to 1,000,000,000,000"):
        kind(broker.url, remembered_ms=bad)


@kinds
@pytest.mark.parametrize("remembered_ms", [1, 10**12])
def test_the_ends_of_the_range_are_taken(kind: AnyStore, remembered_ms: int, broker: Server) -> None:
    client: Any = (redis.asyncio.Redis if kind is AsyncFencedStore else Redis).from_url(broker.url)
    store = kind(client, remembered_ms=remembered_ms)
    assert done(client, store.update(NAME, LEASE, "op-1", ten_more)) == ("10", 7, True)


@kinds
def test_a_class_is_no_client(kind: AnyStore) -> None:
    given: Any = redis.asyncio.Redis if kind is AsyncFencedStore else Redis
    with pytest.raises(ConfigurationError, match="is the class Redis; give a client of"):
        kind(given)


@kinds
@pytest.mark.parametrize("change", [None, "value"])
def test_a_change_that_is_no_function_opens_nothing(broker: Server, kind: AnyStore, change: object) -> None:
    with pytest.raises(ConfigurationError, match=r"change is .*; it must be a function of the old value"):
        call(kind, broker, "update", NAME, LEASE, "op", change)
    with raw(broker) as store:
        assert not store.exists(KEY)


@kinds
@pytest.mark.parametrize("transaction", [None, NAME])
def test_a_write_needs_a_transaction(broker: Server, kind: AnyStore, transaction: object) -> None:
    with pytest.raises(ConfigurationError, match="is no transaction; give the result of `open`"):
        call(kind, broker, "write", transaction, "value", "op")


@kinds
def test_a_store_takes_an_address_without_a_scheme(broker: Server, kind: AnyStore) -> None:
    store: Any = kind(f"127.0.0.1:{broker.port}")
    client = store if kind is AsyncFencedStore else store._redis
    assert done(client, store.update(NAME, LEASE, "op-1", ten_more)).applied


@pytest.fixture
def node_of_a_cluster() -> Iterator[Server]:
    """A cluster of a single node."""
    with sixth_redis("--cluster-enabled", "yes") as server, raw(server) as admin:
        admin.execute_command("CLUSTER", "ADDSLOTS", *range(16_384))
        eventually(lambda: "cluster_state:ok" in admin.execute_command("CLUSTER", "INFO"), "the cluster is up")
        yield server


@kinds
def test_a_store_in_a_cluster_needs_a_hash_tag(kind: AnyStore, node_of_a_cluster: Server) -> None:
    """A write changes the value and the operation, and the keys of a script must have the same slot."""
    package: Any = redis.asyncio if kind is AsyncFencedStore else redis

    async def used(prefix: str, name: str = NAME) -> object:
        client = package.RedisCluster.from_url(node_of_a_cluster.url)
        try:
            found: Any = kind(client, prefix=prefix).update(name, LEASE, "op-1", ten_more)
            return await found if inspect.isawaitable(found) else found
        finally:
            closed = client.aclose() if kind is AsyncFencedStore else client.close()
            await closed if inspect.isawaitable(closed) else None

    for prefix in ("store:", "{}:", "{store:"):
        with pytest.raises(ConfigurationError, match=f"the key '{re.escape(prefix)}account' .* has no hash tag"):
            asyncio.run(used(prefix))
    for tagged in (("my-{store}:", NAME), ("store:", "{account:42}")):
        assert [asyncio.run(used(*tagged)) for _ in range(2)] == [("10", 7, True), ("10", 7, False)]


IN_LOOPS = """
import asyncio, sys
from redlock.fencing import AsyncFencedStore
from tests.integration.test_store_errors import LEASE, NAME, ten_more
store = AsyncFencedStore(sys.argv[1])
async def use(number):
    await store.update(NAME, LEASE, f"op-{number}", ten_more)
    return await store.read_unfenced(NAME)
print([asyncio.run(use(number)) for number in range(3)], asyncio.run(store.read_unfenced(NAME)))
asyncio.run(store.write_unfenced(NAME, "40"))
async def end():
    await store.aclose()
    print((await store.open(NAME, LEASE)).value)
    await store.aclose()
asyncio.run(end())
"""


def test_a_store_from_a_url_works_in_loop_after_loop(broker: Server) -> None:
    """In a program of its own: redis-py closes the sockets of a closed loop at some later time, with a warning."""
    ran = run_python("-c", IN_LOOPS, broker.url)
    assert (ran.stdout, ran.returncode) == ("['10', '20', '30'] 30\n40\n", 0), ran.stderr
