"""A dial that ends after the end of its client says nothing about its node: for that client the node is no news."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Iterator

import pytest

from redlock import QuorumUnavailable, Redlock
from redlock._transport.node import Node
from redlock._transport.pool import ConnectionPool
from tests.integration import asyncio_tools
from tests.integration.tools import client_of, eventually

NODES = ("h:1", "h:2", "h:3")


class Accepted:
    """The connection of a dial that has succeeded."""

    def close(self) -> None:
        """Nothing is open."""


class Network:
    """Each dial goes on until `answer` is set."""

    def __init__(self) -> None:
        self.answer = threading.Event()
        self.error: Exception | None = None

    def connect(self) -> Accepted:
        """A dial."""
        assert self.answer.wait(100)
        if self.error is not None:
            raise self.error
        return Accepted()

    def end(self) -> None:
        """End all dials."""
        self.answer.set()
        eventually(lambda: not dials(), "the end of all dials")


def dials() -> int:
    """The number of dials that go on."""
    return sum(thread.name.startswith("redlock-dial-") for thread in threading.enumerate())


@pytest.fixture
def network(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> Iterator[Network]:
    """Nodes that answer no dial yet."""
    network = Network()
    monkeypatch.setattr(Node, "connect", network.connect)
    caplog.set_level(logging.INFO, "redlock")
    yield network
    network.end()


def try_lock(client: Redlock) -> bool:
    """Try a lock in vain."""
    with pytest.raises(QuorumUnavailable):
        client.lock("a", blocking=False).__enter__()
    return True


def test_a_late_dial_of_a_closed_client_logs_nothing(network: Network, caplog: pytest.LogCaptureFixture) -> None:
    with client_of(NODES, ttl=2.0, node_timeout=0.05) as client:
        try_lock(client)
    assert "node-down node=h:1 reason='no answer within 50 ms'" in caplog.messages
    caplog.clear()
    network.end()
    assert not caplog.messages

    network.error = ConnectionRefusedError()
    eventually(lambda: try_lock(client) and "node-down " in caplog.text, "a line of the client, which is in use again")
    client.close()


def test_a_client_that_is_used_during_its_close_logs_its_nodes(
    network: Network, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another thread can use the client meanwhile."""
    with client_of(NODES, ttl=2.0, node_timeout=0.05) as client:
        with monkeypatch.context() as patched:
            patched.setattr(ConnectionPool, "_drain", lambda *_, **__: try_lock(client))
            client.close()
        network.end()
        assert "node-up node=h:1" in caplog.messages


async def test_a_late_dial_of_a_closed_loop_logs_nothing(network: Network, caplog: pytest.LogCaptureFixture) -> None:
    network.error = ConnectionRefusedError()
    async with asyncio_tools.client_of(NODES) as client:
        task = asyncio.create_task(client.lock("a").acquire())
        await asyncio_tools.until(dials, "a dial")
        task.cancel()
    network.end()
    assert not caplog.messages
