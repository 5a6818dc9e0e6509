"""The cluster fixture of the fault tests: a separate store, and a history that all processes write.

Invariants:
1. The fixture works without pytest: the commands `tests.faults.freeze` and `tests.faults.soak` use it too.
2. The verdict is that of `checker`, on all sent operations, the history of all processes and the store's own file.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from redis import Redis

from redlock.testing import redis_server
from tests.faults import accepted, checker
from tests.faults.history import WHERE, Event, History, append
from tests.integration.tools import eventually, sixth_redis
from tests.integration.worker_fixture import Worker, WorkerFixture
from tests.sim.records import Operation

APPS = "tests.faults.apps"
PREFIX = "faults:"
"""The prefix of a counter's name in the name of its lock."""
TTL, MAX_TTL = 1.0, 2.0


class ClusterFixture(WorkerFixture):
    """A fixture with a history, and with a store apart from the broker."""

    def __init__(
        self, nodes: redis_server.Cluster, broker: redis_server.Server, store: redis_server.Server, directory: Path
    ) -> None:
        super().__init__(nodes, broker, directory)
        self.store_server = store
        self.store.close()
        self.store = Redis.from_url(f"{store.url}/0", decode_responses=True)
        self._where = directory / "history"
        self._where.mkdir()
        self.history = History(self._where)
        self.environment |= {
            "COUNTER_STORE_URL": f"{store.url}/0",
            "REDLOCK_TTL": str(TTL),
            "REDLOCK_MAX_TTL": str(MAX_TTL),
            # Two node timeouts must fit the TTL.
            "REDLOCK_NODE_TIMEOUT": str(TTL / 4),
            WHERE: str(self._where),
        }

    def hire(self, *extra: str, concurrency: int = 1, **settings: str) -> Worker:
        """Start a worker that knows the tasks that keep a history."""
        return super().hire("--include", f"{APPS}.counting,{APPS}.endings", *extra, concurrency=concurrency, **settings)

    def kill_workers(self) -> None:
        for worker in self._workers:
            if worker.process.poll() is None:
                worker.kill()

    def play(self, task: str, name: str, *args: object, **options: Any) -> str:  # noqa: ANN401 - Celery's options
        """Enqueue an increment of this counter and return the operation's id."""
        op = self.send(f"{APPS}.{task}", name, *args, **options)
        append(str(self._where), "sent", op, {"name": name, "task": task})
        return op

    def tell(self, fault: str, **fields: object) -> None:
        """Put a fault into the history."""
        append(str(self._where), "fault", "", {"fault": fault, **fields})

    def steps(self, op: str, *whats: str) -> list[Event]:
        """The events of an operation in the history."""
        return self.history.events(*whats, op=op)

    def wait_for(self, op: str, what: str) -> Event:
        """Wait for an event of this kind of an operation, and return the first such event."""
        return eventually(lambda: self.steps(op, what), f"{what!r} of {op}", within=60, every=0.02)[0]

    def waiting(self) -> int:
        """How many messages wait for a worker."""
        with Redis.from_url(f"{self.broker.url}/0", socket_timeout=2) as redis:
            return int(redis.llen("celery"))

    def applied(self, op: str) -> int:
        """How often the store has accepted this operation."""
        return sum(write.identity == op for write in self.accepted().writes)

    def accepted(self) -> accepted.Accepted:
        return accepted.read(self.store_server.directory)

    def releases(self, name: str) -> int:
        """How often a worker has released the lock of this counter in time, by the logs."""
        return sum(f"redlock: released resource={PREFIX + name!r} " in line for line in self._log_lines())

    def forgotten(self) -> list[Operation]:
        """The sent operations that are neither accepted nor at work. The broker redelivers those of killed workers."""
        events = self.history.events("invoke", "end")
        at_work = Counter(event.op for event in events if event.what == "invoke")
        at_work.subtract(event.op for event in events if event.what == "end")
        done = {write.identity for write in self.accepted().writes}
        sent = checker.sent(self.history.events())
        return [one for one in sent if one.identity not in done and not at_work[one.identity]]

    def settle(self, within: float = 60.0) -> None:
        """Wait until the queue is empty and no task runs."""
        eventually(self.is_idle, "the end of all tasks", within=within, every=0.1)

    def violations(self, *, keeps: bool, settled: bool = True, besides: Collection[str] = ()) -> list[str]:
        """The verdict on all counters besides these."""
        events = [event for event in self.history.events() if event.fields.get("name") not in besides]
        accepted = self.accepted()
        for name in besides:
            accepted.counters.pop(name, None)
        accepted = accepted._replace(writes=[write for write in accepted.writes if write.name not in besides])
        return checker.violations(events, accepted, keeps=keeps, settled=settled)

    def figures(self) -> checker.Figures:
        return checker.figures(self.history.events(), self.accepted())


@contextlib.contextmanager
def cluster_fixture(directory: Path) -> Iterator[ClusterFixture]:
    """Five nodes, a broker, a store, and no workers."""
    with (
        redis_server.cluster() as nodes,
        sixth_redis() as broker,
        sixth_redis(*accepted.OPTIONS) as store,
        ClusterFixture(nodes, broker, store, directory) as fixture,
    ):
        yield fixture
