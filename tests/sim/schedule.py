"""A schedule: nodes, store, clients and operations, from a seed; a phase with faults, then a phase in which all must
end.

Rules: everything that happens comes from the seed; a fault or a strike can be spared by its number.
"""

from __future__ import annotations

import gc
import hashlib
from collections.abc import Collection
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from redlock._core.commands import Confirm
from redlock._core.observed_fences import FENCE_AHEAD_MS
from redlock._core.votes import Grant
from redlock._transport import codec
from tests.sim import checks, faults, verdict
from tests.sim import options as drawn
from tests.sim.clients import Client, Stranger, observer
from tests.sim.network import Network
from tests.sim.nodes import EPOCH_MS, Node
from tests.sim.records import Lease, Operation, Question, Write
from tests.sim.world import MS, Machine, Strand, World

if TYPE_CHECKING:
    from tests.sim.options import Options
    from tests.sim.source import Source

_FOR_EVER = 10**15
_PPM_KEPT = 4_000
_CONFIRM = codec.SCRIPTS[Confirm].sha
_AHEAD_MS = 2_000_000  # Less than an hour ahead of the slowest node's clock too.


class Seat(Protocol):
    """A thread or a task that waits; see `Strand`."""

    ticket: int
    """The number of the wait, or of the next wait."""

    @property
    def machine(self) -> Machine:
        """The process."""

    def wake(self, ticket: int, value: object) -> None:
        """End the wait of this number."""


class Schedule:
    """Runs a seed and keeps the result."""

    client_class: ClassVar[type[Client]] = Client

    def __init__(self, seed: int, source: Source, *, spared: Collection[int] = ()) -> None:
        self.options = self.draw(seed)
        self.source = source
        self.spared = spared
        self.world = World(seed)
        chance = self.world.chance
        self.fingerprint = codec.Codec(self.options.nodes, "", self.options.max_ttl_ms).fingerprint
        self.calm_since: int | None = None
        """When the faults stopped."""
        self.leases: list[Lease] = []
        self.writes: list[Write] = []
        self.stales = self.crashes = self.strikes = self.two_rounds = 0
        self.nodes = [Node(self.world, source.lua, place) for place in range(self.options.nodes)]
        for node in self.nodes:
            node.offset_ms += 0 if self.options.even_clocks else chance.randint(-(10**6), 10**6)
            node.rate = 1_000_000 + chance.choice((-1, 0, 1)) * (_PPM_KEPT if chance.random() < 0.5 else 50)
            node.declare()
            if self.options.uneven_fences:
                # As after a long history: larger than any clock's proposal, and different on every node.
                for name in ("a", "b"):
                    node.set(codec.fence_key(name), str((EPOCH_MS + _AHEAD_MS) * 1_000 + chance.randint(0, 3)))
            node.save()
        self.network = Network(self.options, self.world, self.nodes)
        self.network.on_send = self._sent
        self.store = Node(self.world, source.lua, 99)
        names = ("a", "b")
        self.operations = [Operation(f"op-{number}", self._names(names)) for number in range(self.options.operations)]
        self.open = len(self.operations)
        self.queue = list(self.operations)
        self.idle: list[Seat] = []
        self.faults = [fault for fault in faults.draw(self.options, chance) if fault.number not in spared]
        for fault in self.faults:
            self.world.at(fault.when, faults.strike, self, fault)
        self.faulty = True
        self.world.at(self._patience_us, self._operate)
        self.clients = [self.client_class(self, f"c{number}") for number in range(self.options.clients)]
        self.strangers: list[Client] = []
        if self.options.stranger_ttl_ms not in {0, self.options.max_ttl_ms}:
            self.world.at(1, self._begin_stranger)

    @staticmethod
    def draw(seed: int) -> Options:
        return drawn.draw(seed)

    def _begin_stranger(self) -> None:
        """Begin a client with other settings, when the nodes know the right settings."""
        if not any(lease.answered for lease in self.leases):
            self.world.after(self.options.timeout_ms * MS, self._begin_stranger)
        elif self.faulty:
            self.strangers.append(Stranger(self, "stranger", self.options.stranger_ttl_ms))

    def _names(self, names: tuple[str, ...]) -> tuple[str, ...]:
        chance = self.world.chance
        if self.options.sets and chance.random() < 0.5:
            return names if chance.random() < 0.5 else names[::-1]
        return (names[0],) if chance.random() < 0.8 else (names[1],)

    def client_rate(self) -> int:
        """A steady clock's rate; in half of the cases at the limit of the drift allowance."""
        chance = self.world.chance
        return 1_000_000 + chance.choice((-1, 0, 1)) * (_PPM_KEPT if chance.random() < 0.5 else 50)

    def wall_offset_us(self) -> int:
        """A client's wall clock: off by less than a quarter of `max_ttl`."""
        if self.options.even_clocks:
            return 0
        return int((self.world.chance.random() - 0.5) * 0.45 * self.options.max_ttl_ms * MS)

    def client(self, target: int) -> Client:
        """The client that a fault means."""
        return self.clients[target % len(self.clients)]

    def node(self, target: int) -> Node:
        """The node that a fault means."""
        return self.nodes[target % len(self.nodes)]

    def run(self) -> Schedule:
        """Faults first; then none, and everything must come to its end."""
        # A garbage collection at another moment in each run would drop objects that the history depends on.
        collects = gc.isenabled()
        gc.disable()
        self.source.package.report(everything=self.options.reports)
        self.source.package.limit_connections(self.options.connection_sets)
        try:
            self._run()
        finally:
            self.world.close()
            if collects:
                gc.enable()
        return self

    def _run(self) -> None:
        world = self.world
        calm = max((fault.when + fault.length for fault in self.faults), default=0)
        calm = max(calm, self.options.ttl_ms * 4 * MS) + 1
        world.run(calm)
        self.faulty = False
        self._heal()
        self.calm_since = world.now
        self._await_end()
        verdict.check(self)

    def _await_end(self) -> None:
        """No fault happens any more, and everything must come to its end."""
        limit = verdict.longest_end_us(self)
        if self.open:
            self.world.run(self.world.now + limit)
        if self.open:
            left = [operation.identity for operation in self.operations if not operation.acknowledged]
            self.world.violation(f"after the faults these did not come to their end: {left}")

    def _heal(self) -> None:
        self.network.cuts.clear()
        self.network.rough = False
        for client in self.clients:
            client.stall_chance = 0.0
            client.lacks_threads = client.lacks_sockets = False
        for node in self.nodes:
            node.frozen_until, node.mood = 0, ""
            node.rate = min(max(node.rate, 996_000), 1_004_000)
            if not node.up:
                node.restart("all")
        for stranger in self.strangers:
            self._end(stranger)
        # The last bytes of a stranger may be the first that an empty node gets, and then the node has its settings.
        self.world.run(self.network.last_arrival(self.strangers))
        self._repair()

    @property
    def _patience_us(self) -> int:
        """How long an operator lets a node refuse all rounds."""
        return self.options.max_ttl_ms * 3 * MS

    def _operate(self) -> None:
        """An operator looks at the nodes from time to time, because a node that refuses all rounds tests nothing."""
        if self.faulty:
            self._repair()
            self.world.after(self._patience_us, self._operate)

    def _repair(self) -> None:
        """The remedies of the manual, for nodes with other settings and nodes with a token far ahead of their clock."""
        for node in self.nodes:
            fences = [int(node.get(codec.fence_key(name)) or 0) for name in ("a", "b")]
            if (
                node.fingerprint() not in {"", self.fingerprint}
                or max(fences) > (node.time_ms() + FENCE_AHEAD_MS) * 1_000
            ):
                node.flush()

    def next_operation(self, strand: Strand) -> Operation | None:
        """Something to do for a worker, as soon as there is something; None if its process ends."""
        self.seek(strand)
        operation: Operation | None = strand.park()
        return operation

    def seek(self, seat: Seat) -> None:
        """Wake this seat as soon as there is something to do."""
        self.idle.append(seat)
        self._assign()

    def requeue(self, operation: Operation) -> None:
        """Back to the queue."""
        self.queue.append(operation)
        self._assign()

    def _assign(self) -> None:
        while self.queue and self.idle:
            strand = self.idle.pop(0)
            if strand.machine.alive:
                self.world.after(1, self._give, strand, self.queue.pop(0))

    @staticmethod
    def _give(strand: Seat, operation: Operation | None) -> None:
        strand.wake(strand.ticket, operation)

    def acknowledge(self, operation: Operation) -> None:
        self.open -= not operation.acknowledged
        operation.acknowledged = True
        if not (self.faulty or self.open):
            self.world.stop()
        self.world.note("acknowledged", operation.identity)

    def redeliver(self, detail: int) -> None:
        """Deliver some operation again, whether done, under way or waiting."""
        self.requeue(self.operations[detail % len(self.operations)])

    def crash_client(self, target: int) -> None:
        """A process is killed; another process starts, and the task is delivered again after a while."""
        place = target % len(self.clients)
        self._end(self.clients[place])
        self._begin_client(place)
        self._deliver_again()

    def _begin_client(self, place: int, parent: Client | None = None) -> None:
        self.crashes += 1
        self.clients[place] = self.client_class(self, f"c{place}.{self.crashes}", parent=parent)

    def _deliver_again(self) -> None:
        for operation in self.operations:
            if not operation.acknowledged and operation not in self.queue:
                self.world.after(self.options.ttl_ms * 2 * MS, self.requeue, operation)

    def fork_client(self, target: int) -> None:
        """A child goes on with the objects of its parent. The parent stops, because both have the same objects."""
        place = target % len(self.clients)
        parent = self.clients[place]
        if parent.workers and parent.frozen_until <= self.world.now:
            parent.freeze(_FOR_EVER)
            self.idle = [strand for strand in self.idle if strand.machine is not parent]
            self._begin_client(place, parent)
            self._deliver_again()

    def stop_client(self, target: int) -> None:
        """A process ends when its threads have ended their operations, and another process starts."""
        client = self.client(target)
        client.is_stopping = True
        for strand in [strand for strand in self.idle if strand.machine is client]:
            self.idle.remove(strand)
            self.world.after(1, self._give, strand, None)

    def replace(self, client: Client) -> None:
        """A process has ended."""
        self.world.after(0, self._replace, client)

    def _replace(self, client: Client) -> None:
        if client in self.clients:
            self._end(client)
            self._begin_client(self.clients.index(client))

    def aliases(self, name: str) -> dict[int, int]:
        """The wrong addresses of a client."""
        nodes = self.options.nodes
        return {nodes - 1: 0} if self.options.alias and nodes > 1 and name.startswith("c0") else {}

    def _end(self, client: Client) -> None:
        """A process is killed, and believes in no lease any more."""
        client.crash()
        for lease in self.leases:
            if lease.holder == client.name:
                lease.end = min(lease.end, self.world.now)

    def observer(self, client: Client) -> Any:  # noqa: ANN401 - of the simulated package
        """The log of a client, for the history."""
        return observer(self.source.lock_events.LockEventLog, client)

    def granted(self, client: Client, grant: Grant, began: int) -> Lease:
        """A client believes that its lease is valid."""
        now = self.world.now
        # Unless the client was stopped after its last look at the deadline, and goes on at this moment.
        if client.clock_ms() >= grant.deadline_ms and client.frozen_until != now:
            self.world.violation(f"{client.name} was granted a lease whose time is over")
        if grant.fence > (EPOCH_MS + 2 * FENCE_AHEAD_MS) * 1_000 + now:
            self.world.violation(f"{client.name} was granted token {grant.fence}, far ahead of every clock")
        votes = grant.round_result.votes
        granted = [place for place, vote in enumerate(votes) if vote.kind is self.source.votes.Kind.GRANTED]
        yes = frozenset(client.aliases.get(place, place) for place in granted)
        exact = frozenset(client.aliases.get(place, place) for place in granted if votes[place].fence == grant.fence)
        end = client.when_clock_shows(grant.deadline_ms)
        lease = Lease(client.name, grant.names, grant.fence, began, now, max(end, now), yes, exact)
        self.leases.append(lease)
        self.two_rounds += grant.rounds > 1
        self.world.note("granted", client.name, grant.names, grant.fence, grant.rounds, end)
        strikes = self.faulty and self.options.faults and client in self.clients
        if strikes and self.world.chance.random() < self.options.nemesis:
            faults.nemesis(self, self.clients.index(client), lease)
        return lease

    def attempt_begins(self, client: Client) -> None:
        """An acquire is about to go out: a moment to be stopped at, or to be interrupted soon after."""
        chance, options = self.world.chance, self.options
        if not (self.faulty and options.faults):
            return
        if "freeze client" in options.faults and chance.random() < options.nemesis * 0.05:
            self.world.after(1, client.freeze, int(options.ttl_ms * chance.choice((0.9, 1.1, 2.0))) * MS)
        if "interrupt" in options.faults and chance.random() < options.nemesis * 0.2:
            self.world.after(int(chance.random() * 4 * options.delay_us), client.deliver, client.interrupt)

    def _sent(self, machine: Machine, data: bytes) -> None:
        """If a confirm goes out, connections may end."""
        if _CONFIRM in data and self.faulty and "break" in self.options.faults:
            chance = self.world.chance
            if chance.random() < self.options.nemesis * 0.1:
                for wire in self.network.wires_of(machine):
                    if chance.random() < 0.6:
                        self.world.after(0, wire.cut_off)

    def stale(self, client: Client, door: str) -> None:
        """The store refused."""
        self.stales += 1
        self.world.note("STALE", client.name, door)

    def ask_store(self, strand: Strand, question: Question) -> Any:  # noqa: ANN401 - the store's reply
        """Send a command to the store and wait; None without an answer."""
        return strand.park(self.send_question(strand, question))

    def send_question(self, strand: Seat, question: Question) -> int:
        """Send a command to the store: it may arrive late, twice or never, and so may its answer.

        The answer ends the next wait of the seat. Returns the time at which a client gives up.
        """
        world, chance, loss = self.world, self.world.chance, self.options.store_loss if self.faulty else 0.0
        reply_at = world.now + self.options.timeout_ms * MS
        if chance.random() >= loss:
            world.after(self.network.delay(), self._store_acts, strand, strand.ticket, question)
        if loss and chance.random() < loss:
            late = int(chance.random() * self.options.ttl_ms * 3 * MS)
            world.after(late, self._store_acts, strand, 0, question)
        return reply_at

    def _store_acts(self, strand: Seat, ticket: int, question: Question) -> None:
        door, name, arguments, identity = question
        key = f"store:{name}"
        keys = (key,) if door == "open" else (key, codec.operation_key(key, identity))
        reply: Any = self.store.store(door, keys, arguments)
        self.world.note("store", door, name, identity, tuple(arguments[:4:2]), tuple(reply))
        if reply[0] == "WRITTEN":
            self.writes.append(Write(name, int(arguments[0]), int(arguments[2]), identity, int(arguments[3])))
        self.world.after(self.network.delay(), strand.wake, ticket, reply)

    @property
    def overlapping(self) -> list[str]:
        """Two believing holders, whether the assumptions were kept or not."""
        return checks.overlaps(self.leases)

    @property
    def hash(self) -> str:
        """The history in one word."""
        return hashlib.sha256(repr(self.world.history).encode()).hexdigest()[:16]
