"""A network of byte streams between processes and nodes, with all that goes wrong on a network.

Invariants:
1. A stream keeps its order. Data that was sent before the connection ended may still arrive.
2. A cut delays data until the cut ends, as TCP does. A connection that is dialled during a cut waits for its end.
3. A connection belongs to one run of a server; a server that was restarted answers with a reset.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

from tests.sim.server import Session
from tests.sim.world import MS, Strand, here

if TYPE_CHECKING:
    from tests.sim.nodes import Node
    from tests.sim.options import Options
    from tests.sim.sockets import Socket
    from tests.sim.world import Machine, World

FIRST_PORT = 7_000
_DRIP_MS = 10
Way: TypeAlias = tuple[str, int, bool]
"""A process, a node, and whether the data go from the node to the process."""


class Network:
    """The way between all processes and all nodes: delays, cuts and the pieces in which data travels."""

    def __init__(self, options: Options, world: World, nodes: list[Node]) -> None:
        self.world, self.nodes = world, nodes
        self.rough = options.tail > 0
        """Whether some messages are very late."""
        self.pieces = options.pieces
        """How often data arrives in two pieces, or is accepted in part only."""
        self.cuts: dict[Way, int] = {}
        """Until when data is held back on a way."""
        self.wires: list[Wire] = []
        self.on_send: Callable[[Machine, bytes], None] | None = None
        """Called with everything that a process sends."""
        self._tail, self._late_us = options.tail, options.ttl_ms * 2 * MS
        self._base_us, self._random = options.delay_us, world.chance.random

    @property
    def urls(self) -> list[str]:
        return [f"redis://10.0.0.1:{FIRST_PORT + node.place}" for node in self.nodes]

    def delay(self) -> int:
        """A message's way: mostly short, sometimes very long."""
        if self.rough and self._random() < self._tail:
            return int(self._base_us + self._random() ** 3 * self._late_us)
        return int(self._base_us * (0.5 + self._random()))

    def arrival(self, way: Way, last: int) -> int:
        """When data that is sent now arrives, after the last piece before."""
        begins = self.world.now
        if self.cuts:
            begins = max(self.cuts.get(way, 0), begins)
        arrives = begins + self.delay()
        return arrives if arrives > last else last + 1

    def split(self, data: bytes) -> tuple[bytes, ...]:
        """The data in the pieces in which they travel."""
        if self.pieces and len(data) > 1 and self._random() < self.pieces:
            size = int(self._random() * (len(data) - 1)) + 1
            return data[:size], data[size:]
        return (data,)

    def wires_of(self, machine: Machine) -> list[Wire]:
        """The open connections of a process."""
        self.wires = [wire for wire in self.wires if wire.is_open]
        return [wire for wire in self.wires if wire.machine is machine]

    def last_arrival(self, machines: Sequence[Machine]) -> int:
        """When a node gets the last bytes of these processes, dead or alive; now if none are under way."""
        wires = ((when, getattr(act, "__self__", None)) for when, act in self.world.to_come)
        times = [when for when, wire in wires if isinstance(wire, Wire) and wire.machine in machines]
        return max(times, default=self.world.now)

    def stop(self, node: Node) -> None:
        """A server has stopped: its connections end."""
        for wire in self.wires:
            if wire.node is node:
                wire.end()


class Wire:
    def __init__(self, network: Network, machine: Machine, node: Node, sock: Socket) -> None:
        self.network, self.machine, self.node, self.sock = network, machine, node, sock
        self._there, self._back = (machine.name, node.place, False), (machine.name, node.place, True)
        self.is_open = True
        """Whether the process uses the connection."""
        self.sent = 0
        """The number of bytes that the process has sent."""
        self.run_id = ""
        """The run of the server that accepted the connection; empty before and after."""
        self._session: Session | None = None
        self._last_there = self._last_back = 0
        self._arrived = b""
        """The bytes that the server has not read yet."""
        self._is_dead = False
        """Whether something between them has forgotten the connection."""
        self._is_mute = False
        """Whether the server has kept a reply to itself."""
        self._drips = bytearray()

    def dial(self, until: int | None) -> None:
        """Connect, in the strand that runs."""
        strand, network = here(), self.network
        arrival = network.arrival(self._there, 0)
        network.world.at(arrival, self._accept, strand, strand.ticket)
        accepted = strand.park(until)
        if accepted is None:
            self.is_open = False
            raise TimeoutError("timed out")
        if not accepted:
            self.is_open = False
            raise ConnectionRefusedError(errno.ECONNREFUSED, os.strerror(errno.ECONNREFUSED))
        network.wires.append(self)

    def _accept(self, strand: Strand, ticket: int) -> None:
        node, network = self.node, self.network
        if node.mood == "hole":
            return
        if node.up:
            self.run_id, self._session = node.run_id, Session(node, self.answer)
        self._last_back = network.arrival(self._back, 0)
        network.world.at(self._last_back, strand.wake, ticket, node.up)
        if node.mood == "half-closed":
            self._end_back(self.sock.end)

    def send(self, data: bytes) -> None:
        """Data leave the process."""
        self.sent += len(data)
        network = self.network
        for piece in network.split(data) if network.pieces else (data,):
            arrival = network.arrival(self._there, self._last_there)
            self._last_there = arrival
            network.world.at(arrival, self._arrive, piece)

    def _arrive(self, piece: bytes) -> None:
        self._arrived = self._arrived + piece if self._arrived else piece
        self._read()

    def _read(self) -> None:
        """Let the server read what has arrived, now or after a thaw."""
        node = self.node
        # A server that has stopped has the identity of its next run.
        if node.run_id != self.run_id or self._session is None:
            self.refuse()
        elif node.frozen_until > node.world.now:
            node.world.at(node.frozen_until, self._read)
        elif self._arrived:
            data, self._arrived = self._arrived, b""
            # After a piece that was lost, a stream delivers nothing more.
            self._is_dead = self._is_dead or node.mood == "hole"
            if not self._is_dead:
                self._session.receive(data)

    def answer(self, data: bytes) -> None:
        """The server writes a reply, in the way of its present mood."""
        mood = self.node.mood
        if not (mood or self._is_mute or self._drips):
            self._forward(data)
            return
        # After a reply that was not sent, a server sends no later reply.
        self._is_mute = self._is_mute or mood in {"mute", "half-closed"}
        if self._is_mute:
            return
        if mood == "reset":
            self._forward(data[: len(data) // 2])
            self.refuse()
        elif mood == "garbage":
            self._forward(self.network.world.chance.randbytes(len(data)))
        elif mood == "drip" or self._drips:
            self._drips += data
            if len(self._drips) == len(data):
                self._drip()
        else:
            self._forward(data)

    def _drip(self) -> None:
        if self.is_open and self._drips:
            rest = self._drips if self.node.mood != "drip" else self._drips[:1]
            self._forward(bytes(rest))
            del self._drips[: len(rest)]
            self.network.world.after(_DRIP_MS * MS, self._drip)

    def _forward(self, data: bytes) -> None:
        for piece in self.network.split(data) if self.network.pieces else (data,):
            self._end_back(self.sock.arrived, piece)

    def _end_back(self, act: Callable[..., None], *arguments: Any) -> None:  # noqa: ANN401 - the act's own
        """Let something reach the process, behind everything that was sent before."""
        if self.is_open and not self._is_dead:
            network = self.network
            self._last_back = arrival = network.arrival(self._back, self._last_back)
            network.world.at(arrival, act, *arguments)

    def end(self) -> None:
        """The server closes the connection."""
        self._close_session()
        self._end_back(self.sock.end)

    def refuse(self) -> None:
        """The server resets the connection."""
        self._close_session()
        self._end_back(self.sock.reset)

    def cut_off(self) -> None:
        """The connection ends at the process at once; data may still arrive at the node."""
        if self.is_open:
            self.sock.reset()
            self.close()

    def forget(self) -> None:
        """A firewall forgets the connection: nothing arrives any more, and neither side is told."""
        self._is_dead = True

    def close(self) -> None:
        """The process closes the connection, after all bytes that were sent before."""
        if self.is_open:
            self.is_open = False
            arrival = self.network.arrival(self._there, self._last_there)
            self.network.world.at(arrival, self._close_session)

    def _close_session(self) -> None:
        if self._session is not None:
            self._session.close()
            self._session = None
