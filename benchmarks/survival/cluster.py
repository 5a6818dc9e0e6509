"""The servers, workers and sender of the Celery scenarios. This lock has five nodes, each package has a single node.

Invariants:
1. Each scenario has fresh servers and processes.
2. The worker and the sender run in the environment of the package under test.
3. The lines of the task body show the runs.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
from typing import TYPE_CHECKING, Any, NamedTuple

from redis import Redis

from benchmarks.bench import sixth_server
from benchmarks.environment import ENVIRONMENTS, OURS, ROOT, Kind, prepare
from benchmarks.process import Process, Program, background
from benchmarks.survival.workers import Refused, passed
from redlock.testing.redis_server import cluster, free_port

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from redlock.testing.redis_server import Cluster

KINDS = (
    OURS,
    Kind("celery-once", quorum=False, needs=("celery-once==3.0.1", "celery[redis]>=5.7,<6", "redis[hiredis]")),
    Kind(
        "celery-singleton", quorum=False, needs=("celery-singleton==0.3.1", "celery[redis]>=5.7,<6", "redis[hiredis]")
    ),
)
_NAME = "it"
_READY = 60.0
DONE = 20.0
"""Seconds within which a task that may run must run."""


class ClusterFixture(NamedTuple):
    """The package under test, and the directory of the logs."""

    kind: Kind
    out: Path

    @contextlib.contextmanager
    def play(
        self, *, timeout: int | None = None, workers: int = 1, options: Sequence[str] = (), down: bool = False
    ) -> Iterator[Play]:
        """Start servers, workers and a sender; with `down` the first Redis of the lock is dead from the start."""
        count = 5 if self.kind is OURS else 1
        with contextlib.ExitStack() as stack:
            ports = [free_port() for _ in range(count)]
            nodes = stack.enter_context(cluster(ports=ports, options=options))
            sixth = stack.enter_context(sixth_server())
            if down:
                nodes[0].kill()
            environment = _environment(self.kind, nodes, sixth.url, timeout)
            python = sys.executable if self.kind is OURS else str(ENVIRONMENTS / self.kind.name / "bin" / "python")
            place = ROOT if self.kind is OURS else prepare(self.kind).directory
            store = stack.enter_context(Redis.from_url(f"{sixth.url}/2", decode_responses=True))
            for number in range(workers):
                stack.enter_context(
                    background(_command(python, number), place, os.environ | environment, self.out / "survival.log")
                )
            program = Program((python, "-m", "benchmarks.survival.sender"), place, environment)
            sender = stack.enter_context(Process(program, self.out / "survival.log"))
            play = Play(nodes, store, sender)
            if not passed(lambda: len(play.log("ready")) == workers, _READY):
                raise Refused("the worker did not start; see survival.log")
            yield play


class Play(NamedTuple):
    """The running servers and processes of one scenario.

    Attributes:
        nodes: The servers of the lock, five or one.
        store: The server with the lines of the tasks.
        sender: The process that sends the tasks.
    """

    nodes: Cluster
    store: Redis
    sender: Process

    def send(self, number: int, seconds: float = 0.0, retries: int = 0) -> str | None:
        """Send a task, and return the id that the sender got.

        Raises:
            Refused: The call in the sender raised an error.
        """
        answer = self.sender.ask("send", name=_NAME, number=number, seconds=seconds, retries=retries)
        if "error" in answer:
            raise Refused(answer["error"])
        given: str | None = answer["id"]
        return given

    def revoke(self, task_id: str | None) -> None:
        """Terminate a running task."""
        self.sender.ask("revoke", id=task_id)

    def log(self, what: str, number: int | None = None) -> list[dict[str, Any]]:
        """The lines of this kind, of one task or of all."""
        lines = [json.loads(line) for line in self.store.lrange("log", 0, -1)]
        return [line for line in lines if line["what"] == what and number in (None, line["number"])]

    def started(self, number: int, within: float = DONE) -> bool:
        """Whether this task begins in time."""
        return passed(lambda: bool(self.log("in", number)), within)

    def done(self, number: int, within: float = DONE) -> bool:
        """Whether this task ends in time."""
        return passed(lambda: bool(self.log("out", number)), within)

    def holding(self) -> dict[str, Any]:
        """Wait until task 1 is in its body, and return its line.

        Raises:
            Refused: The task did not start.
        """
        if not self.started(1):
            raise Refused("the first task did not start")
        return self.log("in", 1)[0]


def _environment(kind: Kind, nodes: Cluster, sixth: str, timeout: int | None) -> dict[str, str]:
    return {
        "SURVIVAL_LOCK": kind.name,
        "SURVIVAL_BROKER": f"{sixth}/0",
        "SURVIVAL_STORE": f"{sixth}/2",
        "SURVIVAL_TIMEOUT": "" if timeout is None else str(timeout),
        "REDLOCK_NODES": ",".join(nodes.urls),
    }


def _command(python: str, number: int) -> list[str]:
    options = ("-c", "2", "-n", f"w{number}@%h", "--without-gossip", "--without-mingle", "--without-heartbeat")
    return [python, "-m", "celery", "-A", "benchmarks.survival.celery_app", "worker", *options]
