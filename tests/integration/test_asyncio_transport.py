"""Rounds and blocking reads of one event loop: late denials, the end of the client, and connections that failed."""

from __future__ import annotations

import asyncio
import select
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from redlock import QuorumUnavailable, RedlockError
from redlock._clock import wall_us
from redlock._core import protocol
from redlock._core.commands import Acquire, Round
from redlock._core.vote_tally import VoteTally
from redlock._core.votes import RoundResult
from redlock._transport.connection import NodeConnection
from redlock._transport.exchange import Exchange
from redlock._transport.loop_exchange import LoopExchange
from redlock._transport.loop_sockets import LoopSockets
from redlock._transport.reply_reader import UnreadableReply
from redlock._transport.socket_errors import ConnectionFailed, NoReply
from redlock.testing.redis_server import Cluster
from tests.integration.asyncio_tools import client_of, next_turn, until
from tests.integration.tools import LASTING, frozen

NAME = "transport"


async def test_a_denial_that_has_arrived_needs_no_cancel(shared: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """The third denial decides the round. The other two are in their sockets: they count too."""
    async with client_of(shared.urls) as client, client.lock(NAME, renew=False):
        connections = client._context.parts().connections
        state = connections.state
        await until(lambda: all(one.is_fit for one in state.all) and not state.is_awaited, "all have answered")
        begun: list[Round] = []
        ended: list[VoteTally] = []
        begin, finish = state.begin, state.finish

        def noted(round_: Round, *arguments: Any) -> VoteTally:  # noqa: ANN401 - those of `begin`
            begun.append(round_)
            return begin(round_, *arguments)

        def noted_end(tally: VoteTally, now: int) -> RoundResult:
            ended.append(tally)
            return finish(tally, now)

        monkeypatch.setattr(state, "begin", noted)
        monkeypatch.setattr(state, "finish", noted_end)
        execution = connections.start(protocol.acquire(Acquire((NAME,), "another:token", 1_000, wall_us())))
        connections.sockets.flush()
        for one in state.all:
            select.select([one.handle.sock], [], [], 10)
        await asyncio.wait({execution.future})
        assert [type(round_.command) for round_ in begun] == [Acquire]
        assert len(ended) == 1, "a late denial ends the round again"


async def test_a_stall_in_a_send_makes_no_node_silent(nodes: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """The clock of the loop jumps instead, for longer than a node timeout."""
    loop, jumps, write = asyncio.get_running_loop(), [0.0], LoopSockets._write
    time = loop.time

    def write_slowly(own: LoopSockets, connection: NodeConnection) -> None:
        jumps.append(20.0)
        write(own, connection)

    async with client_of(nodes.urls, node_timeout=9.0, **LASTING) as client:
        lock = client.lock(NAME)
        await lock.acquire()
        monkeypatch.setattr(loop, "time", lambda: time() + sum(jumps))
        monkeypatch.setattr(LoopSockets, "_write", write_slowly)
        with frozen(*nodes.servers):
            extension = asyncio.create_task(lock.extend(200.0, replace_ttl=True))
            await until(lambda: len(jumps) > len(nodes.servers), "the command is sent to all nodes")
            await next_turn()
        assert await extension


@pytest.mark.parametrize("awaited", ["dials", "replies"])
async def test_a_round_ends_at_once_when_its_client_is_closed(shared: Cluster, awaited: str) -> None:
    """The nodes are frozen: otherwise all dials can end before the round begins to wait for them."""
    async with client_of(shared.urls) as client:
        connections = client._context.parts().connections
        if awaited == "replies":
            assert not await client.lock(NAME).locked()
            await until(lambda: all(one.is_fit for one in connections.state.all), "all are connected")
        with frozen(*shared.servers):
            execution = connections.start(protocol.inspect(NAME))
            assert bool(connections.awaits_dial) is (awaited == "dials")
            connections.abandon()
        assert execution.future.done()
        with pytest.raises(RedlockError, match="client was closed"):
            execution.future.result()
        assert not connections.executions
        assert not connections.awaits_dial


async def test_a_node_is_dialled_once_after_an_interruption(shared: Cluster) -> None:
    """An exception can leave a dial in the list of the state, although the dial was started."""
    async with client_of(shared.urls) as client, client.lock(NAME):
        connections = client._context.parts().connections
        state, sockets = connections.state, connections.sockets
        state.to_dial.append(state.all[0])
        sockets.dial()
        assert (sockets._dials, state.to_dial) == ({}, [])


async def test_an_acquire_ends_in_time_while_tasks_keep_the_nodes(shared: Cluster) -> None:
    async with client_of(shared.urls, node_timeout=2.0) as client:
        window = client._context.parts().window
        for number in range(64):
            assert await window.enter(number, ("another",))
        task = asyncio.create_task(client.lock(NAME, blocking_timeout=0.1).acquire())
        done, _ = await asyncio.wait({task}, timeout=100)
        assert done, "the task waits for the others without end"
        with pytest.raises(QuorumUnavailable, match="other tasks"):
            task.result()
        for number in range(64):
            window.leave(number, ("another",))
        async with client.lock(NAME, blocking=False):
            assert not window._inside


@contextmanager
def connected() -> Iterator[tuple[LoopExchange, socket.socket, socket.socket]]:
    """An exchange, its socket, and the socket of its node."""
    own, node = socket.socketpair()
    own.settimeout(0)
    exchange = LoopExchange(Exchange(own), asyncio.get_running_loop())
    try:
        yield exchange, own, node
    finally:
        exchange.close()
        node.close()


async def test_a_connection_that_failed_is_read_no_more() -> None:
    with connected() as (exchange, own, node):
        exchange.send(b"first")
        node.send(b"+FIRST\r\n+UNASKED\r\n")
        await exchange.wait(100)
        await until(lambda: not exchange.is_open, "the reply that was not asked for is read")
        assert exchange.answer() == b"FIRST", "it arrived before the failure"
        node.send(b"+LATE\r\n")
        for _ in range(3):
            await next_turn()
        assert own in select.select([own], [], [], 10)[0], "the late reply was not read"
        assert not asyncio.get_running_loop().remove_reader(own)
        for use in (exchange.answer, lambda: exchange.send(b"second")):
            with pytest.raises(UnreadableReply, match="without being asked"):
                use()


async def test_a_forked_child_reads_no_answer_of_its_parent(monkeypatch: pytest.MonkeyPatch) -> None:
    with connected() as (exchange, own, node):
        exchange.send(b"first")
        node.send(b"+FIRST\r\n")
        with monkeypatch.context() as child:
            child.setattr(Exchange, "is_inherited", True)
            with pytest.raises(NoReply):
                exchange.answer()
        assert own in select.select([own], [], [], 10)[0], "the answer is still there"
        assert exchange.answer() == b"FIRST"


async def test_a_connection_that_takes_half_a_request_has_failed() -> None:
    """The node would take the next request for the rest of this one."""
    with connected() as (exchange, own, node):
        with pytest.raises(ConnectionFailed):
            exchange.send(b"x" * 10_000_000)
        assert select.select([node], [], [], 10)[0], "the first half was sent"
        assert not exchange.is_open
        assert not asyncio.get_running_loop().remove_reader(own)
        with pytest.raises(ConnectionFailed):
            exchange.send(b"next")


async def test_a_kept_connection_that_failed_serves_no_waiter(shared: Cluster) -> None:
    async with client_of(shared.urls) as client:
        waiters, node = client._context.parts().waiters, client._context.nodes[0]
        kept = await waiters.borrow(node, 10)
        assert kept is not None
        waiters.give_back(node, kept)
        assert await waiters.borrow(node, 10) is kept
        waiters.give_back(node, kept)
        kept._exchange.sock.shutdown(socket.SHUT_RDWR)
        await until(lambda: not kept.is_open, "its end is noticed")
        other = await waiters.borrow(node, 10)
        assert other is not None
        assert other is not kept
        other.close()
