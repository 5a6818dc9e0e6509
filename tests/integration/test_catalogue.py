"""Every public call against every kind of bad node: outcomes, and time only as a generous bound."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from typing import Any

import pytest

from redlock import LockLost, QuorumUnavailable, Redlock
from redlock._transport import codec
from redlock.admin.cluster_status import cluster_status
from redlock.testing.redis_server import Cluster
from tests.integration.threads import started
from tests.integration.tools import LASTING, client_of, eventually, is_free, outlive, raw
from tests.proxy import (
    Proxy,
    always,
    byte_by_byte,
    dripping,
    endless_garbage,
    half_a_reply,
    half_a_reply_then_reset,
    proxies,
)

Bad = Callable[[Sequence[Proxy]], AbstractContextManager[list[str]]]
"""Makes the servers behind these bad; gives the addresses that lead to them."""

T = 2.2
BOUND = 60.0
"""Twenty times two node timeouts."""


@contextmanager
def black_hole(links: Sequence[Proxy]) -> Iterator[list[str]]:
    for link in links:
        link.hold("to", "from")
    yield [link.url for link in links]
    for link in links:
        link.restore()


slower_than_any_timeout = dripping(0.1)
"""Each reply takes longer than a node timeout, and no pause between two bytes does."""


def answering(passing: Callable[..., Any]) -> Bad:
    @contextmanager
    def bad(links: Sequence[Proxy]) -> Iterator[list[str]]:
        for link in links:
            link.passing = passing
        yield [link.url for link in links]

    return bad


@contextmanager
def unfinished_tls(links: Sequence[Proxy]) -> Iterator[list[str]]:
    with black_hole(links) as urls:
        yield [url.replace("redis:", "rediss:") for url in urls]


@contextmanager
def dripping_tls(links: Sequence[Proxy]) -> Iterator[list[str]]:
    """A server that begins a TLS record and sends it for ever, a byte at a time."""

    async def begin(_: bytes, writer: asyncio.StreamWriter) -> None:
        await byte_by_byte(b"\x16\x03\x03\x3f\xff" + bytes(16_000), writer)

    for link in links:
        link.passing = begin
    yield [link.url.replace("redis:", "rediss:") for link in links]


@contextmanager
def hanging_name(links: Sequence[Proxy]) -> Iterator[list[str]]:
    """Names that the system's resolver does not come back from."""
    end, real = threading.Event(), socket.getaddrinfo

    def resolve(host: str, *args: object, **kwargs: object) -> object:
        if host.endswith(".hangs.example") and not kwargs.get("flags"):
            end.wait(60)
            raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")
        return real(host, *args, **kwargs)  # type: ignore[arg-type]

    socket.getaddrinfo = resolve  # type: ignore[assignment]
    try:
        yield [f"redis://node-{place}.hangs.example:6379" for place, _ in enumerate(links)]
    finally:
        socket.getaddrinfo = real
        end.set()


@contextmanager
def client_pause(links: Sequence[Proxy]) -> Iterator[list[str]]:
    for link in links:
        with raw(link._server) as redis:
            redis.client_pause(60_000)
    # A paused server accepts no command to end the pause; the pause ends with the cluster.
    yield [link.url for link in links]


CATALOGUE: dict[str, Bad] = {
    "black hole": black_hole,
    "one byte per 100 ms": answering(slower_than_any_timeout),
    "reset in mid-reply": answering(half_a_reply_then_reset),
    "garbage": answering(always(b"\xff\x00garbage" * 100)),
    "endless garbage": answering(endless_garbage),
    "half-closed": answering(half_a_reply),
    "endless text": answering(always(b"$999999999999\r\n" + b"x" * 65_536)),
    "huge list": answering(always(b"*4294967295\r\n")),
    "long list": answering(always(b"*500000000\r\n")),
    "map of lists": answering(always(b"%1\r\n*0\r\n+x\r\n")),
    "NOSCRIPT to everything": answering(always(b"-NOSCRIPT No matching script\r\n" * 10)),
    "hanging name resolution": hanging_name,
    "unfinished TLS handshake": unfinished_tls,
    "dripping TLS handshake": dripping_tls,
    "CLIENT PAUSE": client_pause,
}


IN_PLACE = [kind for kind in CATALOGUE if "TLS" not in kind and "name" not in kind]
"""Faults of an existing connection."""


def kinds(among: Iterable[str], *often: str) -> list[Any]:
    """These as parameters, of which `make test` runs some."""
    return [kind if kind in often else pytest.param(kind, marks=pytest.mark.long) for kind in among]


@contextmanager
def mixed(nodes: Cluster, kind: str, bad: int, *, later: bool = False) -> Iterator[Redlock]:
    """A client of five nodes; the first nodes are bad from the start, or from the first lock on."""
    with proxies(nodes.servers[:bad]) as links:
        if later:
            with client_of([*(link.url for link in links), *nodes.urls[bad:]], node_timeout=T, **LASTING) as client:
                with client.lock("before"):
                    pass
                with CATALOGUE[kind](links):
                    yield client
        else:
            with (
                CATALOGUE[kind](links) as urls,
                client_of([*urls, *nodes.urls[bad:]], node_timeout=T, **LASTING) as client,
            ):
                yield client


def within_the_bound(work: Callable[[], object], more: float = 0.0) -> None:
    started = time.monotonic()
    work()
    assert time.monotonic() - started < BOUND + 10 * more


def use(client: Redlock, nodes: Cluster) -> None:
    """Every public call, each with its outcome where three nodes are good."""
    lock = client.lock("x", blocking_timeout=0.2)
    within_the_bound(lambda: lock.acquire(blocking=False))
    assert lock.owned()
    within_the_bound(lambda: lock.extend(0.5))
    within_the_bound(lock.locked)
    within_the_bound(lambda: client.holder("x"))
    other = client.lock("x")
    done: list[bool] = []
    with ThreadPoolExecutor(1) as pool:
        within_the_bound(lambda: done.append(pool.submit(other.acquire, blocking_timeout=0.2).result()), 0.2)
    assert done == [False], "it is held"
    within_the_bound(lock.release)
    within_the_bound(lambda: lock.acquire(blocking_timeout=0.2), 0.2)
    within_the_bound(lock.release)
    asynchronous = client.lock("y", wait_for_release=False)
    for _ in range(3):
        within_the_bound(asynchronous.acquire)
        within_the_bound(asynchronous.release)
    within_the_bound(client.close, 0.3)
    eventually(lambda: all(is_free(nodes.servers[2:], name) for name in "xy"), "the release on the good nodes")


@pytest.mark.parametrize(
    "kind",
    kinds(
        CATALOGUE,
        "black hole",
        "one byte per 100 ms",
        "endless garbage",
        "map of lists",
        "hanging name resolution",
        "unfinished TLS handshake",
    ),
)
def test_two_bad_nodes_of_five_decide_nothing(nodes: Cluster, kind: str) -> None:
    with mixed(nodes, kind, 2) as client:
        use(client, nodes)


@pytest.mark.parametrize(
    "kind", kinds(IN_PLACE, "black hole", "one byte per 100 ms", "reset in mid-reply", "half-closed")
)
def test_two_nodes_that_become_bad_decide_nothing(nodes: Cluster, kind: str) -> None:
    with mixed(nodes, kind, 2, later=True) as client:
        use(client, nodes)


@pytest.mark.parametrize("kind", kinds(CATALOGUE, "one byte per 100 ms", "hanging name resolution"))
def test_a_renewed_lease_survives_two_bad_nodes(nodes: Cluster, kind: str) -> None:
    with mixed(nodes, kind, 2) as client, client.lock("x", ttl=5.0) as lease:
        outlive(lease)


@pytest.mark.parametrize("kind", kinds(CATALOGUE, "black hole", "garbage", "hanging name resolution"))
def test_without_a_quorum_every_call_ends_with_a_reason(nodes: Cluster, kind: str) -> None:
    with mixed(nodes, kind, 3) as client:
        lock = client.lock("x")

        def unavailable(work: Callable[[], object], more: float = 0.0) -> None:
            def fail() -> None:
                with pytest.raises(QuorumUnavailable) as caught:
                    work()
                assert len(caught.value.reasons) >= 3

            within_the_bound(fail, more)

        unavailable(lambda: lock.acquire(blocking=False))
        unavailable(lambda: lock.acquire(blocking_timeout=0.2), 0.2)
        unavailable(lambda: client.holder("x"))
        unavailable(lock.locked)
        within_the_bound(client.close, 0.3)


@pytest.mark.parametrize("kind", kinds(IN_PLACE, "one byte per 100 ms", "huge list"))
def test_a_lease_whose_quorum_becomes_bad_ends_with_a_reason(nodes: Cluster, kind: str) -> None:
    with mixed(nodes, kind, 3, later=True) as client:
        lock = client.lock("x", ttl=5.0)
        with pytest.raises((QuorumUnavailable, LockLost)):
            lock.acquire(blocking=False)
            lock.extend(0.1)


@pytest.mark.parametrize(
    "kind", kinds(CATALOGUE, "one byte per 100 ms", "endless text", "hanging name resolution", "dripping TLS handshake")
)
def test_a_survey_of_a_bad_node_leaves_no_thread(nodes: Cluster, kind: str) -> None:
    with proxies(nodes.servers[:1]) as links, CATALOGUE[kind](links) as urls:

        def look() -> None:
            seen = cluster_status([*urls, *nodes.urls[1:]], timeout=T)
            assert [node.votes for node in seen.nodes] == [False, True, True, True, True]
            assert seen.nodes[0].reason

        for _ in range(3):
            within_the_bound(look, 4 * T)
        # A single further lookup may be under way in the resolver, for any number of probes.
        eventually(lambda: len(threads()) <= (kind == "hanging name resolution"), "the end of the looks")


def threads() -> list[str]:
    names = [thread.name for thread in threading.enumerate()]
    return [name for name in names if name.startswith(("redlock-status", "redlock-resolve", "redlock-handshake"))]


@pytest.mark.parametrize(
    "work",
    [
        lambda client: client.lock("y").acquire(blocking=False),
        lambda client: client.lock("y").acquire(blocking_timeout=3.0),
        lambda client: client.holder("x"),
    ],
    ids=["one try", "a wait", "a question"],
)
def test_connections_that_a_firewall_forgot_are_dialled_anew(nodes: Cluster, work: Callable[[Redlock], object]) -> None:
    with proxies(nodes.servers) as links, client_of([link.url for link in links]) as client, client.lock("x"):
        for link in links:
            link.drop_connections()
        assert work(client)


def test_the_local_queue_goes_on_where_the_waiting_node_drips(nodes: Cluster) -> None:
    name = next(name for name in map(str, range(100)) if codec.waiting_order((name,), 5)[0] == 0)
    with client_of(nodes.urls, **LASTING) as good, proxies(nodes.servers[:1]) as links:
        held = good.lock(name)
        assert held.acquire()
        links[0].passing = slower_than_any_timeout
        with Redlock([links[0].url, *nodes.urls[1:]], node_timeout=T, **LASTING) as client:
            done: list[bool] = []

            def wait(seconds: float) -> None:
                done.append(client.lock(name).acquire(blocking_timeout=seconds))

            short = [started(partial(wait, 0.3)) for _ in range(4)]
            long = started(partial(wait, 200.0))
            for thread in short:
                thread.join()
            assert done == [False] * 4
            held.release()
            long.join(100)
            assert done == [False] * 4 + [True]
