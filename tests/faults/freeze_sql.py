"""Holders frozen past their lease, with a row of PostgreSQL as the counter: without the fence updates are lost.

    python -m tests.faults.freeze_sql --freezes 50

Invariants:
1. Several processes increment one row under the lock: read, think, write. The main process stops one of them between
   read and write for longer than the TTL, then continues the process.
2. Half of the run uses plain transactions, half uses `fenced`.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import select
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

import psycopg

from redlock import LockContended, LockLost, QuorumUnavailable, Redlock, Stale
from redlock.fencing.sql import create_statements, fenced
from redlock.testing import lock_nodes
from tests.integration.databases import postgresql

TTL = 0.5
_PROCESSES = 3
_LONGEST_SECONDS = 30.0


class Result(NamedTuple):
    """The result of one half of a run."""

    freezes: int
    done: int
    lost: int
    refused: int


def increment(connection: psycopg.Connection, redlock: Redlock, *, fence: bool, chance: random.Random) -> str:
    """An increment under the lock: `done`, `stale` or `lost`."""
    try:
        with redlock.lock("counter", blocking_timeout=5) as lease, contextlib.ExitStack() as stack:
            print("inside", flush=True)
            time.sleep(chance.uniform(0.0, 0.05))
            if fence:
                stack.enter_context(fenced(connection, lease, lock_timeout=10))
            (value,) = connection.execute("SELECT value FROM counter").fetchone() or (0,)
            if not fence:
                connection.commit()
            print("inside", flush=True)
            time.sleep(chance.uniform(0.0, 0.05))
            connection.execute("UPDATE counter SET value = %s", (value + 1,))
            connection.execute("INSERT INTO done (token) VALUES (%s)", (lease.fence,))
            if not fence:
                connection.commit()
    except Stale:
        return "stale"
    except (LockLost, LockContended, QuorumUnavailable):
        connection.rollback()
        return "lost"
    return "done"


def work(address: str, nodes: str, *, fence: bool, seed: int) -> None:
    """The program of a process, until the main process stops the run."""
    stopped: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _: stopped.append(number))
    chance = random.Random(seed)
    with Redlock(nodes, ttl=TTL) as redlock, psycopg.connect(address) as connection:
        while not stopped:
            print(increment(connection, redlock, fence=fence, chance=chance), flush=True)


def half(address: str, nodes: list[str], *, fence: bool, freezes: int, seed: int) -> Result:
    """Freeze processes this often inside their section, and count."""
    with psycopg.connect(address, autocommit=True) as connection:
        connection.execute("DROP TABLE IF EXISTS counter, done, redlock_fence, redlock_operation")
        connection.execute("CREATE TABLE counter (value integer)")
        connection.execute("INSERT INTO counter VALUES (0)")
        connection.execute("CREATE TABLE done (token bigint)")
        for statement in create_statements("postgresql"):
            connection.execute(statement.encode())
        chance = random.Random(seed)
        said = _run(address, nodes, fence=fence, freezes=freezes, chance=chance)
        (value,) = connection.execute("SELECT value FROM counter").fetchone() or (0,)
        (done,) = connection.execute("SELECT count(*) FROM done").fetchone() or (0,)
    return Result(freezes, done, done - value, said.count("stale"))


def _run(address: str, nodes: list[str], *, fence: bool, freezes: int, chance: random.Random) -> list[str]:
    command = [sys.executable, "-m", "tests.faults.freeze_sql", "--work", address, "--nodes", ",".join(nodes)]
    options = ["--fence"] if fence else []
    workers = [
        subprocess.Popen(
            [*command, *options, "--seed", str(number)],
            stdout=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parents[2],
            env=os.environ | {"PYTHONPATH": "."},
        )
        for number in range(_PROCESSES)
    ]
    said: list[str] = []
    try:
        for _ in range(freezes):
            victim = _next_inside(workers, said, chance)
            victim.send_signal(signal.SIGSTOP)
            time.sleep(TTL * chance.uniform(1.5, 2.5))
            victim.send_signal(signal.SIGCONT)
    finally:
        for worker in workers:
            worker.send_signal(signal.SIGCONT)
            worker.terminate()
        for worker in workers:
            said += worker.communicate(timeout=_LONGEST_SECONDS)[0].split()
    return said


def _next_inside(workers: list[subprocess.Popen[str]], said: list[str], chance: random.Random) -> subprocess.Popen[str]:
    """The next process that reports to be inside its section; most reports are ignored."""
    until = time.monotonic() + _LONGEST_SECONDS
    while time.monotonic() < until:
        ready, _, _ = select.select([worker.stdout for worker in workers if worker.stdout], [], [], 1.0)
        for worker in workers:
            if worker.stdout in ready and worker.stdout is not None:
                word = worker.stdout.readline().strip()
                said.append(word)
                if word == "inside" and chance.random() < 0.3:
                    return worker
    raise AssertionError("no process entered its section")


def experiment(freezes: int, seed: int) -> tuple[Result, Result]:
    """Run both halves: without the fence, then with the fence."""
    with postgresql() as address, lock_nodes() as nodes:
        return (
            half(address, nodes.urls, fence=False, freezes=freezes, seed=seed),
            half(address, nodes.urls, fence=True, freezes=freezes, seed=seed),
        )


def main() -> int:
    """Read the command line, run, report; the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--freezes", type=int, default=50)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--work", help=argparse.SUPPRESS)
    parser.add_argument("--nodes", help=argparse.SUPPRESS)
    parser.add_argument("--fence", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.work:
        work(options.work, options.nodes, fence=options.fence, seed=options.seed)
        return 0
    halves = experiment(options.freezes, options.seed)
    for name, one in zip(("without", "with"), halves, strict=True):
        print(f"{name} the fence: {one.freezes} freezes, {one.done} increments, {one.lost} lost, {one.refused} refused")
    return int(halves[1].lost > 0)


if __name__ == "__main__":
    sys.exit(main())
