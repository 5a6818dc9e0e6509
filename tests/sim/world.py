"""The simulator's world: one queue of events in virtual time, one source of all chance, one history.

Rules: time is an integer number of microseconds; nothing reads a real clock or another source of chance, so a
seed gives the same history everywhere. An actor is a generator that yields `(start, *arguments)`: the world calls
`start(actor, *arguments)`, and whoever was started resumes the actor later with a value.
"""

from __future__ import annotations

import heapq
import random
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

MS = 1_000


class World:
    """Virtual time, chance and history."""

    __slots__ = ("_heap", "_order", "chance", "events", "history", "now", "recording", "violations")

    def __init__(self, seed: int, *, recording: bool = False) -> None:
        self.now = 0
        self.events = 0
        self.chance = random.Random(seed)
        self.history: list[tuple[Any, ...]] = []
        self.violations: list[str] = []
        self.recording = recording
        self._heap: list[tuple[int, int, Callable[..., None], tuple[Any, ...]]] = []
        self._order = 0

    def at(self, when: int, act: Callable[..., None], *arguments: Any) -> None:  # noqa: ANN401 - the act's own
        """Do this at that time."""
        self._order += 1
        heapq.heappush(self._heap, (when, self._order, act, arguments))

    def after(self, delay: int, act: Callable[..., None], *arguments: Any) -> None:  # noqa: ANN401 - the act's own
        """Do this in a while."""
        self._order += 1
        heapq.heappush(self._heap, (self.now + delay, self._order, act, arguments))

    def run(self, until: int, done: Callable[[], bool]) -> None:
        """Let events happen until that time, or until all is done, or nothing is left to happen."""
        heap, pop = self._heap, heapq.heappop
        while heap and heap[0][0] <= until and not done():
            self.now, _, act, arguments = pop(heap)
            self.events += 1
            act(*arguments)

    def note(self, *what: object) -> None:
        """Put an event into the history."""
        self.history.append((self.now, *what))

    def violation(self, what: str) -> None:
        """A promise was broken."""
        self.violations.append(f"{self.now / 1e6:.6f} s: {what}")
        self.note("VIOLATION", what)


class Machine:
    """Something that runs actors and can be frozen or crash."""

    def __init__(self, world: World, name: str) -> None:
        self.world = world
        self.name = name
        self.frozen_until = 0
        self.alive = True
        self.actors: list[Actor] = []

    def freeze(self, length: int) -> None:
        """Stop for a while; data that arrives meanwhile is read afterwards, in order."""
        self.frozen_until = max(self.frozen_until, self.world.now + length)

    def crash(self) -> None:
        """Be gone, with everything that was under way here."""
        self.alive = False
        for actor in self.actors:
            actor.generator.close()
        self.actors.clear()

    def deliver(self, act: Callable[..., None], *arguments: Any) -> None:  # noqa: ANN401 - the act's own
        """Let something happen on this machine: now, after a thaw, or never."""
        if not self.alive:
            return
        if self.frozen_until > self.world.now:
            self.world.at(self.frozen_until, self.deliver, act, *arguments)
            return
        act(*arguments)

    def spawn(self, generator: Generator[Any, Any, None]) -> None:
        """Start an actor."""
        actor = Actor(self, generator)
        self.actors.append(actor)
        actor.resume(None)


class Actor:
    """A generator that runs on a machine."""

    __slots__ = ("generator", "machine")

    def __init__(self, machine: Machine, generator: Generator[Any, Any, None]) -> None:
        self.machine = machine
        self.generator = generator

    def wake(self, value: object) -> None:
        """Resume, now or when the machine thaws."""
        self.machine.deliver(self.resume, value)

    def resume(self, value: object) -> None:
        """Run to the next wait."""
        if not self.machine.alive:
            return
        try:
            start, *arguments = self.generator.send(value)
        except StopIteration:
            if self in self.machine.actors:
                self.machine.actors.remove(self)
            return
        start(self, *arguments)


def sleep(actor: Actor, length: int) -> None:
    """Resume after this long."""
    actor.machine.world.after(max(0, length), actor.wake, None)
