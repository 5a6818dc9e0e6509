"""Clients that act like `Lease` and the counter's task, with the shipped protocol and backoff.

Rules: a client is one process: it may be frozen or crash at any event, and between the look at its deadline and its
write there is always an event. The history records when the client believes that a lease is valid: from the grant to
the deadline by its clock, or to the release.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from redlock._core.observed_fences import ObservedFences
from redlock.errors import ConfigurationError
from tests.sim.connections import SimConnections
from tests.sim.nodes import EPOCH_MS
from tests.sim.records import Question
from tests.sim.world import MS, Actor, Machine, sleep

if TYPE_CHECKING:
    from collections.abc import Generator

    from redlock._core.votes import Grant
    from tests.sim.connections import Network
    from tests.sim.nodes import Node
    from tests.sim.records import Operation
    from tests.sim.schedule import Schedule

_STORE_TRIES = 4
_GOES_ON = 0.3
_EXTENSIONS = (0.01, 0.5, 1, 1, 1.5, 2, 3, 10, 60)
"""By how many TTLs a client extends a lease by hand."""
_REMEMBERED = str(7 * 24 * 3600 * 1000)


class Client(Machine):
    """One process."""

    def __init__(self, schedule: Schedule, name: str, nodes: list[Node], max_ttl_ms: int = 0) -> None:
        super().__init__(schedule.world, name)
        self.schedule = schedule
        self.options = schedule.options
        self.network: Network = schedule.network
        self.protocol = schedule.source.protocol
        self.backoff = schedule.source.backoff
        self.codec = schedule.source.codec
        self.rate = schedule.client_rate()
        self.clock_offset_ms = self.world.chance.randint(0, 10**6)
        self.wall_offset_us = schedule.wall_offset_us()
        self.fences = ObservedFences()
        self.max_ttl_ms = max_ttl_ms or self.options.max_ttl_ms
        self.ttl_ms = min(self.options.ttl_ms, self.max_ttl_ms)
        self.links = SimConnections(self, nodes, self.codec.Codec(len(nodes), "", self.max_ttl_ms))
        self.spawn(self._work())

    def clock_ms(self) -> int:
        """Its steady clock."""
        return self.clock_offset_ms + self.world.now * self.rate // 1_000_000_000

    def when_clock_shows(self, clock_ms: int) -> int:
        """The time, in microseconds, at which its steady clock shows this."""
        return -(-(clock_ms - self.clock_offset_ms) * 1_000_000_000 // self.rate)

    def wall_us(self) -> int:
        """Its wall clock."""
        return EPOCH_MS * 1_000 + self.world.now + self.wall_offset_us

    def proposal(self, names: tuple[str, ...]) -> int:
        """The fencing token to propose."""
        return self.fences.proposal(names, self.wall_us())

    def observe_fence(self, names: tuple[str, ...], fence: int) -> None:
        """Remember a token."""
        self.fences.observe(names, fence, self.wall_us())

    def _work(self) -> Generator[Any, Any, None]:
        while True:
            operation = yield (self.schedule.next_operation,)
            done = yield from self._run(operation)
            if done:
                self.schedule.acknowledge(operation)
            else:
                yield (sleep, self.world.chance.randint(1, self.options.ttl_ms) * MS)
                self.schedule.requeue(operation)

    def _run(self, operation: Operation) -> Generator[Any, Any, bool]:
        held = yield from self._take(operation)
        if held is None:
            return False
        if self.options.renew:
            self.spawn(self._renew(held))
        try:
            return (yield from self._section(held, operation))
        finally:
            if self.alive:
                held.leaving = True
        return False

    def _take(self, operation: Operation) -> Generator[Any, Any, LockInfo | None]:
        started, lost_rounds, woken = self.clock_ms(), 0, False
        while True:
            attempt = self.schedule.attempt(self, operation.names, woken=woken)
            began = self.world.now
            result = yield from self.links.run(self.protocol.acquire(attempt))
            self.observe_fence(attempt.names, result.round_result.backed_fence)
            if hasattr(result, "token"):
                self.observe_fence(attempt.names, result.fence)
                return self.schedule.granted(self, result, attempt, began)
            lost_rounds += 1
            chance = self.world.chance.random()
            waiter = self.backoff.sleep_ms(result, chance)
            pause = self.backoff.pause_ms(result, lost_rounds, chance) if waiter is None else waiter
            if self.clock_ms() - started + (0 if waiter is not None else pause) >= self.options.acquire_timeout_ms:
                return None
            # Wake-ups are hints: here they come at any moment, or never.
            woken = waiter is not None and self.world.chance.random() < 0.5
            yield (sleep, int(pause * MS * (self.world.chance.random() if woken else 1)))

    def _renew(self, held: LockInfo) -> Generator[Any, Any, None]:
        yield (sleep, self.backoff.renewal_ms(held.grant.ttl_ms) * MS)
        while not held.leaving:
            now = self.clock_ms()
            if now >= held.grant.deadline_ms:
                held.lost = True
                return
            yield from held.enter()
            if held.leaving:
                held.exit()
                return
            won = yield from self._extend(held, self.ttl_ms)
            if self.options.extends and self.world.chance.random() < 0.5:
                yield from self._extend(held, int(self.ttl_ms * self.world.chance.choice(_EXTENSIONS)))
            held.exit()
            left = held.grant.deadline_ms - self.clock_ms()
            pause = self.backoff.renewal_ms(self.ttl_ms) if won else self.backoff.retry_ms(max(0, left))
            yield (sleep, pause * MS)

    def _extend(self, held: LockInfo, ttl_ms: int) -> Generator[Any, Any, bool]:
        try:
            result = yield from self.links.run(self.protocol.extend(held.grant, ttl_ms, self.schedule.source.wait_all))
        except ConfigurationError:
            # Longer than `max_ttl`: nothing was sent.
            return False
        if hasattr(result, "token"):
            held.extended(result)
            return True
        if result.round_result.denied >= result.round_result.quorum:
            held.lost = True
        return False

    def _section(self, held: LockInfo, operation: Operation) -> Generator[Any, Any, bool]:
        done = yield from self._update(held, operation)
        if self.options.extends and self.world.chance.random() < _GOES_ON:
            # The lease was extended for this operation.
            yield (sleep, int(self.world.chance.random() * 4 * self.ttl_ms * MS))
        held.leaving = True
        yield from held.enter()
        held.released()
        # Some releases are asynchronous: the client may acquire the next lock before the nodes have answered.
        goes_on = self.world.chance.random() < _GOES_ON
        release = self.protocol.cancel(held.grant, held.grant.ttl_ms) if goes_on else self.protocol.release(held.grant)
        yield from self.links.run(release)
        self.schedule.after_release(held)
        held.exit()
        return done

    def _update(self, held: LockInfo, operation: Operation) -> Generator[Any, Any, bool]:
        name, grant = operation.names[0], held.grant
        while True:
            opened = yield from self._store("open", name, (str(grant.fence), grant.token))
            if opened is None:
                return False
            if opened[0] == "STALE":
                self.schedule.stale(self, "open")
                self.observe_fence(grant.names, int(opened[1]))
                return False
            value = int(opened[2]) if len(opened) > 2 and opened[2] else 0
            yield (sleep, int(self.options.think_ms * MS * self.world.chance.random()))
            if self.options.looks and (held.lost or self.clock_ms() >= held.grant.deadline_ms):
                return False
            # The gap between the check of the deadline and the effect, which no client can avoid.
            yield (sleep, 1)
            arguments = (str(grant.fence), grant.token, str(opened[1]), str(value + 1), _REMEMBERED)
            written = yield from self._store("write", name, arguments, operation.identity)
            if written is None:
                return False
            if written[0] != "STALE":
                return True
            self.schedule.stale(self, "write")
            if int(written[1]) != grant.fence:
                self.observe_fence(grant.names, int(written[1]))
                return False

    def _store(self, door: str, name: str, arguments: tuple[str, ...], identity: str = "") -> Generator[Any, Any, Any]:
        """Ask the store, again if there is no answer; None if there was none at all."""
        for _ in range(_STORE_TRIES):
            reply = yield (self.schedule.ask_store, Question(door, name, arguments, identity))
            if reply is not None:
                return reply
        return None


class Stranger(Client):
    """A client with its own `max_ttl` that acquires the lock again and again, and only holds the lock."""

    def _work(self) -> Generator[Any, Any, None]:
        while self.schedule.faulty:
            attempt = self.schedule.attempt(self, ("a",), woken=self.world.chance.random() < 0.3)
            began = self.world.now
            result = yield from self.links.run(self.protocol.acquire(attempt))
            if hasattr(result, "token"):
                held = self.schedule.granted(self, result, attempt, began)
                self.schedule.strangers_won += 1
                yield from self._extend(held, self.max_ttl_ms)
                yield (sleep, int(self.max_ttl_ms * MS * self.world.chance.random()))
                held.released()
                yield from self.links.run(self.protocol.release(held.grant))
            yield (sleep, self.world.chance.randint(1, self.options.ttl_ms) * MS)


class LockInfo:
    """A held lease, with the mutex between extension and release."""

    __slots__ = ("_queue", "_taken", "client", "grant", "leaving", "lost", "record")

    def __init__(self, client: Client, grant: Grant, record: Any) -> None:  # noqa: ANN401 - a Lease record
        self.client, self.grant, self.record = client, grant, record
        self.leaving = self.lost = False
        self._taken = False
        self._queue: list[Actor] = []

    def enter(self) -> Generator[Any, Any, None]:
        """Be alone with this lease."""
        if self._taken:
            yield (self._join,)
        self._taken = True

    def _join(self, actor: Actor) -> None:
        self._queue.append(actor)

    def exit(self) -> None:
        """Unlock."""
        self._taken = False
        if self._queue:
            actor = self._queue.pop(0)
            actor.machine.world.after(1, actor.wake, None)

    def extended(self, grant: Grant) -> None:
        """Record a later deadline."""
        self.grant = grant
        self.record.end = self.client.when_clock_shows(grant.deadline_ms)
        self.client.world.note("extended", self.client.name, grant.fence, self.record.end)

    def released(self) -> None:
        """The holder no longer believes that the lease is valid, from before the release is sent."""
        self.record.end = min(self.record.end, self.client.world.now)
        self.client.world.note("release", self.client.name, self.grant.fence)
