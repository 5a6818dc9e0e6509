"""Simulated distance: `python -m benchmarks.delay SECONDS PORT...` forwards connections to these ports with a delay.

The command listens on one port of its own for each port, and prints its ports as a JSON list.

Invariants:
1. Bytes to a node are delayed, and bytes from a node are not: only the sum of both counts.
2. The delay has its own process, so the measured client loses no time of its own.
"""

from __future__ import annotations

import asyncio
import json
import sys
from functools import partial
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


class Side(asyncio.Protocol):
    """A side of a connection: bytes that arrive here leave on the other side after the delay."""

    def __init__(self, delay: float) -> None:
        self._delay = delay
        self._other: Side | None = None
        self._transport: asyncio.Transport | None = None
        self._early: list[bytes] = []

    def join(self, other: Side) -> None:
        """Forward bytes to the other side, beginning with the bytes that arrived before this call."""
        self._other = other
        for data in self._early:
            self.data_received(data)
        self._early.clear()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def connection_lost(self, exc: Exception | None) -> None:
        """Close the other side too."""
        del exc
        if self._other is not None:
            self._other.close()

    def data_received(self, data: bytes) -> None:
        """Forward the bytes after the delay."""
        if self._other is None:
            self._early.append(data)
        elif self._delay:
            asyncio.get_running_loop().call_later(self._delay, self._other.write, data)
        else:
            self._other.write(data)

    def close(self) -> None:
        """Close the connection."""
        if self._transport is not None:
            self._transport.close()

    def write(self, data: bytes) -> None:
        """Send bytes to this side."""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(data)


class ClientSide(Side):
    """The client's side, which connects to the node."""

    def __init__(self, delay: float, port: int) -> None:
        super().__init__(delay)
        self._port = port
        self._opening: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Connect to the node."""
        super().connection_made(transport)
        self._opening = asyncio.ensure_future(self._open())

    async def _open(self) -> None:
        try:
            _, node_side = await asyncio.get_running_loop().create_connection(
                partial(Side, 0.0), "127.0.0.1", self._port
            )
        except OSError:
            self.close()
            return
        node_side.join(self)
        self.join(node_side)


async def _forward(delay: float, ports: Sequence[int]) -> None:
    loop = asyncio.get_running_loop()
    servers = [await loop.create_server(partial(ClientSide, delay, port), "127.0.0.1", 0) for port in ports]
    print(json.dumps([server.sockets[0].getsockname()[1] for server in servers]), flush=True)
    # The harness ends standard input when it ends.
    await loop.run_in_executor(None, sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(_forward(float(sys.argv[1]), [int(port) for port in sys.argv[2:]]))
