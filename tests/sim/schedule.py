"""A schedule: nodes, store, clients and operations, from a seed; a phase with faults, then a phase in which all must
end.

Rules: everything that happens comes from the seed; a fault or a strike can be spared by its number.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

from redlock._core.commands import Acquire
from redlock._core.observed_fences import FENCE_AHEAD_MS
from redlock._transport import codec
from tests.sim import checks, faults
from tests.sim import options as drawn
from tests.sim.clients import Client, LockInfo, Stranger
from tests.sim.connections import Network
from tests.sim.nodes import EPOCH_MS, Node
from tests.sim.records import Lease, Operation, Question, Write
from tests.sim.world import MS, Actor, World

if TYPE_CHECKING:
    from collections.abc import Collection

    from redlock._core.votes import Grant
    from tests.sim.source import Source

_END = 600_000 * MS
_MOST_EVENTS = 100_000
_PPM_KEPT = 4_000
_AHEAD_MS = 2_000_000  # Less than an hour ahead of the slowest node's clock too.


class Schedule:
    """Runs a seed and keeps the result."""

    def __init__(self, seed: int, source: Source, *, spared: Collection[int] = (), recording: bool = False) -> None:
        self.options = drawn.draw(seed)
        self.source = source
        self.spared = spared
        self.world = World(seed, recording=recording)
        chance = self.world.chance
        self.network = Network(self.options, self.world)
        self.codec = source.codec.Codec(self.options.nodes, "", self.options.max_ttl_ms)
        self.leases: list[Lease] = []
        self.writes: list[Write] = []
        self.stales = self.crashes = self.strikes = self.two_rounds = self.attempts = self.strangers_won = 0
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
        self.store = Node(self.world, source.lua, 99)
        names = ("a", "b")
        self.operations = [Operation(f"op-{number}", self._names(names)) for number in range(self.options.operations)]
        self._open = len(self.operations)
        self.queue = list(self.operations)
        self.idle: list[Actor] = []
        self.faults = [fault for fault in faults.draw(self.options, chance) if fault.number not in spared]
        for fault in self.faults:
            self.world.at(fault.when, faults.strike, self, fault)
        self.faulty = True
        self.clients = [Client(self, f"c{number}", self.nodes) for number in range(self.options.clients)]
        self.strangers: list[Client] = []
        if self.options.stranger_ttl_ms not in {0, self.options.max_ttl_ms}:
            self.world.at(1, self._begin_stranger)

    def _begin_stranger(self) -> None:
        """Begin a client with other settings, when the nodes know the right settings."""
        if not any(lease.answered for lease in self.leases):
            self.world.after(self.options.timeout_ms * MS, self._begin_stranger)
        elif self.faulty:
            self.strangers.append(Stranger(self, "stranger", self.nodes, self.options.stranger_ttl_ms))

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

    def run(self) -> Schedule:
        """Faults first; then none, and everything must come to its end."""
        world = self.world
        calm = max((fault.when + fault.length for fault in self.faults), default=0)
        calm = max(calm, self.options.ttl_ms * 4 * MS) + 1
        world.run(calm, self._finished)
        self.faulty = False
        self._heal()
        world.run(world.now + _END, self._finished)
        if not self._done():
            left = [operation.identity for operation in self.operations if not operation.acknowledged]
            world.violation(f"after the faults these did not come to their end: {left}")
        self._check()
        return self

    def _finished(self) -> bool:
        return self.world.events > _MOST_EVENTS or self._done()

    def _done(self) -> bool:
        return not self.faulty and not self._open

    def _heal(self) -> None:
        self.network.cuts.clear()
        self.network.rough = False
        for node in self.nodes:
            node.frozen_until = 0
            node.rate = min(max(node.rate, 996_000), 1_004_000)
            if not node.up:
                node.restart("all")
        for stranger in self.strangers:
            self._end(stranger)
        self._repair()

    def _repair(self) -> None:
        """The remedies of the manual, for nodes with other settings and nodes with a token far ahead of their clock."""
        for node in self.nodes:
            fences = [int(node.get(codec.fence_key(name)) or 0) for name in ("a", "b")]
            if (
                node.fingerprint() not in {"", self.codec.fingerprint}
                or max(fences) > (node.time_ms() + FENCE_AHEAD_MS) * 1_000
            ):
                node.flush()

    def next_operation(self, actor: Actor) -> None:
        """Give a worker something to do, as soon as there is something."""
        self.idle.append(actor)
        self._assign()

    def requeue(self, operation: Operation) -> None:
        """Back to the queue."""
        self.queue.append(operation)
        self._assign()

    def _assign(self) -> None:
        while self.queue and self.idle:
            actor = self.idle.pop(0)
            if actor.machine.alive:
                self.world.after(1, actor.wake, self.queue.pop(0))

    def acknowledge(self, operation: Operation) -> None:
        """Done."""
        self._open -= not operation.acknowledged
        operation.acknowledged = True
        self.world.note("acknowledged", operation.identity)

    def redeliver(self, detail: int) -> None:
        """Deliver some operation again, whether done, under way or waiting."""
        self.requeue(self.operations[detail % len(self.operations)])

    def crash_client(self, target: int) -> None:
        """A process is killed; another process starts, and the task is delivered again after a while."""
        place = target % len(self.clients)
        client = self.clients[place]
        self._end(client)
        self.crashes += 1
        self.clients[place] = Client(self, f"c{place}.{self.crashes}", self.nodes)
        for operation in self.operations:
            if not operation.acknowledged and operation not in self.queue:
                self.world.after(self.options.ttl_ms * 2 * MS, self.requeue, operation)

    def _end(self, client: Client) -> None:
        """A process is killed, and believes in no lease any more."""
        client.crash()
        for lease in self.leases:
            if lease.holder == client.name:
                lease.end = min(lease.end, self.world.now)

    def attempt(self, client: Client, names: tuple[str, ...], *, woken: bool) -> Acquire:
        """A fresh attempt, with an owner token of its own."""
        self.attempts += 1
        token = f"t{self.attempts}:{client.name}"
        by, waits = client.clock_ms() + client.max_ttl_ms // 2, self.options.acquire_timeout_ms
        names = tuple(sorted(names))
        return Acquire(names, token, client.ttl_ms, client.proposal(names), woken, waits, by)

    def granted(self, client: Client, grant: Grant, attempt: Acquire, began: int) -> LockInfo:
        """A client believes that its lease is valid."""
        now = self.world.now
        if client.clock_ms() >= grant.deadline_ms:
            self.world.violation(f"{client.name} was granted a lease whose time is over")
        if grant.fence > (EPOCH_MS + 2 * FENCE_AHEAD_MS) * 1_000 + now:
            self.world.violation(f"{client.name} was granted token {grant.fence}, far ahead of every clock")
        votes = grant.round_result.votes
        yes = frozenset(place for place, vote in enumerate(votes) if vote.kind is self.source.votes.Kind.GRANTED)
        exact = frozenset(place for place in yes if votes[place].fence == grant.fence)
        end = client.when_clock_shows(grant.deadline_ms)
        lease = Lease(client.name, attempt.names, grant.fence, began, now, max(end, now), yes, exact)
        self.leases.append(lease)
        self.two_rounds += grant.rounds > 1
        self.world.note("granted", client.name, attempt.names, grant.fence, grant.rounds, end)
        held = LockInfo(client, grant, lease)
        strikes = self.faulty and self.options.faults and client in self.clients
        if strikes and self.world.chance.random() < self.options.nemesis:
            faults.nemesis(self, self.clients.index(client), lease)
        return held

    def sent(self, client: Client) -> None:
        """An acquire has just gone out: a moment to be stopped at."""
        chance = self.world.chance
        stops = self.faulty and "freeze client" in self.options.faults
        if stops and chance.random() < self.options.nemesis * 0.05:
            client.freeze(int(self.options.ttl_ms * chance.choice((0.9, 1.1, 2.0))) * MS)

    def confirming(self, client: Client) -> None:
        """A confirm is about to go out: a moment at which connections end."""
        chance = self.world.chance
        if self.faulty and "break" in self.options.faults and chance.random() < self.options.nemesis * 0.5:
            for link in client.links.links:
                if chance.random() < 0.6:
                    link.drop()

    def after_release(self, held: LockInfo) -> None:
        """A release has gone out."""
        self.world.note("released", held.client.name, held.grant.fence)

    def stale(self, client: Client, door: str) -> None:
        """The store refused."""
        self.stales += 1
        self.world.note("STALE", client.name, door)

    def ask_store(self, actor: Actor, question: Question) -> None:
        """Send a command to the store: it may arrive late, twice or never, and so may its answer."""
        world, chance, loss = self.world, self.world.chance, self.options.store_loss if self.faulty else 0.0
        reply_at = world.now + self.options.timeout_ms * MS
        state = {"open": True}
        if chance.random() >= loss:
            world.after(self.network.delay(), self._store_acts, actor, state, question)
        if loss and chance.random() < loss:
            late = int(chance.random() * self.options.ttl_ms * 3 * MS)
            world.after(late, self._store_acts, actor, {"open": False}, question)
        world.at(reply_at, self._store_answers, actor, state, None)

    def _store_acts(self, actor: Actor, state: dict[str, bool], question: Question) -> None:
        door, name, arguments, identity = question
        key = f"store:{name}"
        keys = (key,) if door == "open" else (key, codec.operation_key(key, identity))
        reply: Any = self.store.store(door, keys, arguments)
        self.world.note("store", door, name, identity, tuple(arguments[:4:2]), tuple(reply))
        if reply[0] == "WRITTEN":
            self.writes.append(Write(name, int(arguments[0]), int(arguments[2]), identity, int(arguments[3])))
        self.world.after(self.network.delay(), self._store_answers, actor, state, reply)

    @staticmethod
    def _store_answers(actor: Actor, state: dict[str, bool], reply: Any) -> None:  # noqa: ANN401 - whatever it was
        if state["open"]:
            state["open"] = False
            actor.wake(reply)

    @property
    def overlapping(self) -> list[str]:
        """Two believing holders, whether the assumptions were kept or not."""
        return checks.overlaps(self.leases)

    @property
    def hash(self) -> str:
        """The history in one word."""
        return hashlib.sha256(repr(self.world.history).encode()).hexdigest()[:16]

    def _check(self) -> None:
        found: list[str] = []
        if self.options.keeps:
            strangers = [lease for lease in self.leases if lease.holder == "stranger"]
            others = [lease for lease in self.leases if lease.holder != "stranger"]
            covered = [lease for lease in self.leases if self._is_covered(lease)]
            found += dict.fromkeys(checks.overlaps(strangers) + checks.overlaps(others) + checks.overlaps(covered))
        lost = {node.place: node.lost_at for node in self.nodes}
        always = self.options.keeps and self.options.wall_ok and not self.options.uneven_fences
        found += checks.tokens(self.leases, lost, always=always)
        found += checks.writes_in_order(self.writes)
        for name in ("a", "b"):
            value = int(self.store.field(f"store:{name}", "value") or 0)
            found += checks.counted(name, value, self.writes, self.operations)
        for what in found:
            self.world.violation(what)
        self._check_leftovers()

    def _is_covered(self, lease: Lease) -> bool:
        """Whether P1 covers the lease against leases of a client with another `max_ttl`.

        P1 requires one `max_ttl` for all clients. A node that restarts empty abstains for the longest quarantine that a
        client asked of the node since then. A client with a larger `max_ttl` that only holds its lease does not ask.
        """
        stranger_ttl_ms, max_ttl_ms = self.options.stranger_ttl_ms, self.options.max_ttl_ms
        is_shorter = stranger_ttl_ms < max_ttl_ms if lease.holder == "stranger" else max_ttl_ms < stranger_ttl_ms
        if stranger_ttl_ms in {0, max_ttl_ms} or is_shorter:
            return True
        lost_at = [moment for place in lease.answered for moment in self.nodes[place].lost_at]
        return not any(lease.began <= moment <= lease.end for moment in lost_at)

    def _check_leftovers(self) -> None:
        """One TTL after the last release no lock is left anywhere."""
        longest_ms = max(self.options.max_ttl_ms, self.options.stranger_ttl_ms)
        self.world.run(self.world.now + 4 * self.options.timeout_ms * MS + longest_ms * 3 * MS, lambda: False)
        for client in self.clients:
            client.crash()
        self.world.now += int(longest_ms * 1.1) * MS
        for node in self.nodes:
            for name in ("a", "b"):
                if self.options.keeps and node.get(name) is not None:
                    self.world.violation(f"node {node.place} still has {name!r}")
