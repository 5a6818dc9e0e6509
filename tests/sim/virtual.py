"""The modules of Python's library that the shipped code uses for time, chance, threads and sockets, in virtual time.

Invariants: everything belongs to the process of the strand that runs. Nothing waits for real time, and nothing depends
on the garbage collector: a dropped socket sends nothing.
"""

from __future__ import annotations

import os
import queue
import selectors
import socket
from collections import deque
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from redis.retry import Retry

from tests.sim.nodes import EPOCH_MS
from tests.sim.sockets import Selector, Socket, Waiters, time_limit
from tests.sim.world import MOST_READS, MS, PPM, Killed, Spins, here

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from typing_extensions import Self


def _monotonic_ns(_clock: int = 0) -> int:
    """The steady clock of the process, which may be stopped before or after the read."""
    machine = here().machine
    world = machine.world
    world.reads += 1
    if world.reads > MOST_READS and machine.alive:
        raise Spins
    shown = machine.offset_us + world.now * machine.rate // PPM
    if machine.stall_chance and machine.alive and world.chance.random() < machine.stall_chance:
        machine.stall()
        shown = shown if world.chance.random() < 0.5 else machine.clock_us()
    return shown * MS


def _monotonic() -> float:
    return _monotonic_ns() / 1e9


def _time_ns() -> int:
    _monotonic_ns()
    machine = here().machine
    return (EPOCH_MS * MS + machine.world.now + machine.wall_offset_us) * MS


def _sleep(seconds: float) -> None:
    strand = here()
    strand.park(strand.machine.time_after(seconds))


class SimpleQueue:
    """`queue.SimpleQueue`."""

    def __init__(self) -> None:
        self._items: deque[Any] = deque()
        self._waiters = Waiters()

    def __class_getitem__(cls, _: object) -> type[Self]:
        return cls

    def put(self, item: object) -> None:
        self._items.append(item)
        self._waiters.wake()

    def get(self, block: bool = True, timeout: float | None = None) -> Any:  # noqa: ANN401, FBT001, FBT002 - as the original
        until = time_limit(timeout)
        while not self._items:
            if not block or (until is not None and until <= here().machine.world.now):
                raise queue.Empty
            self._waiters.park(until)
        return self._items.popleft()

    def get_nowait(self) -> Any:  # noqa: ANN401 - as the original
        return self.get(block=False)

    def empty(self) -> bool:
        return not self._items


class Semaphore:
    """`threading.Semaphore`, and `threading.Lock` with one place."""

    def __init__(self, value: int = 1) -> None:
        self._free = value
        self._waiters = Waiters()

    def acquire(self, blocking: bool = True, timeout: float | None = None) -> bool:  # noqa: FBT001, FBT002 - as the original
        until = time_limit(None if timeout is None or timeout < 0 else timeout)
        while not self._free:
            if not blocking or (until is not None and until <= here().machine.world.now):
                return False
            self._waiters.park(until)
        self._free -= 1
        return True

    def release(self) -> None:
        self._free += 1
        self._waiters.wake()

    def locked(self) -> bool:
        return not self._free

    def __enter__(self) -> bool:
        return self.acquire()

    def __exit__(self, *_: object) -> None:
        self.release()


class Event:
    """`threading.Event`."""

    def __init__(self) -> None:
        self._is_set = False
        self._waiters = Waiters()

    def is_set(self) -> bool:
        return self._is_set

    def set(self) -> None:
        self._is_set = True
        self._waiters.wake_all()

    def wait(self, timeout: float | None = None) -> bool:
        until = time_limit(timeout)
        while not self._is_set and (until is None or until > here().machine.world.now):
            self._waiters.park(until)
        return self._is_set


class Thread:
    """`threading.Thread`, of the process that makes it."""

    def __init__(self, *, target: Callable[[], object], name: str = "", daemon: bool = True) -> None:
        self._target, self.name, self.daemon = target, name, daemon

    def start(self) -> None:
        machine = here().machine
        if not machine.alive:
            raise Killed
        machine.spawn(self._target)


class Local:
    """`threading.local`."""

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - as the original
        try:
            return here().locals[self][name]
        except KeyError:
            raise AttributeError(name) from None

    def __setattr__(self, name: str, value: object) -> None:
        here().locals.setdefault(self, {})[name] = value


def _getaddrinfo(host: str, port: int, **_: object) -> list[tuple[Any, ...]]:
    return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (host, port))]


def _fraction() -> float:
    return here().machine.world.chance.random()


def _choice(items: Sequence[Any]) -> Any:  # noqa: ANN401 - as the original
    return here().machine.world.chance.choice(items)


def _secret(size: int) -> str:
    machine = here().machine
    secret = machine.world.chance.getrandbits(8 * size).to_bytes(size, "big").hex()
    machine.attempt_begins(secret)
    return secret


class _Retry(Retry):
    """redis-py's, which copies it for each connection: that would be a tenth of the time of a schedule."""

    def __deepcopy__(self, _: object) -> Self:
        return self


def process_id() -> int:
    """The number of the process that runs now."""
    return here().machine.number


def _nothing(*_: object, **__: object) -> None:
    """The hooks at a fork and at the end of a process: simulated processes have none."""


MODULES: dict[str, Any] = {
    "atexit": SimpleNamespace(register=_nothing),
    "multiprocessing.util": SimpleNamespace(Finalize=_nothing, register_after_fork=_nothing),
    "os": SimpleNamespace(**vars(os) | {"register_at_fork": _nothing, "getpid": lambda: 1}),
    "redis.retry": SimpleNamespace(Retry=_Retry),
    "queue": SimpleNamespace(SimpleQueue=SimpleQueue, Empty=queue.Empty),
    "random": SimpleNamespace(random=_fraction, choice=_choice),
    "secrets": SimpleNamespace(token_hex=_secret),
    "selectors": SimpleNamespace(**vars(selectors) | {"DefaultSelector": Selector}),
    "socket": SimpleNamespace(
        **vars(socket) | {"socket": Socket, "getaddrinfo": _getaddrinfo, "gethostname": lambda: "host"}
    ),
    "threading": SimpleNamespace(
        current_thread=lambda: SimpleNamespace(name=here().machine.name),
        Event=Event,
        Lock=Semaphore,
        Semaphore=Semaphore,
        Thread=Thread,
        local=Local,
    ),
    "time": SimpleNamespace(
        CLOCK_BOOTTIME=7,
        clock_gettime_ns=_monotonic_ns,
        monotonic=_monotonic,
        monotonic_ns=_monotonic_ns,
        sleep=_sleep,
        time=lambda: _time_ns() / 1e9,
        time_ns=_time_ns,
    ),
}
"""By name; a simulated package imports these instead of Python's."""
