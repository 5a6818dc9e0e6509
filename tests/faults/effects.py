"""The effects of tasks in all three modes, while workers are killed and the broker restarts.

`python -m tests.faults.effects --kind quorum --tasks 2000` sends the tasks over 20 keys.

Invariants:
1. Every two seconds a worker gets a signal: SIGKILL or SIGTERM to a child, SIGKILL to all processes, a warm or a cold
   shutdown. The broker is killed and started twice.
2. The verdict uses the effects in the fenced store. A successful task that was not skipped has exactly one effect; a
   skipped or refused task has none. Only the mode `skip` skips, and only `raise` refuses.
3. Each task ends, and never in two different ways. No task fails for another reason than its lock.
4. A task that Redis lost is sent again with the same id, and counted: kombu takes a message off the queue before it
   records the message as unacknowledged. Each death of a worker or broker can lose one message of each worker that it
   cuts off; more is a violation. RabbitMQ must lose no task.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from celery import Celery
from kombu.exceptions import OperationalError
from redis import Redis
from typing_extensions import Self

from redlock.testing import redis_server
from tests.faults.crew import Crew, Outcome
from tests.integration.processes import children
from tests.integration.rabbit import PROGRAM, rabbit
from tests.integration.tools import comes_true, sixth_redis

APP = "tests.faults.apps.effects"
KINDS = ("redis", "classic", "quorum")
MODES = ("requeue", "skip", "raise")
KEYS, WORKERS, CHILDREN = 20, 3, 3
RESTARTS = 2
_EVERY = 2.0
_MOST = 0.4
"""Seconds that a body takes at most."""
_LAST = 300.0
_TRIES = 3
_FINAL = {"SUCCESS", "FAILURE", "REVOKED"}
_REFUSED = "LockContended"
_REFUSALS = {_REFUSED: ("raise",), "QuorumUnavailable": ("skip", "raise")}
"""The errors of a task without its lock, and the modes that raise them. A busy machine can make a quorum late."""
_REASONS = {"", "LockLost", *_REFUSALS}
"""Not `NotHeld`: a body that runs without its lock ends with it."""
_STRIKES = ("child SIGKILL", "child SIGTERM", "worker SIGKILL", "warm shutdown", "cold shutdown")
_MANY = 1_000
"""Tasks of a run in which each fault and each policy must have happened."""
_FORGOTTEN = "forgotten by the broker"


class End(NamedTuple):
    mode: str
    state: str
    skipped: bool
    error: str
    effects: int
    ends: tuple[str, ...]


def violations(ends: dict[str, End]) -> list[str]:
    """The violations in these ends as text."""
    wrong = []
    for task, end in ends.items():
        if end.state not in _FINAL:
            wrong.append(f"{task} has no end: {end.state}")
        if len(set(end.ends)) > 1:
            wrong.append(f"{task} has several ends: {end.ends}")
        if end.state == "SUCCESS" and not end.skipped and end.effects != 1:
            wrong.append(f"{task} succeeded and has {end.effects} effects")
        if end.skipped and end.mode != "skip":
            wrong.append(f"{task} was skipped by the mode {end.mode}")
        if end.mode not in _REFUSALS.get(end.error, MODES):
            wrong.append(f"{task} was refused by the mode {end.mode}")
        if end.error not in _REASONS or end.state == "REVOKED":
            wrong.append(f"{task} failed for another reason: {end.error or end.state}")
        if (end.skipped or end.error in _REFUSALS) and end.effects:
            wrong.append(f"{task} was {'skipped' if end.skipped else 'refused'} and has {end.effects} effects")
        if end.effects > 1:
            wrong.append(f"{task} has {end.effects} effects")
    return wrong


def forgotten_too_many(figures: Counter[str]) -> list[str]:
    """The violation of a broker that forgot more messages than its deaths and those of its workers explain."""
    ends = sum(figures[what] for what in _STRIKES if not what.startswith("child"))
    most = ends + WORKERS * figures["broker restart"]
    return [f"{figures[_FORGOTTEN]} tasks are lost, at most {most} explained"] if figures[_FORGOTTEN] > most else []


def not_exercised(figures: Counter[str], tasks: int) -> list[str]:
    """The faults and policies that a long run never met, so that its verdict says nothing about them."""
    wanted = (*_STRIKES, "broker restart", "log: requeued", "skipped", f"FAILURE {_REFUSED}")
    return [f"{what} never happened" for what in wanted if not figures[what]] if tasks >= _MANY else []


class Run:
    """The servers, the workers and their faults; see the module.

    Args:
        kind: The kind of broker and queues.
        directory: Where the workers keep their logs.
        seed: Draws the faults.
    """

    def __init__(self, kind: str, directory: Path, seed: int) -> None:
        self._kind, self._directory, self._chance = kind, directory, random.Random(seed)
        self.figures: Counter[str] = Counter()
        self._next_strike = 0.0
        self.tasks: dict[str, tuple[str, str]] = {}

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as stack:
            enter = stack.enter_context
            nodes, results, store = enter(redis_server.cluster()), enter(sixth_redis()), enter(sixth_redis())
            if self._kind == "redis":
                server = enter(sixth_redis())
                url = f"{server.url}/0"

                def restart() -> None:
                    server.kill()
                    server.start()

                self._restart: Callable[[], None] = restart
            else:
                server_of_rabbitmq = enter(rabbit())
                url, self._restart = server_of_rabbitmq.url, server_of_rabbitmq.restart
            environment = os.environ | {
                "EFFECTS_KIND": self._kind,
                "EFFECTS_BROKER": url,
                "EFFECTS_RESULTS": f"{results.url}/1",
                "EFFECTS_STORE": f"{store.url}/0",
                "EFFECTS_NODES": ",".join(nodes.urls),
            }
            self._results = enter(Redis.from_url(f"{results.url}/1", decode_responses=True))
            self._store = enter(Redis.from_url(f"{store.url}/0", decode_responses=True))
            self._sender = Celery("sender", broker=url, backend="disabled://", set_as_current=False)
            if self._kind != "redis":
                # Without a confirmation, a killed RabbitMQ may lose an unstored message, which is its sender's fault.
                self._sender.conf.broker_transport_options = {"confirm_publish": True}
            stack.callback(self._sender.close)
            self.crew = Crew(APP, self._directory, environment, workers=WORKERS, children=CHILDREN)
            stack.callback(self.crew.end)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def send(self, number: int) -> None:
        """Send the task of this number, repeatedly until the broker accepts."""
        task, mode, key = f"task-{number}", MODES[number % len(MODES)], f"key-{self._chance.randrange(KEYS)}"
        self.tasks[task] = (mode, key)
        self._send(task)

    def _send(self, task: str) -> None:
        mode, key = self.tasks[task]
        place = {"exchange": "effects", "routing_key": "effects"} if self._kind == "quorum" else {"queue": "effects"}

        def taken() -> bool:
            with contextlib.suppress(OperationalError, OSError):
                options: dict[str, Any] = place | {"declare": [], "retry": False}
                self._sender.send_task(f"effects.{mode}", (key, _MOST), task_id=task, **options)
                return True
            return False

        if not comes_true(taken, within=60, every=0.2):
            raise TimeoutError(f"the broker has not taken {task} for a minute")

    def strike(self) -> None:
        ready = self.crew.ready()
        if not ready:
            return
        worker = self._chance.choice(ready)
        what = self._chance.choice(_STRIKES)
        self.figures[what] += 1
        with contextlib.suppress(ProcessLookupError, IndexError):
            if what.startswith("child"):
                child = self._chance.choice(children(worker.process.pid))
                os.kill(child, signal.SIGKILL if what.endswith("SIGKILL") else signal.SIGTERM)
            elif what == "worker SIGKILL":
                worker.signal(signal.SIGKILL)
            else:
                os.kill(worker.process.pid, signal.SIGTERM if what.startswith("warm") else signal.SIGQUIT)

    def go(self, tasks: int, rate: float) -> None:
        """Send the tasks at this rate a second, and strike meanwhile."""
        self.crew.staff()
        self.crew.wait_until_ready()
        began = time.monotonic()
        self._next_strike = began + _EVERY
        restarts = [tasks * (part + 1) // (RESTARTS + 1) for part in range(RESTARTS)]
        for number in range(tasks):
            self._strike_until(began + number / rate)
            self.send(number)
            if number in restarts:
                self._restart()
                self.figures["broker restart"] += 1

    def _strike_until(self, due: float) -> None:
        """Strike at each time for a strike, until the next task is due."""
        while (now := time.monotonic()) < due or now >= self._next_strike:
            if now < self._next_strike:
                time.sleep(min(due, self._next_strike) - now)
                continue
            self.strike()
            self.crew.staff()
            self._next_strike = time.monotonic() + _EVERY

    def settle(self) -> None:
        """Wait for the end of all tasks. Tasks that Redis lost are sent again."""
        for _ in range(_TRIES):
            self.crew.staff()
            if comes_true(lambda: not self._open(), within=_LAST / _TRIES, every=0.5):
                return
            if self._kind == "redis":
                for task in self._open():
                    self.figures[_FORGOTTEN] += 1
                    self._send(task)

    def _states(self) -> dict[str, dict[str, Any]]:
        names = list(self.tasks)
        texts = self._results.mget([f"celery-task-meta-{name}" for name in names])
        return {
            name: json.loads(text) if text else {"status": "PENDING"} for name, text in zip(names, texts, strict=True)
        }

    def _open(self) -> list[str]:
        return [task for task, meta in self._states().items() if meta["status"] not in _FINAL]

    def ends(self) -> dict[str, End]:
        effects: Counter[str] = Counter()
        for number in range(KEYS):
            effects.update((self._store.hget(f"store:key-{number}", "value") or "").split())
        found = {}
        for task, meta in self._states().items():
            result = meta.get("result")
            about = result if isinstance(result, dict) else {}
            found[task] = End(
                self.tasks[task][0],
                meta["status"],
                about.get("status") == "skipped",
                about.get("exc_type", "") if meta["status"] == "FAILURE" else "",
                effects[task],
                tuple(self._results.lrange(f"ended:{task}", 0, -1)),
            )
        return found

    def count(self, event: str) -> int:
        """How many lines of the workers' logs tell of this event."""
        return sum(f" {event} " in line or f"]{event} " in line for line in self.crew.log())


def run(kind: str, tasks: int, rate: float, seed: int, directory: Path) -> Outcome:
    with Run(kind, directory, seed) as fire:
        fire.go(tasks, rate)
        fire.settle()
        ends = fire.ends()
        figures = fire.figures
        for end in ends.values():
            figures["skipped" if end.skipped else f"{end.state} {end.error}".strip()] += 1
        for event in ("duplicate", "requeued", "requeue-failed"):
            figures[f"log: {event}"] = fire.count(event)
        return Outcome(figures, [*violations(ends), *forgotten_too_many(figures), *not_exercised(figures, tasks)])


def kinds() -> Iterator[str]:
    """The kinds of broker that this machine supports."""
    yield from KINDS if PROGRAM is not None else KINDS[:1]


def main(arguments: Sequence[str] | None = None) -> int:
    """Read the command line, run, report; the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults.effects", description=__doc__)
    parser.add_argument("--kind", action="append", choices=KINDS, help="only this kind; may be given again")
    parser.add_argument("--tasks", type=int, default=2_000, help="how many tasks are sent")
    parser.add_argument("--rate", type=float, default=12.0, help="tasks sent a second")
    parser.add_argument("--seed", type=int, default=1, help="draws keys and faults")
    parser.add_argument("--directory", type=Path, help="an empty directory that keeps the logs")
    given = parser.parse_args(arguments)
    # So that servers and workers are ended where this is.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    status = 0
    for kind in given.kind or kinds():
        with tempfile.TemporaryDirectory(prefix="effects-", ignore_cleanup_errors=True) as scratch:
            directory = (given.directory or Path(scratch)) / kind
            directory.mkdir(parents=True)
            began = time.monotonic()
            outcome = run(kind, given.tasks, given.rate, given.seed, directory)
        took = time.monotonic() - began
        headline = f"{kind}: {given.tasks} tasks, {KEYS} keys, seed {given.seed}, {took:.0f} s"
        status = max(status, outcome.report(headline))
    return status


if __name__ == "__main__":
    sys.exit(main())
