"""Simulated distance: `python -m benchmarks.delay SECONDS PORT...` carries connections to these ports with a delay.

For each port it opens one of its own and prints them, as a JSON list. What a client sends takes the delay, what the
node answers takes none: it is the time of one exchange that counts. A process of its own, so that it takes no time
from who is measured but the machine's.
"""

from __future__ import annotations

import asyncio
import json
import sys
from functools import partial
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


class Way(asyncio.Protocol):
    """One side of a connection: what arrives here leaves on the other side, this much later."""

    def __init__(self, delay: float) -> None:
        self._delay = delay
        self._other: Way | None = None
        self._transport: asyncio.Transport | None = None
        self._early: list[bytes] = []

    def join(self, other: Way) -> None:
        """What arrives here goes there; what has arrived before is sent on now."""
        self._other = other
        for data in self._early:
            self.data_received(data)
        self._early.clear()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep what to send on."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def connection_lost(self, exc: Exception | None) -> None:
        """One side's end is the other's."""
        del exc
        if self._other is not None:
            self._other.close()

    def data_received(self, data: bytes) -> None:
        """Send it on when its time has come."""
        if self._other is None:
            self._early.append(data)
        elif self._delay:
            asyncio.get_running_loop().call_later(self._delay, self._other.write, data)
        else:
            self._other.write(data)

    def close(self) -> None:
        """Hang up."""
        if self._transport is not None:
            self._transport.close()

    def write(self, data: bytes) -> None:
        """Send."""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(data)


class Entrance(Way):
    """The client's side: it opens the way to the node."""

    def __init__(self, delay: float, port: int) -> None:
        super().__init__(delay)
        self._port = port
        self._opening: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Dial the node."""
        super().connection_made(transport)
        self._opening = asyncio.ensure_future(self._open())

    async def _open(self) -> None:
        try:
            _, exit_ = await asyncio.get_running_loop().create_connection(partial(Way, 0.0), "127.0.0.1", self._port)
        except OSError:
            self.close()
            return
        exit_.join(self)
        self.join(exit_)


async def _carry(delay: float, ports: Sequence[int]) -> None:
    loop = asyncio.get_running_loop()
    servers = [await loop.create_server(partial(Entrance, delay, port), "127.0.0.1", 0) for port in ports]
    print(json.dumps([server.sockets[0].getsockname()[1] for server in servers]), flush=True)
    # Until standard input ends: with the harness.
    await loop.run_in_executor(None, sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(_carry(float(sys.argv[1]), [int(port) for port in sys.argv[2:]]))
