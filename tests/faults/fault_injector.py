"""Injects every kind of fault into a running cluster fixture, and ends each fault.

Invariants:
1. `strike` begins a fault and returns a function that ends the fault. No function here waits for that end.
2. All calls come from the same long-lived thread: on Linux a server ends with the thread that started it.
3. A fault may begin before the previous fault has ended: killing a dead server changes nothing.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
from collections.abc import Callable, Sequence
from typing import TypeVar

from redlock.testing.redis_server import Server
from tests.faults.clocks import Clock
from tests.faults.cluster_fixture import PREFIX, TTL, ClusterFixture
from tests.faults.plan import Fault
from tests.faults.servers import ask, erase, is_up, revive
from tests.integration.processes import children
from tests.integration.worker_fixture import Worker
from tests.proxy import Proxy

T = TypeVar("T")


class FaultInjector:
    """Injects faults into a cluster fixture.

    Args:
        fixture: The cluster fixture.
        nodes: The proxies in front of the lock nodes.
        store: The proxy in front of the store.
        hire: Starts a worker in place of an ended worker.
        names: The counters in use.
        clocks: The wall clocks of the lock nodes; empty if they can't be set.
    """

    def __init__(
        self,
        fixture: ClusterFixture,
        nodes: Sequence[Proxy],
        store: Proxy,
        hire: Callable[[], Worker],
        names: Sequence[str],
        *,
        clocks: Sequence[Clock],
    ) -> None:
        self.fixture, self.nodes, self.store, self.names, self.clocks = fixture, nodes, store, names, clocks
        self._hire = hire
        self.workers: list[Worker] = []

    def staff(self, count: int) -> None:
        """Replace ended workers up to this count, without waiting for them: a wait would delay the end of faults."""
        self.workers = [worker for worker in self.workers if worker.process.poll() is None]
        while len(self.workers) < count:
            self.workers.append(self._hire())

    def strike(self, fault: Fault) -> Callable[[], None]:
        """Begin a fault and return a function that ends the fault."""
        self.fixture.tell(fault.kind, place=fault.place, length=fault.length)
        return KINDS[fault.kind](self, fault.place)

    def server(self, place: int) -> Server:
        """A lock node."""
        return self.fixture.nodes[place % len(self.fixture.nodes.servers)]

    def worker(self, place: int) -> Worker:
        return self.workers[place % len(self.workers)]

    def heal(self) -> None:
        """End all faults, so that all servers and workers run and answer again."""
        for server in (*self.fixture.nodes.servers, self.fixture.broker, self.fixture.store_server):
            revive(server)
        for link in (*self.nodes, self.store):
            link.restore()
        for clock in self.clocks:
            clock.run(1.0)
        for worker in self.workers:
            with contextlib.suppress(ProcessLookupError):
                worker.signal(signal.SIGCONT)


def kill_node(injector: FaultInjector, *places: int) -> Callable[[], None]:
    """Kill nodes; they return empty."""
    servers = [injector.server(place) for place in places]
    for server in servers:
        server.kill()
        erase(server)
    return lambda: _each(servers, revive)


def freeze_node(injector: FaultInjector, *places: int) -> Callable[[], None]:
    """Stop nodes with SIGSTOP; their connections stay open."""
    servers = [injector.server(place) for place in places]
    for server in servers:
        if is_up(server):
            server.freeze()
    return lambda: _each(servers, lambda server: server.thaw() if is_up(server) else None)


def restart_node(injector: FaultInjector, place: int) -> Callable[[], None]:
    """Kill a node after a snapshot, and start the node at once."""
    server = injector.server(place)
    ask(server, lambda redis: redis.save())
    server.kill()
    server.start()
    return lambda: None


def snapshot_node(injector: FaultInjector, place: int) -> Callable[[], None]:
    """Take a snapshot of a node now; at the end, kill the node and restore that snapshot."""
    server = injector.server(place)
    ask(server, lambda redis: redis.save())
    with contextlib.suppress(FileNotFoundError):
        shutil.copy(server.directory / "dump.rdb", server.directory / "old.rdb")

    def go_back() -> None:
        server.kill()
        erase(server, "old.rdb")
        server.start()

    return go_back


def flush_node(injector: FaultInjector, place: int) -> Callable[[], None]:
    ask(injector.server(place), lambda redis: redis.flushall())
    return lambda: None


def delete_key(injector: FaultInjector, place: int) -> Callable[[], None]:
    """Delete a lock on three nodes: two holders at once, kept apart only by the fence."""
    for number in range(3):
        ask(injector.server(place + number), lambda redis: redis.delete(*(PREFIX + name for name in injector.names)))
    return lambda: None


def jump_clock(injector: FaultInjector, place: int) -> Callable[[], None]:
    """Set a node's wall clock two leases ahead, and at the end back again."""
    clock, ahead = injector.clocks[place % len(injector.clocks)], 2 * TTL
    clock.jump(ahead)
    return lambda: clock.jump(-ahead)


def run_clocks_fast(injector: FaultInjector, place: int) -> Callable[[], None]:
    """Run the wall clocks of two nodes at three times their speed. The gained time stays."""
    chosen = [injector.clocks[(place + number) % len(injector.clocks)] for number in range(2)]
    _each(chosen, lambda clock: clock.run(3.0))
    return lambda: _each(chosen, lambda clock: clock.run(1.0))


def slow_links(injector: FaultInjector, place: int) -> Callable[[], None]:
    """Two links take up to a quarter of a second, either way: longer than a node may take to answer."""
    return _at_links(injector, place, 2, lambda link: setattr(link, "jitter", 0.25))


def cut_to(injector: FaultInjector, place: int) -> Callable[[], None]:
    """Delay all data to two nodes; data from the nodes arrives."""
    return _at_links(injector, place, 2, lambda link: link.hold("to"))


def cut_from(injector: FaultInjector, place: int) -> Callable[[], None]:
    """Two nodes receive and execute commands, but their replies are lost."""
    return _at_links(injector, place, 2, lambda link: link.hold("from"))


def half_open(injector: FaultInjector, place: int) -> Callable[[], None]:
    """Two nodes do not answer, and their connections stay open."""
    return _at_links(injector, place, 2, lambda link: link.hold("to", "from"))


def drop_links(injector: FaultInjector, place: int) -> Callable[[], None]:
    """Close all connections to two nodes, and refuse new connections."""
    return _at_links(injector, place, 2, lambda link: link.drop())


def hold_the_store(injector: FaultInjector, _place: int) -> Callable[[], None]:
    """Writes to the store arrive late; after a long fault, other holders have written before."""
    injector.store.hold("to")
    return injector.store.restore


def silence_the_store(injector: FaultInjector, _place: int) -> Callable[[], None]:
    """The store executes commands, but its replies are lost."""
    injector.store.hold("from")
    return injector.store.restore


def kill_the_store(injector: FaultInjector, _place: int) -> Callable[[], None]:
    """Kill the store, which keeps its confirmed writes."""
    injector.fixture.store_server.kill()
    return lambda: revive(injector.fixture.store_server)


def kill_the_broker(injector: FaultInjector, _place: int) -> Callable[[], None]:
    """Kill the broker, which keeps its confirmed messages."""
    injector.fixture.broker.kill()
    return lambda: revive(injector.fixture.broker)


def freeze_worker(injector: FaultInjector, place: int) -> Callable[[], None]:
    """All processes of a worker stop, wherever they are."""
    worker = injector.worker(place)
    with contextlib.suppress(ProcessLookupError):
        worker.signal(signal.SIGSTOP)
    return lambda: _signal(worker, signal.SIGCONT)


def kill_child(injector: FaultInjector, place: int) -> Callable[[], None]:
    worker = injector.worker(place)
    for pid in children(worker.process.pid)[:1]:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    return lambda: None


def kill_worker(injector: FaultInjector, place: int) -> Callable[[], None]:
    """A worker is killed, and another one takes its place."""
    injector.worker(place).kill()
    return lambda: None


def stop_worker(injector: FaultInjector, place: int) -> Callable[[], None]:
    """Stop a worker by SIGTERM; the worker finishes its running tasks."""
    _signal(injector.worker(place), signal.SIGTERM, all_of_it=False)
    return lambda: None


def stop_worker_cold(injector: FaultInjector, place: int) -> Callable[[], None]:
    """A worker is told to stop at once."""
    _signal(injector.worker(place), signal.SIGQUIT, all_of_it=False)
    return lambda: None


def _signal(worker: Worker, number: int, *, all_of_it: bool = True) -> None:
    with contextlib.suppress(ProcessLookupError):
        if all_of_it:
            worker.signal(number)
        elif worker.process.poll() is None:
            worker.process.send_signal(number)


def _each(struck: Sequence[T], act: Callable[[T], None]) -> None:
    for one in struck:
        act(one)


def _at_links(injector: FaultInjector, place: int, count: int, act: Callable[[Proxy], None]) -> Callable[[], None]:
    chosen = [injector.nodes[(place + number) % len(injector.nodes)] for number in range(count)]
    _each(chosen, act)
    return lambda: _each(chosen, lambda link: link.restore())


KINDS: dict[str, Callable[[FaultInjector, int], Callable[[], None]]] = {
    "node killed, back empty": kill_node,
    "two nodes killed": lambda injector, place: kill_node(injector, place, place + 2),
    "three nodes killed": lambda injector, place: kill_node(injector, place, place + 1, place + 3),
    "node frozen": freeze_node,
    "two nodes frozen": lambda injector, place: freeze_node(injector, place, place + 1),
    "node restarted with memory": restart_node,
    "node from an old snapshot": snapshot_node,
    "node flushed": flush_node,
    "clock of a node jumps": jump_clock,
    "clocks of two nodes run fast": run_clocks_fast,
    "links slow": slow_links,
    "links cut to the nodes": cut_to,
    "links cut from the nodes": cut_from,
    "links half-open": half_open,
    "links dropped": drop_links,
    "lock keys deleted": delete_key,
    "writes to the store held": hold_the_store,
    "answers of the store held": silence_the_store,
    "store killed": kill_the_store,
    "broker killed": kill_the_broker,
    "worker frozen": freeze_worker,
    "child killed": kill_child,
    "worker killed": kill_worker,
    "worker stopped": stop_worker,
    "worker stopped cold": stop_worker_cold,
}
"""Every kind of fault."""

NEEDS_CLOCKS = {"clock of a node jumps", "clocks of two nodes run fast"}
"""Faults that need nodes with adjustable clocks."""
