"""Exceptions of the kind that sockets raise, raised by a signal handler: they reach the caller, and blame no node."""

from __future__ import annotations

import asyncio
import errno
import functools
import select
import socket
import time
from collections.abc import Callable, Iterator

import pytest

from redlock._clock import now_ms
from redlock._core.commands import Inspect
from redlock._transport import codec
from redlock._transport.codec import pack
from redlock._transport.connections import NodeConnections
from redlock._transport.exchange import Exchange
from redlock._transport.loop_exchange import LoopExchange
from redlock._transport.loop_sockets import LoopSockets
from redlock._transport.node import Node
from redlock._transport.socket_errors import ConnectionFailed, NoReply
from redlock._transport.sockets import Sockets
from redlock.admin import broker_check, database_check
from redlock.testing.redis_server import Cluster
from tests.integration.alarms import alarm
from tests.integration.asyncio_tools import until
from tests.integration.tools import LASTING, blocked_clients, client_of

NAME, WHY = "handled", "an alarm of the application"
WORDS = pack("PING")


@pytest.mark.parametrize(
    "error", [TimeoutError(WHY), ConnectionResetError(errno.ECONNRESET, WHY)], ids=["timeout", "reset"]
)
def test_an_alarm_ends_a_wait(nodes: Cluster, error: Exception) -> None:
    # Nothing renews the lease of the rival while this thread waits.
    with client_of(nodes.urls, node_timeout=9.0, **LASTING) as client, client.lock(NAME):
        with alarm(error, lambda: blocked_clients(nodes.servers)), pytest.raises(type(error), match=WHY):
            client.lock(NAME).acquire(blocking_timeout=100)
        assert not any(node.error for node in client._context.nodes)
        assert not client.lock(NAME).acquire(blocking=False), "the client works on"


@pytest.mark.parametrize("error", [TimeoutError(WHY), ValueError(WHY)], ids=["timeout", "value"])
@pytest.mark.parametrize(
    ("check", "url"),
    [
        (broker_check.check, "amqp://127.0.0.1:{}//"),
        (functools.partial(database_check.check, ttl=5.0), "postgresql+psycopg://127.0.0.1:{}/shop?sslmode=disable"),
    ],
    ids=["broker", "database"],
)
def test_an_alarm_ends_a_check_of_the_doctor(error: Exception, check: Callable[..., object], url: str) -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as silent,
        alarm(error, lambda: select.select([silent], [], [], 0)[0]),
        pytest.raises(type(error), match=WHY),
    ):
        check(url.format(silent.getsockname()[1]), timeout=100.0)


class Struck(socket.socket):
    """A socket; a signal handler raises an exception during each of its calls."""

    def send(self, *_: object) -> int:
        raise TimeoutError(WHY)

    def recv(self, *_: object) -> bytes:
        raise TimeoutError(WHY)


@pytest.fixture
def exchange() -> Iterator[Exchange]:
    """A connection with data to read."""
    near, far = socket.socketpair()
    far.send(b"+PONG\r\n")
    exchange = Exchange(Struck(fileno=near.detach()))
    far.settimeout(10)
    with far:
        yield exchange
    exchange.close()


def test_an_alarm_in_an_exchange_is_raised(exchange: Exchange) -> None:
    until = time.monotonic() + 100
    with pytest.raises(TimeoutError, match=WHY):
        exchange.send(WORDS, until)
    for deadline in (until, None):
        with pytest.raises(TimeoutError, match=WHY):
            exchange.answer(deadline)


def test_an_alarm_in_a_round_is_raised(exchange: Exchange) -> None:
    node = Node("redis://h:1", 100)
    state = NodeConnections([node], codec.Codec(1, "", 10_000), 100, now_ms())
    sockets = Sockets([node], state)
    exchange.run_id = "0" * 40
    sockets.adopt(state.all[0], exchange)
    with pytest.raises(TimeoutError, match=WHY):
        sockets.receive(sockets.wait(10_000))
    state.all[0].outbox = WORDS
    with pytest.raises(TimeoutError, match=WHY):
        sockets.write(state.all)
    assert state.all[0].handle is not None, "no node has failed"
    sockets.abandon()


async def test_an_alarm_in_an_event_loop_blames_no_node(exchange: Exchange) -> None:
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, __: None)
    waiting = LoopExchange(exchange, loop)
    with pytest.raises(TimeoutError, match=WHY):
        waiting.send(WORDS)
    with pytest.raises(TimeoutError, match=WHY):
        waiting._on_readable()
    assert waiting.is_open
    node = Node("redis://h:1", 100)
    state = NodeConnections([node], codec.Codec(1, "", 10_000), node.timeout_ms, 0)
    iterations: list[int] = []
    sockets = LoopSockets([node], state, loop, lambda: iterations.append(1))
    for call in (sockets.flush, sockets.read_all):
        state.to_close.clear()
        iterations.clear()
        state.connected(state.all[0], exchange, "0" * 40, "")
        state.all[0].outbox = WORDS
        with pytest.raises(TimeoutError, match=WHY):
            call()
        assert state.all[0].reason == "interrupted in the middle of a command"
        assert not node.error, "no node has failed"
        await until(lambda: iterations, "the next iteration, which tells the rounds", every=0)
    sockets.abandon("closed")


async def test_an_alarm_in_a_send_holds_up_no_other_node(exchange: Exchange) -> None:
    """The next iteration of the loop sends the rest, and sets the timers that are missing."""
    near, far = socket.socketpair()
    timers: list[int] = []

    def sent() -> None:
        timers.append(1)
        if len(timers) == 1:
            raise TimeoutError(WHY)

    with far:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, __: None)
        nodes = [Node("redis://h:1", 100), Node("redis://h:2", 100)]
        state = NodeConnections(nodes, codec.Codec(2, "", 10_000), 100, 0)
        sockets = LoopSockets(nodes, state, loop, print)
        for connection, one in zip(state.all, (exchange, Exchange(near)), strict=True):
            state.connected(connection, one, str(connection.place) * 40, "")
            connection.outbox = WORDS
        sockets.send_soon(Inspect((NAME,)), sent)
        await until(lambda: len(timers) >= 2, "the second try of the timer")
        sockets.abandon("closed")
        assert len(timers) == 2
        far.settimeout(0)
        assert far.recv(1_000) == WORDS


def test_nothing_follows_half_of_a_command() -> None:
    near, far = socket.socketpair()
    far.settimeout(10)
    with far:
        exchange = Exchange(near)
        with pytest.raises(NoReply):
            exchange.send(b"x" * 10_000_000, time.monotonic() + 0.01)
        with pytest.raises(ConnectionFailed):
            exchange.send(b"PING\r\n", time.monotonic() + 1)
        while piece := far.recv(1_000_000):
            assert b"PING" not in piece
