"""Shared helpers of the tests on real servers: conditions, forks, lock keys, a sixth Redis.

Invariants:
1. A helper waits for a condition, never for a fixed time.
2. Nothing outlives its `with` block.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import unquote

import pytest
from redis import Redis

from redlock import ConfigurationError, Lease, Redlock
from redlock._clock import now_ms
from redlock._transport import codec, connection, connections, pending_releases, pool, threads
from redlock._transport.connection import NodeConnection
from redlock._transport.sockets import Sockets
from redlock.testing import redis_server
from redlock.testing.redis_server import Server, free_port

T = TypeVar("T")

_LONGEST_PAUSE = 0.05

ROOT = Path(__file__).parents[2]

PATIENT = "0.5"
"""The node timeout of commands and of programs that tests start: ten are the default TTL, as the doctor demands."""

LASTING: Any = {"ttl": 240.0, "max_ttl": 240.0}
"""Options of a client whose leases outlast every wait of a test: a lock that is free earlier was released."""

CANARY = "canary-b7Qx"
"""A password that must not appear anywhere."""


def comes_true(condition: Callable[[], T], *, within: float, every: float = 0.005) -> T:
    """Return the first true value of the condition, or its last value after the timeout.

    `every` is the first pause in seconds between two checks. Later pauses are longer, also after costly checks, so that
    tests that wait leave the CPU to the code under test.
    """
    began = time.monotonic()
    while True:
        before = time.monotonic()
        if (value := condition()) or before > began + within:
            return value
        time.sleep(next_pause(every, began, before))


def next_pause(every: float, began: float, checked: float) -> float:
    """The pause after a check that began at `checked`, in a wait that began at `began`."""
    now = time.monotonic()
    return max(every, min(_LONGEST_PAUSE, (now - began) / 50, 4 * (now - checked)))


def leased(client: Redlock, name: str, **options: Any) -> Lease:  # noqa: ANN401 - of the lease
    """A lease of this client, acquired at the first try."""
    lease = client.lease(name, **options)
    lease.acquire(0)
    return lease


def outlive(lease: Lease, *others: Lease) -> None:
    """Return when the lease has been renewed beyond its present deadline. No lease may be lost meanwhile."""
    leases, deadline_ms = (lease, *others), lease._held().deadline_ms
    eventually(
        lambda: now_ms() > deadline_ms or any(one.is_lost for one in leases), "the end of the first TTL", every=0.01
    )
    for one in leases:
        one.ensure_valid()


def renewed(lease: Lease, *others: Lease, client: Redlock | None = None) -> None:
    """Return when each lease has been renewed from now on, at once by this client. No lease may be lost meanwhile."""
    deadlines = {one: one._held().deadline_ms for one in (lease, *others)}
    if client is not None:
        begun_ms = now_ms()
        eventually(lambda: now_ms() > begun_ms, "a later deadline than that of an acquire just now")
        for one in deadlines:
            renew_now(client, one)
    eventually(
        lambda: (
            any(one.is_lost for one in deadlines)
            or all(one._held().deadline_ms > before for one, before in deadlines.items())
        ),
        "a renewal of each lease",
        every=0.01,
    )
    for one in deadlines:
        one.ensure_valid()


def renew_now(client: Redlock, lease: Lease) -> None:
    """Renew a lease at once, instead of after a third of a TTL that is long enough for a busy machine."""
    client._context.renewal.add(lease, now_ms())


def is_told_of(caplog: pytest.LogCaptureFixture, servers: Sequence[Server]) -> bool:
    """Whether the log has these nodes as silent, and later a lease without their votes."""
    silent = {line.split()[1] for line in caplog.messages if line.startswith("node-silent ")}
    acquired = (line for line in caplog.messages if line.startswith("acquired "))
    names = list(map(label, servers))
    return silent.issuperset(f"node={name}" for name in names) and any(
        all(f"{name}: no answer within" in line for name in names) for line in acquired
    )


def eventually(
    condition: Callable[[], T],
    what: str,
    *,
    within: float = 100.0,
    every: float = 0.005,
    despite: type[Exception] | tuple[()] = (),
) -> T:
    """Wait until the condition is true; fail after a time that no healthy machine needs.

    With `despite` the condition is checked again after such an error. A lease that must be short is lost whenever the
    machine pauses for as long, which says nothing about the code under test.
    """
    errors: list[Exception] = []

    def checked() -> T | None:
        try:
            return condition()
        except despite as error:
            errors.append(error)
            return None

    value = comes_true(checked, within=within, every=every)
    assert value, f"still waiting after {within:g} s for this: {what}{f' ({errors[-1]!r})' if errors else ''}"
    return value


def blocked_clients(servers: Iterable[Server]) -> int:
    """How many clients block on these nodes."""
    return sum(int(redis.info("clients")["blocked_clients"]) for redis in raws(servers))


def node_timeout(ttl: float) -> float:
    """The node timeout of tests that are not about silent nodes, for leases of this many seconds.

    No node counts as silent on a busy machine. Two node timeouts are shorter than the TTL, as a client demands.
    """
    return min(2.2, 0.45 * ttl)


def client_of(nodes: Sequence[str], *, ttl: float = 9.0, **options: Any) -> Redlock:  # noqa: ANN401 - of the client
    """A client of these nodes, with a node timeout that fits the shortest TTL of its locks; see `node_timeout`."""
    return Redlock(nodes, ttl=ttl, **{"node_timeout": node_timeout(ttl)} | options)


def label(server: Server) -> str:
    """The name of this server in messages."""
    return unquote(server.url.partition("://")[2])


def raw(server: Server) -> Redis:
    """A plain client of one server."""
    return Redis.from_url(server.url, decode_responses=True)


def raws(servers: Iterable[Server]) -> Iterator[Any]:
    """A plain client of each server, one after the other."""
    for server in servers:
        with raw(server) as redis:
            yield redis


def holders(servers: Iterable[Server], *names: str) -> list[str | None]:
    """The owner tokens of these locks on each of these servers; None without a lock."""
    return [redis.get(name) for redis in raws(servers) for name in names]


def is_free(servers: Iterable[Server], *names: str) -> bool:
    return not any(holders(servers, *names))


def fences(servers: Iterable[Server], name: str) -> list[int]:
    """The fence of this lock on each of these servers; 0 without a fence."""
    return [int(redis.get(codec.fence_key(name)) or 0) for redis in raws(servers)]


def wake_ups(servers: Iterable[Server], name: str) -> list[int]:
    """How many wake-ups of this lock lie on each of these servers."""
    return [int(redis.llen(codec.wake_key(name))) for redis in raws(servers)]


def scripts_run(server: Server) -> int:
    """How many scripts this server has run."""
    with raw(server) as redis:
        return int(redis.info("commandstats").get("cmdstat_evalsha", {"calls": 0})["calls"])


def run_out(servers: Iterable[Server], name: str) -> None:
    """Expire a lock at once: the key disappears, and the fence stays.

    All nodes get the command before any reply is read. Otherwise a renewal could repair each node after its turn.
    """
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(stack.enter_context(raw(server)).client()) for server in servers]
        for redis in clients:
            redis.connection.send_command("DEL", name)
        for redis in clients:
            redis.parse_response(redis.connection, "DEL")


def end_quarantine(server: Server) -> None:
    """Let a server vote that has lost its memory, as if it had abstained for long enough."""
    with raw(server) as redis:
        # The quarantine begins when a client comes.
        eventually(lambda: redis.hexists(codec.RECORD, "run_id"), "a client that meets the server")
        redis.hset(codec.RECORD, "since", 0)


def stands_on_all(servers: Iterable[Server], name: str) -> None:
    """Wait until each of these nodes has the key of a lock: a quorum decides an acquire, and the others come later."""
    eventually(lambda: all(holders(servers, name)), "the lock on all nodes")


def kill_all(servers: Iterable[Server]) -> None:
    """Kill each of these servers; a later start finds what was saved."""
    for server in servers:
        server.kill()


@contextlib.contextmanager
def frozen(*servers: Server) -> Iterator[None]:
    """These servers answer nothing inside the `with` block; their connections stay open."""
    for server in servers:
        server.freeze()
    try:
        yield
    finally:
        for server in servers:
            server.thaw()


def in_a_fork(work: Callable[[], object]) -> object:
    """The result of the function in a forked child, or the name of its error."""
    answer, ask = os.pipe()
    with warnings.catch_warnings():
        # Python 3.12 and later warn of a fork beside other threads, and a dial thread may still be ending.
        warnings.simplefilter("ignore", DeprecationWarning)
        pid = os.fork()
    if pid == 0:
        try:
            result = work()
        except BaseException as exc:  # noqa: BLE001 - the parent gets the error
            result = type(exc).__name__
        os.write(ask, json.dumps(result).encode())
        os._exit(0)
    os.close(ask)
    with os.fdopen(answer, "rb") as told:
        said = told.read()
    os.waitpid(pid, 0)
    return json.loads(said)


@contextlib.contextmanager
def new_server(*options: str, port: int | None = None) -> Iterator[Server]:
    """A server with these options, stopped at the end of the block; no operator has declared it as a lock node."""
    server = Server(port, options)
    try:
        yield server.start()
    finally:
        server.stop()


@contextlib.contextmanager
def sixth_redis(*options: str) -> Iterator[Server]:
    """A server for broker, results and store on a TCP port, which loses no confirmed write."""
    for left in range(5, -1, -1):
        # The same program at each start, because an older version can't read the file of a later version.
        program = redis_server.executable()
        server = Server(free_port(), ("--appendonly", "yes", "--appendfsync", "always", *options), program)
        try:
            server.start()
            break
        except ConfigurationError:
            server.stop()
            if not left:
                raise
    try:
        yield server
    finally:
        server.stop()


def limit_no_pending(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let nodes owe any number of replies."""
    for module in (connection, connections):
        monkeypatch.setattr(module, "MOST_PENDING", 1_000_000_000)


def limit_releases(monkeypatch: pytest.MonkeyPatch, milliseconds: int) -> None:
    """Let a release wait so long for the replies of nodes."""
    for module in (connections, pending_releases, pool, threads):
        monkeypatch.setattr(module, "RELEASE_MS", milliseconds)


def sends(monkeypatch: pytest.MonkeyPatch) -> Callable[[], int]:
    """Count the sends on all connections."""
    count, write = [0], Sockets.write

    def counted(sockets: Sockets, connections: Sequence[NodeConnection]) -> None:
        count[0] += sum(bool(connection.outbox) for connection in connections)
        write(sockets, connections)

    monkeypatch.setattr(Sockets, "write", counted)
    return lambda: count[0]


def unsubscribe(backend: Any) -> None:  # noqa: ANN401 - Celery is untyped
    """Close a result backend in Redis. Else results unsubscribe when they are collected, maybe after their server."""
    consumer = backend.result_consumer
    consumer.stop()
    consumer.subscribed_to.clear()
    # Celery below 5.7 unsubscribes also what is not subscribed.
    consumer._pubsub = None
    backend.client.close()
