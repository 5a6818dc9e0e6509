"""Transfers of `examples/transfers` while workers are killed and frozen: the sum of all accounts never changes.

`python -m tests.faults.transfers --kind ledger.tasks --tasks 500`. Faults strike all the time: SIGKILL to a child,
SIGKILL to all processes of a worker, or a freeze of a child for longer than its lease.

Invariants:
1. At the end every account has its first balance, plus and minus the recorded transfers. None is negative.
2. A task is recorded once if it was paid, and never if it was refused.
3. A quarter of the tasks is sent twice. A task that a kill of its worker lost is sent again, under the same id.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import psycopg
from celery import Celery
from redis import Redis
from typing_extensions import Self

from redlock.testing import redis_server
from tests.faults.crew import Crew, Outcome
from tests.integration.databases import postgresql
from tests.integration.processes import children
from tests.integration.tools import ROOT, comes_true, sixth_redis
from tests.integration.worker_fixture import Worker

KINDS = ("transfers", "ledger.tasks")
"""The modules of the example: SQLAlchemy and Django."""
ACCOUNTS = {f"account-{number}": 1_000 for number in range(5)}
_TTL = 1.0
_WORKERS, _CHILDREN = 2, 3
_EVERY = 0.7
_AHEAD = 6
_QUIET = 10.0
_LAST = 240.0
_FINAL = {"SUCCESS", "FAILURE"}


class Run:
    def __init__(self, kind: str, directory: Path, seed: int, *, fence: bool = True) -> None:
        self._kind, self._directory, self._chance, self._fence = kind, directory, random.Random(seed), fence
        self._stack = contextlib.ExitStack()
        self._frozen: dict[int, float] = {}
        self._sent: dict[str, tuple[str, str, int]] = {}
        self._ends: dict[str, tuple[str, Any]] = {}
        self.figures: Counter[str] = Counter()

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as stack:
            nodes, broker = stack.enter_context(redis_server.cluster()), stack.enter_context(sixth_redis())
            self._address = stack.enter_context(postgresql())
            self._environment = os.environ | {
                "PYTHONPATH": f"{ROOT}:{ROOT / 'examples' / 'transfers'}",
                "DJANGO_SETTINGS_MODULE": "ledger.settings",
                "REDLOCK_NODES": ",".join(nodes.urls),
                "REDLOCK_TTL": str(_TTL),
                "TRANSFERS_KIND": self._kind,
                "TRANSFERS_REDIS": broker.url,
                "TRANSFERS_IDLE_MS": str(int(_TTL * 1000)),
                "PGHOST": self._address.partition("host=")[2],
                "PGUSER": "postgres",
                "PGDATABASE": "postgres",
            }
            if not self._fence:
                self._environment["TRANSFERS_UNFENCED"] = "1"
            self._sender = Celery("sender", broker=f"{broker.url}/0", backend=f"{broker.url}/1", set_as_current=False)
            stack.callback(self._sender.close)
            self._queue = stack.enter_context(Redis.from_url(f"{broker.url}/0"))
            app = "tests.faults.apps.slow_transfers"
            self.crew = Crew(app, self._directory, self._environment, workers=_WORKERS, children=_CHILDREN)
            stack.callback(self.crew.end)
            self._open_accounts()
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _open_accounts(self) -> None:
        if self._kind == KINDS[1]:
            self.python("-m", "django", "migrate", "--run-syncdb", "--verbosity", "0")
        self.python("-c", f"import {self._kind} as example; example.open_accounts({ACCOUNTS})")

    def python(self, *arguments: str) -> str:
        """The output of this Python program, which must succeed, among the servers of the run."""
        command = [sys.executable, *arguments]
        done = subprocess.run(command, env=self._environment, cwd=ROOT, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def go(self, tasks: int) -> None:
        """Send all tasks, a few ahead of the workers, and strike until the queue is empty.

        The first strike comes with the first task: a short run could end before a later one.
        """
        self.crew.staff()
        self.crew.wait_until_ready()
        next_strike = time.monotonic()
        while (step := self._next_step(tasks, next_strike)) != "end":
            if step == "send":
                self._send(f"task-{len(self._sent)}")
            if time.monotonic() >= next_strike:
                self._strike()
                next_strike = time.monotonic() + _EVERY

    def _next_step(self, tasks: int, until: float) -> str:
        """`send` when the queue has room for a task, `end` when it is empty after the last task; else empty."""

        def step() -> str:
            waiting = self._queue.llen("celery")
            if len(self._sent) < tasks:
                return "send" if waiting < _AHEAD else ""
            return "" if waiting else "end"

        return comes_true(step, within=until - time.monotonic(), every=0.02)

    def _send(self, task: str) -> None:
        source, target = self._chance.sample(sorted(ACCOUNTS), 2)
        self._sent[task] = (source, target, self._chance.randint(1, 400))
        self._send_again(task)
        if self._chance.random() < 0.25:
            self.figures["sent twice"] += 1
            self._send_again(task)

    def _send_again(self, task: str) -> None:
        name = f"{self._kind}.transfer"
        self._sender.send_task(name, self._sent[task], task_id=task)

    def _strike(self) -> None:
        for pid in [pid for pid, until in self._frozen.items() if until <= time.monotonic()]:
            self._thaw(pid)
        ready = self.crew.ready()
        if ready:
            worker = self._chance.choice(ready)
            fault = self._chance.choices(["freeze", "child killed", "worker killed"], [12, 3, 1])[0]
            # Two frozen children of six leave enough that work.
            if fault != "freeze" or len(self._frozen) < 2:
                with contextlib.suppress(ProcessLookupError, IndexError):
                    self._hit(worker, fault)
                    self.figures[fault] += 1
        self.crew.staff()

    def _hit(self, worker: Worker, fault: str) -> None:
        if fault == "worker killed":
            worker.signal(signal.SIGKILL)
            return
        child = self._chance.choice([pid for pid in children(worker.process.pid) if pid not in self._frozen])
        os.kill(child, signal.SIGSTOP if fault == "freeze" else signal.SIGKILL)
        if fault == "freeze":
            self._frozen[child] = time.monotonic() + _TTL * self._chance.uniform(1.5, 3.0)

    def _thaw(self, pid: int) -> None:
        del self._frozen[pid]
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)

    def settle(self) -> None:
        """End all faults, and wait for the end of all tasks. Lost tasks are sent again."""
        for pid in list(self._frozen):
            self._thaw(pid)
        until = time.monotonic() + _LAST
        while self._open() and time.monotonic() < until:
            self.crew.staff()
            if comes_true(lambda: not self._open(), within=_QUIET, every=0.2):
                return
            for task in self._open():
                self.figures["sent again"] += 1
                self._send_again(task)

    def _open(self) -> list[str]:
        """The tasks without an end."""
        for task in self._sent.keys() - self._ends.keys():
            meta = self._sender.backend.get_task_meta(task)
            if meta["status"] in _FINAL:
                self._ends[task] = meta["status"], meta.get("result")
        return sorted(self._sent.keys() - self._ends.keys())

    def judged(self) -> Iterator[str]:
        """The violations as text."""
        with psycopg.connect(self._address) as connection:
            balances: dict[str, int] = dict(connection.execute("SELECT name, balance FROM account").fetchall())
            made = connection.execute("SELECT task, source, target, amount FROM transfer").fetchall()
        self.figures["transfers made"] = len(made)
        if sum(balances.values()) != sum(ACCOUNTS.values()):
            yield f"the sum of all accounts is {sum(balances.values())} and was {sum(ACCOUNTS.values())}"
        expected = Counter(ACCOUNTS)
        for _, source, target, amount in made:
            expected[source] -= amount
            expected[target] += amount
        yield from (
            f"{name} has {balance} and should have {expected[name]}"
            for name, balance in balances.items()
            if balance != expected[name]
        )
        times = Counter(task for task, *_ in made)
        for task in self._open():
            self._ends[task] = "PENDING", None
        for task, (state, result) in sorted(self._ends.items()):
            self.figures[f"{state} {result if state == 'SUCCESS' else type(result).__name__}"] += 1
            if times[task] != (result == "paid"):
                yield f"{task} ended as {state} {result!r} and was made {times[task]} times"
            if state != "SUCCESS":
                yield f"{task} has no good end: {state} {result!r}"

    def count(self, event: str) -> int:
        """How many lines of the workers' logs tell of this event."""
        return sum(event in line for line in self.crew.log())


def run(kind: str, tasks: int, seed: int, directory: Path, *, fence: bool = True) -> Outcome:
    with Run(kind, directory, seed, fence=fence) as fire:
        fire.go(tasks)
        fire.settle()
        violations = list(fire.judged())
        fire.figures["refused as stale"] = fire.count("Stale")
        fire.figures["lease lost"] = fire.count("LockLost")
        fire.figures["ended by PostgreSQL"] = fire.count("OperationalError")
        return Outcome(fire.figures, violations)


def main(arguments: Sequence[str] | None = None) -> int:
    """Read the command line, run, report; the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.faults.transfers", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("--kind", action="append", choices=KINDS, help="only this kind; may be given again")
    parser.add_argument("--tasks", type=int, default=500, help="how many transfers are sent")
    parser.add_argument("--seed", type=int, default=1, help="draws accounts, amounts and faults")
    parser.add_argument("--unfenced", action="store_true", help="take the fence away: transfers are made twice")
    given = parser.parse_args(arguments)
    # So that servers and workers end with this process.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    status = 0
    for kind in given.kind or KINDS:
        began = time.monotonic()
        with tempfile.TemporaryDirectory(prefix="transfers-", ignore_cleanup_errors=True) as directory:
            outcome = run(kind, given.tasks, given.seed, Path(directory), fence=not given.unfenced)
        took = time.monotonic() - began
        headline = f"{kind}: {given.tasks} transfers, seed {given.seed}, {took:.0f} s"
        status = max(status, outcome.report(headline))
    return status


if __name__ == "__main__":
    sys.exit(main())
