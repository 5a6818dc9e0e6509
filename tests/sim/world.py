"""The simulator's world: a queue of events in virtual time, one source of all chance, one history.

Invariants:
1. Time is an integer number of microseconds. Nothing reads a real clock or another source of chance, so a seed gives
   the same history everywhere.
2. A strand is a thread of a simulated process: ordinary blocking code, in a greenlet. A strand runs until it parks, and
   only events resume it. So no two strands run at once, and code takes no time.
3. A frozen process resumes nothing. A process that was killed unwinds its strands and sends nothing more.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable, Iterator
from typing import Any

from greenlet import GreenletExit, getcurrent, greenlet

MS = 1_000
PPM = 1_000_000
MOST_READS = 100_000
"""A strand that reads its clock more often between two events never waits."""
MOST_EVENTS = 1_000_000


class Killed(GreenletExit):  # type: ignore[misc]  # as Strand
    """Unwinds a strand whose process was killed."""


class Spins(BaseException):
    """A strand reads its clock without end and never waits."""


class World:
    """Virtual time, chance and history."""

    def __init__(self, seed: int) -> None:
        self.now = 0
        self.events = 0
        self.chance = random.Random(seed)
        self.history: list[tuple[Any, ...]] = []
        self.violations: list[str] = []
        self.hub = getcurrent()
        self.reads = 0
        """How often a clock was read since the last event."""
        self.machines: list[Machine] = []
        self._heap: list[tuple[int, int, Callable[..., None], tuple[Any, ...]]] = []
        self._order = 0
        self._until = 0

    def at(self, when: int, act: Callable[..., None], *arguments: Any) -> None:  # noqa: ANN401 - the act's own
        """Do this at that time."""
        self._order += 1
        heapq.heappush(self._heap, (when, self._order, act, arguments))

    def after(self, delay: int, act: Callable[..., None], *arguments: Any) -> None:  # noqa: ANN401 - the act's own
        """Do this in a while."""
        self._order += 1
        heapq.heappush(self._heap, (self.now + delay, self._order, act, arguments))

    def run(self, until: int) -> None:
        """Let events happen until that time, or until an event calls `stop`, or nothing is left to happen."""
        heap, pop, events = self._heap, heapq.heappop, self.events
        self._until = until
        while heap and heap[0][0] <= self._until:
            self.now, _, act, arguments = pop(heap)
            events += 1
            self.reads = 0
            act(*arguments)
            if events > MOST_EVENTS:
                break
        self.events = events

    @property
    def to_come(self) -> Iterator[tuple[int, Callable[..., None]]]:
        """The events that have not happened yet, in no order: their times and acts."""
        return ((when, act) for when, _, act, _ in self._heap)

    def stop(self) -> None:
        """Let no further event happen in this run."""
        self._until = -1

    def note(self, *what: object) -> None:
        """Put an event into the history."""
        self.history.append((self.now, *what))

    def violation(self, what: str) -> None:
        self.violations.append(f"{self.now / 1e6:.6f} s: {what}")
        self.note("VIOLATION", what)

    def close(self) -> None:
        """Unwind all strands, which would keep the world in memory."""
        for machine in self.machines:
            machine.crash()
            for sock in machine.sockets:
                sock.forget()


class Machine:
    """A process: its clocks and its strands.

    Args:
        world: The world.
        name: The name in the history.
        rate: The rate of its steady clock, in parts per million.
        offset_us: The first reading of its steady clock.
    """

    def __init__(self, world: World, name: str, rate: int = PPM, offset_us: int = 0) -> None:
        self.world = world
        self.name = name
        self.rate = rate
        self.offset_us = offset_us
        self.wall_offset_us = 0
        self.sets: dict[object, list[Any]] = {}
        """The weak sets in the global variables of the process."""
        self.sockets: list[Any] = []
        """All sockets so far; the place of a socket is its descriptor, which is not used again."""
        self.aliases: dict[int, int] = {}
        """Wrong addresses: for the place of a node, the place of the node to which the address leads."""
        self.frozen_until = 0
        self.freezes = 0
        """How often the process was frozen."""
        self.frozen_us = 0
        """For how long it was frozen, all in all."""
        self.lacks_threads = self.lacks_sockets = False
        """Whether the system refuses further threads, or further descriptors."""
        self.alive = True
        self.strands: list[Strand] = []
        self.stall_chance = 0.0
        """How often a read of the clock takes long: the process is stopped at an arbitrary instruction."""
        self.longest_stall_us = 0
        world.machines.append(self)
        self.number = len(world.machines)

    def clock_us(self) -> int:
        """The steady clock."""
        return self.offset_us + self.world.now * self.rate // PPM

    def clock_ms(self) -> int:
        """The steady clock, floored."""
        return self.clock_us() // MS

    def when_clock_shows(self, clock_ms: int) -> int:
        """The time at which the steady clock shows this."""
        return -(-(clock_ms * MS - self.offset_us) * PPM // self.rate)

    def time_after(self, seconds: float) -> int:
        """The time at which this many seconds have passed on the steady clock."""
        return self.world.now - int(-seconds * PPM * PPM // self.rate)

    def freeze(self, length: int) -> None:
        """Stop for a while; data that arrives meanwhile is read afterwards, in order."""
        self.freezes += 1
        until = max(self.frozen_until, self.world.now + length)
        self.frozen_us += until - max(self.frozen_until, self.world.now)
        self.frozen_until = until

    def attempt_begins(self, secret: str) -> None:
        """An attempt has made an owner token, before the proposal of a fencing token."""

    def stall(self) -> None:
        """Stop now, at this instruction."""
        self.freeze(int(self.world.chance.random() * self.longest_stall_us))
        here().park(self.frozen_until)

    def crash(self) -> None:
        """Be gone, with everything that was under way here."""
        if not self.alive:
            return
        self.alive = False
        for strand in self.strands:
            if not strand.dead:
                strand.throw(Killed)
        self.strands.clear()

    def deliver(self, act: Callable[..., None], *arguments: Any) -> None:  # noqa: ANN401 - the act's own
        """Let something happen on this machine: now, after a thaw, or never."""
        if not self.alive:
            return
        if self.frozen_until > self.world.now:
            self.world.at(self.frozen_until, self.deliver, act, *arguments)
            return
        act(*arguments)

    def spawn(self, function: Callable[[], object]) -> Strand:
        self.strands = [strand for strand in self.strands if not strand.dead]
        strand = Strand(self, function)
        self.strands.append(strand)
        self.world.after(0, self.deliver, strand.begin)
        return strand


class Strand(greenlet):  # type: ignore[misc]  # greenlet has no types
    """A thread of a process."""

    # Attributes of a greenlet without slots take several times as long.
    __slots__ = ("_function", "_to_hub", "locals", "machine", "ticket", "world")

    def __init__(self, machine: Machine, function: Callable[[], object]) -> None:
        super().__init__(self._live, machine.world.hub)
        self.machine = machine
        self.ticket = 1
        """The number of the wait, or of the next wait; a late event for an earlier wait does nothing."""
        self.locals: dict[object, Any] = {}
        """The values of `threading.local`."""
        self._function = function
        self.world = machine.world
        self._to_hub = machine.world.hub.switch

    def _live(self) -> None:
        try:
            self._function()
        except Exception as error:
            if self.machine.alive:
                self.machine.world.violation(f"a thread of {self.machine.name} ended with {error!r}")
                raise

    def begin(self) -> None:
        """Run to the first wait."""
        if not self.dead:
            self.switch()

    def park(self, until: int | None = None) -> Any:  # noqa: ANN401 - the waker's own
        """Wait for `wake`, at most until this time; returns the value, None at the end of the time."""
        if not self.machine.alive:
            raise Killed
        if until is not None:
            self.world.at(until, self.wake, self.ticket, None)
        return self._to_hub()

    def wake(self, ticket: int, value: object) -> None:
        """Resume this wait, now or when the process thaws; an event calls this, never a strand."""
        if ticket == self.ticket:
            self.machine.deliver(self._resume, ticket, value)

    def _resume(self, ticket: int, value: object) -> None:
        if ticket == self.ticket and not self.dead:
            self.ticket += 1
            self.switch(value)

    def interrupt(self, error: BaseException) -> None:
        """Raise this exception in the strand, as a signal handler would; an event calls this, never a strand."""
        if not self.dead:
            self.ticket += 1
            self.throw(error)

    def sleep(self, length: int) -> None:
        """Wait for this long by the world's clock."""
        self.park(self.machine.world.now + max(0, length))


here: Callable[[], Strand] = getcurrent
"""The strand that runs now."""
