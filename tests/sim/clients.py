"""Clients: processes that run the shipped client for threads, and act like a task of the counter.

Rules: a client is one process. A fault freezes or kills the process at any event, stops it at any clock reading, or
interrupts it at any wait. Between the look at its deadline and its write there is always an event. The history records
when the client believes that a lease is valid: from the grant to the deadline by its clock, or to the release.
"""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

from tests.sim.network import FIRST_PORT
from tests.sim.records import Question
from tests.sim.world import MS, Machine, Strand

if TYPE_CHECKING:
    from types import TracebackType

    from redlock._core.votes import Grant
    from redlock.client import Redlock
    from redlock.lease import Lease as HeldLease
    from redlock.lock import Lock
    from tests.sim.records import Lease, Operation
    from tests.sim.schedule import Schedule

_STORE_TRIES = 4
_GOES_ON = 0.3
_EXTENSIONS = (0.01, 0.5, 1, 1, 1.5, 2, 3, 10, 60)
"""By how many TTLs a client extends a lease by hand."""
_REMEMBERED = str(7 * 24 * 3600 * 1000)
_RELEASE_MS = 80
_ROUNDING_MS = 2
_BEGINS_FIRST_US = 10**9


class Interrupted(BaseException):
    """As the exception of a signal handler."""


class Client(Machine):
    """One process."""

    def __init__(self, schedule: Schedule, name: str, max_ttl_ms: int = 0) -> None:
        chance = schedule.world.chance
        super().__init__(schedule.world, name, schedule.client_rate(), chance.randint(0, _BEGINS_FIRST_US))
        self.schedule = schedule
        self.options = schedule.options
        self.network = schedule.network
        self.wall_offset_us = schedule.wall_offset_us()
        self.max_ttl_ms = max_ttl_ms or self.options.max_ttl_ms
        self.ttl_ms = min(self.options.ttl_ms, self.max_ttl_ms)
        self.stall_chance, self.longest_stall_us = self.options.stalls, self.options.ttl_ms * 2 * MS
        self.is_busy = False
        """Whether an exception may strike now: the client has an operation."""
        self._believes: list[Lease] = []
        """The leases that a client may still extend or give up."""
        self._began: dict[str, int] = {}
        """When the attempt with this token began."""
        self.redlock: Redlock
        self.main: Strand = self.spawn(self._main)

    def _main(self) -> None:
        errors = self.schedule.source.errors
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self.redlock = self.schedule.source.client.Redlock(
                [f"redis://10.0.0.1:{FIRST_PORT + node.place}" for node in self.schedule.nodes],
                ttl=self.ttl_ms / 1000,
                max_ttl=self.max_ttl_ms / 1000,
                node_timeout=min(self.options.timeout_ms, self.ttl_ms // 3) / 1000,
            )
        self.redlock._context.event_log = self.schedule.observer(self)
        self._work(errors)

    def _work(self, errors: Any) -> None:  # noqa: ANN401 - a module of the simulated package
        while True:
            operation = self.schedule.next_operation(self.main)
            done = False
            try:
                self.is_busy = True
                done = self._run(operation)
            except (errors.RedlockError, Interrupted) as error:
                self.world.note("gave up", self.name, operation.identity, type(error).__name__)
            finally:
                self.is_busy = False
                self._believe_no_more()
            if done:
                self.schedule.acknowledge(operation)
            else:
                self.main.sleep(self.world.chance.randint(1, self.options.ttl_ms) * MS)
                self.schedule.requeue(operation)

    def _run(self, operation: Operation) -> bool:
        timeout_ms = self.options.acquire_timeout_ms
        lock = self.redlock.lock(
            operation.names,
            blocking_timeout=None if timeout_ms is None else timeout_ms / 1000,
            renew=self.options.renew,
            wait_for_release=self.world.chance.random() >= _GOES_ON,
        )
        with Timed(self, lock, timeout_ms) as lease:
            try:
                return self._section(lease, operation)
            finally:
                self._believe_no_more()

    @property
    def own_ms(self) -> float:
        """The time for which the process ran, by its own clock."""
        return (self.clock_us() - self.frozen_us) / MS

    def _section(self, lease: HeldLease, operation: Operation) -> bool:
        chance, errors = self.world.chance, self.schedule.source.errors
        done = self._update(lease, operation)
        if self.options.extends and chance.random() < _GOES_ON:
            # The lease was extended for this operation.
            try:
                lease.extend(self.ttl_ms / 1000 * chance.choice(_EXTENSIONS))
            except errors.RedlockError:
                return done
            self.main.sleep(int(chance.random() * 4 * self.ttl_ms * MS))
        return done

    def _update(self, lease: HeldLease, operation: Operation) -> bool:
        name, fence, token = operation.names[0], lease.fence, lease.owner
        while True:
            opened = self._store("open", name, (str(fence), token))
            if opened is None:
                return False
            if opened[0] == "STALE":
                self.schedule.stale(self, "open")
                self.redlock.observe_fence(operation.names, int(opened[1]))
                return False
            value = int(opened[2]) if len(opened) > 2 and opened[2] else 0
            self.main.sleep(int(self.options.think_ms * MS * self.world.chance.random()))
            if self.options.looks:
                lease.ensure_valid()
            # The gap between the check of the deadline and the effect, which no client can avoid.
            self.main.sleep(1)
            arguments = (str(fence), token, str(opened[1]), str(value + 1), _REMEMBERED)
            written = self._store("write", name, arguments, operation.identity)
            if written is None:
                return False
            if written[0] != "STALE":
                return True
            self.schedule.stale(self, "write")
            if int(written[1]) != fence:
                self.redlock.observe_fence(operation.names, int(written[1]))
                return False

    def _store(self, door: str, name: str, arguments: tuple[str, ...], identity: str = "") -> Any:  # noqa: ANN401 - the store's reply
        """Ask the store, again if there is no answer; None if there was none at all."""
        for _ in range(_STORE_TRIES):
            reply = self.schedule.ask_store(self.main, Question(door, name, arguments, identity))
            if reply is not None:
                return reply
        return None

    def attempt_begins(self, token: str) -> None:
        """An attempt has made an owner token, before the proposal of a fencing token."""
        self._began[token] = self.world.now
        self.schedule.attempt_begins(self)

    def granted(self, grant: Grant) -> None:
        """The client believes that its lease is valid."""
        self._believes.append(self.schedule.granted(self, grant, self._began[grant.token.partition(":")[0]]))

    def extended(self, grant: Grant) -> None:
        """The client believes in a later deadline."""
        for lease in self._believes:
            if lease.fence == grant.fence:
                lease.end = self.when_clock_shows(grant.deadline_ms)
        self.world.note("extended", self.name, grant.fence, grant.deadline_ms)

    def _believe_no_more(self) -> None:
        """The holder no longer believes that its leases are valid, from before the release is sent."""
        for lease in self._believes:
            lease.end = min(lease.end, self.world.now)
            self.world.note("release", self.name, lease.fence)
        self._believes.clear()

    def crash(self) -> None:
        """Be gone, and believe in no lease any more."""
        for lease in self._believes:
            lease.end = min(lease.end, self.world.now)
        for wire in self.network.wires_of(self) if self.alive else ():
            wire.close()
        super().crash()


class Timed:
    """A lock with a time limit for entry and exit. The time for which the process was frozen does not count.

    Args:
        client: The client.
        lock: Its lock.
        timeout_ms: The time limit of the acquisition; None for no limit.
    """

    def __init__(self, client: Client, lock: Lock, timeout_ms: int | None) -> None:
        self._client, self._lock, self._timeout_ms = client, lock, timeout_ms
        self._node_timeout_ms = client.redlock._context.node_timeout_ms

    def __enter__(self) -> HeldLease:
        client = self._client
        began, began_ms, frozen_us = client.world.now, client.own_ms, client.frozen_us
        try:
            return self._lock.__enter__()
        finally:
            if self._timeout_ms is not None:
                # A process that was stopped gives its dials a further node timeout.
                timeouts = 2 + (client.frozen_us != frozen_us)
                self._check("acquire", began_ms, self._timeout_ms + timeouts * self._node_timeout_ms)
            elif client.alive and client.schedule.calm_since is not None:
                waited_us = client.world.now - max(began, client.schedule.calm_since)
                client.schedule.check_wait(client, waited_us)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        began_ms = self._client.own_ms
        try:
            self._lock.__exit__(kind, error, traceback)
        finally:
            self._check("release", began_ms, _RELEASE_MS + 4 * self._node_timeout_ms)

    def _check(self, call: str, began_ms: float, limit_ms: int) -> None:
        client = self._client
        took_ms = client.own_ms - began_ms
        if client.alive and took_ms > limit_ms + _ROUNDING_MS:
            client.world.violation(f"{call} of {client.name} took {took_ms:.1f} ms, more than {limit_ms} ms")


class Stranger(Client):
    """A client with its own `max_ttl` that acquires the lock again and again, and only holds the lock."""

    def _work(self, errors: Any) -> None:  # noqa: ANN401 - a module of the simulated package
        chance = self.world.chance
        while self.schedule.faulty:
            lock = self.redlock.lock("a", blocking_timeout=chance.choice((0, self.ttl_ms / 1000)))
            try:
                if lock.acquire():
                    self.schedule.strangers_won += 1
                    lock.extend(self.max_ttl_ms / 1000, replace_ttl=True)
                    self.main.sleep(int(self.max_ttl_ms * MS * chance.random()))
                    self._believe_no_more()
                    lock.release()
            except errors.RedlockError as error:
                self.world.note("stranger", type(error).__name__)
            self._believe_no_more()
            self.main.sleep(chance.randint(1, self.options.ttl_ms) * MS)


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
            client.world.note("lost", client.name, grant.fence, why)
            super().lost(resource, grant, why)

        def released(self, resource: str, grant: Grant, outcome: Any) -> None:  # noqa: ANN401 - see above
            client.world.note("released", client.name, grant.fence, outcome.value)
            super().released(resource, grant, outcome)

    return Observer(client.redlock._context.nodes)
