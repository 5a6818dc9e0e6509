"""The modules of Python's library that the shipped code uses for time, chance, threads and sockets, in virtual time.

Invariants: everything belongs to the process of the strand that runs. Nothing waits for real time. Weak references end
with the garbage collector, and sockets do not depend on it: a dropped socket sends nothing.
"""

from __future__ import annotations

import os
import queue
import select
import socket
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from types import ModuleType, NoneType, SimpleNamespace
from typing import TYPE_CHECKING, Any, ClassVar

import redis.connection

from tests.sim.nodes import EPOCH_MS
from tests.sim.sockets import Poll, Socket, Waiters, time_limit
from tests.sim.world import MOST_READS, MS, PPM, Killed, Spins, Strand, here

if TYPE_CHECKING:
    from typing_extensions import Self


def _monotonic_ns(_clock: int = 0) -> int:
    """The steady clock of the process, which may be stopped before or after the read."""
    machine = here().machine
    world = machine.world
    reads = world.reads = world.reads + 1
    shown: int = machine.offset_us + world.now * machine.rate // PPM
    if reads > MOST_READS and machine.alive:
        raise Spins
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
        if self._waiters.strands:
            self._waiters.wake()

    def get(self, block: bool = True, timeout: float | None = None) -> Any:  # noqa: ANN401, FBT002 - as the original
        if not self._items:
            until, world = time_limit(timeout), here().world
            while not self._items:
                if not block or (until is not None and until <= world.now):
                    raise queue.Empty
                self._waiters.park(until)
        return self._items.popleft()

    def get_nowait(self) -> Any:  # noqa: ANN401 - as the original
        if not self._items:
            raise queue.Empty
        return self._items.popleft()

    def empty(self) -> bool:
        return not self._items


class Semaphore:
    """`threading.Semaphore`, and `threading.Lock` with one place."""

    def __init__(self, value: int = 1) -> None:
        self._free = value
        self._waiters = Waiters()

    def acquire(self, blocking: bool = True, timeout: float | None = None) -> bool:  # noqa: FBT002 - as the original
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
        if machine.lacks_threads:
            raise RuntimeError("can't start new thread")
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


class _Connection(redis.connection.Connection):
    """redis-py's. The client only reads the options, so the same options give the same object.

    A new object for each dial would be a tenth of the time of a schedule.
    """

    _made: ClassVar[dict[tuple[object, ...], Self]] = {}

    def __new__(cls, **options: object) -> Self:
        key = (cls, *[(name, value if type(value) in _PLAIN else type(value)) for name, value in options.items()])
        known = cls._made.get(key)
        if known is None:
            known = cls._made[key] = super().__new__(cls)
            redis.connection.Connection.__init__(known, **options)  # type: ignore[no-untyped-call]  # redis-py's
        return known

    def __init__(self, **_: object) -> None:
        """Nothing: the object is complete."""


_PLAIN = {bool, int, float, str, NoneType}


class ProcessSet:
    """`weakref.WeakSet` in a global variable: each process has its own, and a child begins with that of its parent."""

    def add(self, item: object) -> None:
        here().machine.sets.setdefault(self, []).append(item)

    def __iter__(self) -> Iterator[Any]:
        return iter(here().machine.sets.get(self, ()))


def process_id() -> int:
    """The number of the process that runs now."""
    return here().machine.number


def _getpid() -> int:
    # Modules are loaded outside all processes.
    return process_id() if isinstance(here(), Strand) else 1


def _nothing(*_: object, **__: object) -> None:
    """Registers a hook at a fork or at the end of a process: the simulated client calls the functions itself."""


def _module(**names: object) -> ModuleType:
    # Python reads an attribute of a module faster than that of any other object.
    module = ModuleType("virtual")
    vars(module).update(names)
    return module


MODULES: dict[str, Any] = {
    "atexit": _module(register=_nothing),
    "multiprocessing.util": _module(Finalize=_nothing, register_after_fork=_nothing),
    "os": _module(**vars(os) | {"register_at_fork": _nothing, "getpid": _getpid}),
    "redis.connection": _module(**vars(redis.connection) | {"Connection": _Connection}),
    "queue": _module(SimpleQueue=SimpleQueue, Empty=queue.Empty),
    "random": _module(random=_fraction, choice=_choice),
    "secrets": _module(token_hex=_secret),
    "select": _module(POLLIN=select.POLLIN, POLLOUT=select.POLLOUT, poll=Poll),
    "socket": _module(**vars(socket) | {"socket": Socket, "getaddrinfo": _getaddrinfo, "gethostname": lambda: "host"}),
    "threading": _module(
        current_thread=lambda: SimpleNamespace(name=here().machine.name),
        main_thread=lambda: None,  # no simulated thread gets signals
        get_native_id=_getpid,
        Event=Event,
        Lock=Semaphore,
        Semaphore=Semaphore,
        Thread=Thread,
        local=Local,
    ),
    "time": _module(
        CLOCK_BOOTTIME=7,
        clock_gettime_ns=_monotonic_ns,
        monotonic=_monotonic,
        monotonic_ns=_monotonic_ns,
        gmtime=time.gmtime,
        sleep=_sleep,
        strftime=time.strftime,
        time=lambda: _time_ns() / 1e9,
        time_ns=_time_ns,
    ),
    "weakref": _module(**vars(weakref) | {"WeakSet": ProcessSet}),
}
"""By name; a simulated package imports these instead of Python's."""
