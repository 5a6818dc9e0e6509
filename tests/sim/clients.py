"""Clients: processes that run the shipped client for threads, with threads that act like a task of the counter.

Rules: a client is one process. A fault freezes, forks or kills the process at any event, stops it at any clock reading,
or interrupts a thread at any wait. Between the look at its deadline and its write there is always an event. The history
records when a thread believes that a lease is valid: from the grant to the deadline by its clock, or to the release.
"""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

from redlock._core.votes import Grant
from redlock.client import Redlock
from redlock.lease import Lease as HeldLease
from redlock.lock import Lock
from tests.sim import section
from tests.sim.around import LookingAround
from tests.sim.records import Question
from tests.sim.timed import Timed
from tests.sim.world import MS, PPM, Machine, here

if TYPE_CHECKING:
    from tests.sim.records import Lease, Operation
    from tests.sim.schedule import Schedule
    from tests.sim.section import Requests

_GOES_ON = 0.3
_LOOKS_AROUND = 0.15
_EXTENSIONS = (0.01, 0.5, 1, 1, 1.5, 2, 3, 10, 60)
"""By how many TTLs a client extends a lease by hand."""
_BEGINS_FIRST_US = 10**9


class Interrupted(BaseException):
    """As the exception of a signal handler."""


class Client(Machine):
    """A process.

    Args:
        schedule: The schedule.
        name: The name in the history.
        max_ttl_ms: Its `max_ttl`, if not that of all others.
        parent: The process of which this one is a forked child.
    """

    def __init__(self, schedule: Schedule, name: str, max_ttl_ms: int = 0, parent: Client | None = None) -> None:
        chance = schedule.world.chance
        rate, offset = schedule.client_rate(), chance.randint(0, _BEGINS_FIRST_US)
        if parent is not None:
            rate, offset = parent.rate, parent.offset_us
        super().__init__(schedule.world, name, rate, offset)
        self.schedule = schedule
        self.options = schedule.options
        self.network = schedule.network
        self.wall_offset_us = schedule.wall_offset_us() if parent is None else parent.wall_offset_us
        self.max_ttl_ms = max_ttl_ms or self.options.max_ttl_ms
        self.ttl_ms = min(self.options.ttl_ms, self.max_ttl_ms)
        # A process may begin after the faults.
        self.stall_chance = self.options.stalls if schedule.faulty else 0.0
        self.longest_stall_us = self.options.ttl_ms * 2 * MS
        self.aliases = schedule.aliases(name)
        self.was_poor = False
        """Whether the process lacked threads or sockets at any time."""
        self.is_stopping = False
        """Whether the process ends when its threads have ended their operations."""
        self.workers: dict[Any, Any] = {}
        self.errors: Any = schedule.source.errors
        self._lifecycle: Any = schedule.source.package.module("_locking.process_lifecycle")
        self.redlock: Redlock
        self._parent = parent
        self.believed: dict[str, Lease] = {}
        """The leases that a thread may still extend or give up, by token."""
        self._began: dict[str, int] = {}
        """When the attempt with this token began."""
        self.spawn(self._main)

    def _main(self) -> None:
        if self._parent is None:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                self.redlock = self.kind(
                    self.network.urls,
                    ttl=self.ttl_ms / 1000,
                    max_ttl=self.max_ttl_ms / 1000,
                    node_timeout=min(self.options.timeout_ms, self.ttl_ms // 3) / 1000,
                )
        else:
            self.redlock = self._parent.redlock
            self.sets = {name: list(items) for name, items in self._parent.sets.items()}
            self._lifecycle._reset_all_after_fork()
        self.redlock._context.event_log = self.schedule.observer(self)
        self.begin_workers()

    @property
    def kind(self) -> Any:  # noqa: ANN401 - of the simulated package
        """The class of the shipped client."""
        return self.schedule.source.client.Redlock

    def begin_workers(self) -> None:
        for _ in range(self.options.threads):
            Worker(self)

    @property
    def own_ms(self) -> float:
        """The time for which the process ran, by its own clock."""
        return (self.clock_us() - self.frozen_us * self.rate // PPM) / MS

    def attempt_begins(self, secret: str) -> None:
        """An attempt has made an owner token, before the proposal of a fencing token."""
        self._began[secret] = self.world.now
        worker = self.worker()
        if worker is not None:
            if worker.held is not None and worker.held.remaining() > 0:
                self.world.violation(f"{self.name} tries for a lock that the same code holds, without a limit")
            self.schedule.attempt_begins(self)

    def interrupt(self) -> None:
        """Interrupt a worker with an operation, at the wait where it is parked; an event calls this."""
        busy = [worker for worker in self.workers.values() if worker.is_busy]
        if busy:
            self.world.chance.choice(busy).interrupt()

    def worker(self) -> Any:  # noqa: ANN401 - of either driver
        """The worker whose code runs now; None in other code."""
        return self.workers.get(here())

    def granted(self, grant: Grant) -> None:
        """The thread that runs believes that its lease is valid."""
        lease = self.schedule.granted(self, grant, self._began[grant.token.partition(":")[0]])
        self.believed[grant.token] = lease
        self.worker().tokens.append(grant.token)

    def extended(self, grant: Grant) -> None:
        """A thread believes in a later deadline."""
        lease = self.believed.get(grant.token)
        if lease is not None:
            lease.end = self.when_clock_shows(grant.deadline_ms)
        self.world.note("extended", self.name, grant.fence, grant.deadline_ms)

    def lost(self, grant: Grant, why: str) -> None:
        """The client knows that a lease is lost."""
        self.world.note("lost", self.name, grant.fence, why)

    def believe_no_more(self, tokens: list[str], known: int = 0) -> None:
        """A thread believes only in the first so many of its leases, from before the release of the others is sent."""
        for token in tokens[known:]:
            lease = self.believed.pop(token)
            lease.end = min(lease.end, self.world.now)
            self.world.note("release", self.name, lease.fence)
        del tokens[known:]

    def check_error(self, error: BaseException) -> None:
        """Only a process that lacked threads or sockets may raise another error than those of the package."""
        if not (self.was_poor or isinstance(error, (self.errors.RedlockError, Interrupted))):
            self.world.violation(f"{self.name} met {error!r}")

    def worker_ends(self, worker: Worker) -> None:
        """The process ends with its last thread, after all that is under way."""
        del self.workers[worker.strand]
        if not self.workers:
            if self.world.chance.random() < 0.5:
                self._lifecycle._await_all_releases()
            self.redlock.close()
            self.schedule.replace(self)

    def crash(self) -> None:
        """Be gone, and believe in no lease any more."""
        for lease in self.believed.values():
            lease.end = min(lease.end, self.world.now)
        for wire in self.network.wires_of(self) if self.alive else ():
            wire.close()
        super().crash()


class Worker:
    def __init__(self, client: Client) -> None:
        self.client = client
        self.schedule, self.options, self.world = client.schedule, client.options, client.world
        self.is_busy = False
        """Whether an exception may strike now: the thread has an operation."""
        self.tokens: list[str] = []
        """The tokens of the leases in which the thread believes."""
        self.held: HeldLease | None = None
        """A lease; while it is valid, no attempt of this thread may begin."""
        self._look_around = LookingAround(self)
        self.strand = client.spawn(self._work)
        client.workers[self.strand] = self

    def _work(self) -> None:
        while not self.client.is_stopping:
            operation = self.schedule.next_operation(self.strand)
            if operation is None:
                continue
            done = False
            try:
                self.is_busy = True
                done = self._run(operation)
            except (self.client.errors.RedlockError, Interrupted, RuntimeError, OSError) as error:
                self.client.check_error(error)
                self.world.note("gave up", self.client.name, operation.identity, type(error).__name__)
            finally:
                self.is_busy = False
                self.client.believe_no_more(self.tokens)
            if done:
                self.schedule.acknowledge(operation)
            else:
                self.strand.sleep(self.world.chance.randint(1, self.options.ttl_ms) * MS)
                self.schedule.requeue(operation)
        self.client.worker_ends(self)

    def interrupt(self) -> None:
        """Raise an exception in the thread, as a signal handler would; see `Client.interrupt`."""
        self.strand.interrupt(Interrupted())

    def _run(self, operation: Operation) -> bool:
        timeout_ms, chance = self.options.acquire_timeout_ms, self.world.chance
        lock = self.client.redlock.lock(
            operation.names,
            blocking_timeout=None if timeout_ms is None else timeout_ms / 1000,
            renew=self.options.renew,
            max_hold=self.client.ttl_ms * 3 / 1000 if chance.random() < _LOOKS_AROUND else None,
            reentrant=True,
            on_lost=self._lost,
            wait_for_release=chance.random() >= _GOES_ON,
        )
        with Timed(self.client, lock, timeout_ms) as lease:
            try:
                return self._section(lock, lease, operation)
            finally:
                self.client.believe_no_more(self.tokens)

    def _lost(self, lease: HeldLease) -> None:
        self.world.note("on_lost", self.client.name, lease.resource)

    def _section(self, lock: Lock, lease: HeldLease, operation: Operation) -> bool:
        chance = self.world.chance
        if chance.random() < _LOOKS_AROUND:
            self._look_around(lock, lease, operation)
        done = self._perform(section.update(self.client, lease, operation))
        if self.options.extends and chance.random() < _GOES_ON:
            # The lease was extended for this operation.
            try:
                lease.extend(self.client.ttl_ms / 1000 * chance.choice(_EXTENSIONS))
            except self.client.errors.RedlockError:
                return done
            self.strand.sleep(int(chance.random() * 4 * self.client.ttl_ms * MS))
        return done

    def _perform(self, requests: Requests[bool]) -> bool:
        reply = None
        try:
            while True:
                request, reply = requests.send(reply), None
                if isinstance(request, Question):
                    reply = self.schedule.ask_store(self.strand, request)
                else:
                    self.strand.sleep(request)
        except StopIteration as stop:
            return bool(stop.value)


class Stranger(Client):
    """A client with its own `max_ttl`, whose thread acquires the lock again and again, and only holds the lock."""

    def begin_workers(self) -> None:
        HoldingWorker(self)


class HoldingWorker(Worker):
    def _work(self) -> None:
        client, chance = self.client, self.world.chance
        while self.schedule.faulty:
            lock = client.redlock.lock("a", blocking_timeout=chance.choice((0, client.ttl_ms / 1000)))
            try:
                if lock.acquire():
                    lock.extend(client.max_ttl_ms / 1000, replace_ttl=True)
                    self.strand.sleep(int(client.max_ttl_ms * MS * chance.random()))
                    client.believe_no_more(self.tokens)
                    lock.release()
            except (client.errors.RedlockError, RuntimeError, OSError) as error:
                client.check_error(error)
                self.world.note("stranger", type(error).__name__)
            client.believe_no_more(self.tokens)
            self.strand.sleep(chance.randint(1, self.options.ttl_ms) * MS)


def observer(base: Any, client: Client) -> Any:  # noqa: ANN401 - a class of the simulated package
    """The log of a client that also tells the history of its leases."""

    class Observer(base):  # type: ignore[misc]  # see above
        def acquired(self, resource: str, grant: Grant, waited_ms: int) -> None:
            client.granted(grant)
            super().acquired(resource, grant, waited_ms)

        def extended(self, resource: str, grant: Grant) -> None:
            client.extended(grant)
            super().extended(resource, grant)

        def lost(self, resource: str, grant: Grant, why: str) -> None:
            client.lost(grant, why)
            super().lost(resource, grant, why)

        def released(self, resource: str, grant: Grant, outcome: Any) -> None:  # noqa: ANN401 - see above
            client.world.note("released", client.name, grant.fence, outcome.value)
            super().released(resource, grant, outcome)

    return Observer(client.redlock._context.nodes)
