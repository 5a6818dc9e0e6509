"""The demo: `python -m workers.demo` shows lost updates without the lock, and none with the lock.

With `--up` the same cluster runs on the ports of the default settings until Ctrl-C.

Invariants:
1. Everything runs on this machine and disappears at the end, except the log.
2. The exit status is 0 only for a correct counter. An error is one line on stderr and status 1, without a traceback.
3. Strings name the task modules, because imports point down.
"""

from __future__ import annotations

import argparse
import importlib
import logging
import os
import shlex
import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from celery.result import denied_join_result
from kombu.exceptions import OperationalError
from redis import Redis
from redis.exceptions import RedisError

from redlock import QuorumUnavailable, RedlockError
from redlock._masking import mask
from redlock.testing import redis_server
from workers import logs
from workers.cluster import FIRST_PORT, FLOWER_PORT, NODES, ROOT, Plan, is_free, running
from workers.freeze import Freeze
from workers.program import ClusterError
from workers.report import Run, Screen
from workers.settings import from_environment

if TYPE_CHECKING:
    from collections.abc import Sequence

    from redlock import Redlock
    from workers.cluster import Running

_LOCKED, _UNLOCKED = "hits", "unlocked"
_UNLOCKED_TASKS = 100
_THINK = 0.005
_POLL_SECONDS = 0.1
_TO_COPY = (
    "from tasks import increment; print(increment.delay().get(timeout=10))",
    "from tasks import increment; [increment.delay() for _ in range(1000)]",
    "from tasks.counter import store; print(store().read_unfenced('hits'))",
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the demo, or the cluster, and return the exit status."""
    options = _parser().parse_args(arguments)
    # For Celery these variables would override the settings of the cluster.
    for name in [name for name in os.environ if name.startswith("CELERY_")]:
        del os.environ[name]
    screen, stop = Screen(), Stop()
    try:
        stop.listen()
        # First, because without a log every worker would end with a traceback.
        logs.prepare(Path(from_environment()[0].log_file).absolute())
        with running(_plan(options, screen), stop.check) as cluster:
            return _up(cluster, screen) if options.up else _demo(cluster, options, screen)
    except (ClusterError, RedlockError, OSError) as error:
        print(f"demo: {error}", file=sys.stderr)
        return 1
    except (RedisError, OperationalError) as error:
        print(f"demo: the broker does not answer: {error}", file=sys.stderr)
        return 1
    except Stopped:
        # A signal is the normal end of a cluster that `--up` started.
        return 0 if options.up else 128 + stop.number


class Stopped(Exception):
    """A signal has asked the demo to stop."""


class Stop:
    """Records the signals that ask the demo to stop.

    The demo polls for signals. An exception from a signal handler could interrupt a start or a stop halfway, or be
    raised in a finalizer without effect.
    """

    def __init__(self) -> None:
        self.number = 0
        """The number of the first received signal, or 0."""

    def listen(self) -> None:
        """Install the handlers that record signals instead of ending the process."""
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            if number != signal.SIGHUP or signal.getsignal(number) is not signal.SIG_IGN:  # nohup ignores SIGHUP
                signal.signal(number, self._record)

    def _record(self, number: int, _frame: object) -> None:
        self.number = self.number or number

    def check(self) -> None:
        """Raise if a signal has arrived.

        Raises:
            Stopped: A signal has arrived.
        """
        if self.number:
            raise Stopped


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m workers.demo",
        usage="%(prog)s [--up] [options]",
        description="Increment a counter from many processes at once, without the lock and with it.",
    )
    parser.add_argument("--up", action="store_true", help="start the cluster, leave it running, send nothing")
    parser.add_argument("--tasks", type=_count, default=1000, metavar="N", help="increments with the lock (1000)")
    parser.add_argument("--workers", type=_count, default=2, metavar="N", help="Celery workers (2)")
    parser.add_argument("--children", type=_count, default=4, metavar="N", help="processes in each worker (4)")
    parser.add_argument("--think", type=_seconds, metavar="SECONDS", help="time between read and write (0.005)")
    parser.add_argument(
        "--freeze", action="store_true", help="freeze a worker inside its section for twice the TTL, then continue it"
    )
    parser.add_argument("--broker", choices=("redis", "rabbitmq"), default="redis", help="the broker (redis)")
    parser.add_argument(
        "--server", choices=("redis", "valkey"), help="the program of broker, store and nodes (redis if it is there)"
    )
    parser.add_argument(
        "--ports",
        type=_first_port,
        metavar="FIRST",
        help="the port of broker and store on 127.0.0.1, before those of the five nodes "
        f"(unix sockets, which only you can reach; with --up {FIRST_PORT})",
    )
    parser.add_argument(
        "--flower-port", type=_port, metavar="PORT", help=f"Flower's port ({FLOWER_PORT}; or a free one without --up)"
    )
    return parser


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1 on")
    return int(text)


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds <= 10:  # noqa: PLR2004 - beyond that the demo shows nothing but waiting
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds from 0 to 10")
    return seconds


def _port(text: str, after: int = 0) -> int:
    last = 65_535 - after
    if not text.isdecimal() or not 1 <= int(text) <= last:
        raise argparse.ArgumentTypeError(f"{text!r} is not a port from 1 to {last}")
    return int(text)


def _first_port(text: str) -> int:
    return _port(text, NODES)


def _plan(options: argparse.Namespace, screen: Screen) -> Plan:
    first, flower = options.ports, options.flower_port
    if options.up:
        first, flower = first or FIRST_PORT, flower or FLOWER_PORT
    think = options.think
    if think is None and "COUNTER_THINK" not in os.environ:
        think = _THINK
    rabbitmq = options.broker == "rabbitmq"
    broker = "RabbitMQ, a Redis with results and store" if rabbitmq else "a broker"
    screen.say(
        f"starting {NODES} lock nodes, {broker}, {options.workers} workers with {options.children} processes each, "
        "and Flower"
    )
    return Plan(
        workers=options.workers,
        children=options.children,
        think=think,
        ports=tuple(range(first, first + NODES + 1)) if first else None,
        flower_port=flower or (FLOWER_PORT if is_free(FLOWER_PORT) else redis_server.free_port()),
        server=f"{options.server}-server" if options.server else "",
        rabbitmq=rabbitmq,
    )


def _introduce(cluster: Running, screen: Screen) -> None:
    pids = " ".join(str(server.pid) for server in cluster.nodes.servers)
    screen.rows(
        [
            ("Flower", cluster.flower),
            ("broker", mask(cluster.settings["COUNTER_BROKER_URL"])),
            ("results", cluster.settings["COUNTER_RESULT_URL"]),
            ("lock nodes", " ".join(url.partition("://")[2] for url in cluster.nodes.urls)),
            ("", f"any two may die: kill -9 two of {pids}"),
            ("log", from_environment()[0].log_file),
        ]
    )


def _up(cluster: Running, screen: Screen) -> int:
    _introduce(cluster, screen)
    screen.say("\nFrom any shell:")
    screen.say(f"    cd {shlex.quote(str(ROOT))}")
    if cluster.redis.port != FIRST_PORT or cluster.settings["COUNTER_BROKER_URL"].startswith("amqp"):
        needed = {name: value for name, value in cluster.settings.items() if name != "COUNTER_THINK"}
        screen.say(f"    export {' '.join(f'{name}={value}' for name, value in needed.items())}")
    python = Path(sys.executable)
    python = python.relative_to(ROOT) if python.is_relative_to(ROOT) else python
    for code in _TO_COPY:
        screen.say(f'    {shlex.quote(str(python))} -c "{code}"')
    screen.say("\nEvery user of this machine can reach these servers, and without a password.")
    screen.say("Ctrl-C stops everything.")
    while True:
        cluster.check()
        time.sleep(_POLL_SECONDS)


def _demo(cluster: Running, options: argparse.Namespace, screen: Screen) -> int:
    _introduce(cluster, screen)
    count = options.tasks
    os.environ.update(cluster.settings)
    settings, lock_settings = from_environment()
    logs.configure(settings.log_file, int(settings.log_bytes), console=False)
    tasks = importlib.import_module("tasks")
    increment, unlocked = tasks.increment, tasks.increment_unlocked
    try:
        with (
            lock_settings.client() as client,
            Redis.from_url(settings.store_url, decode_responses=True) as redis,
            # The run reads many results at a time. Otherwise Celery would subscribe to each result.
            denied_join_result(),
        ):
            run = Run(cluster, redis, increment.app.backend)
            screen.say(f"\n1. Without the lock: read the counter, think {settings.think * 1000:g} ms, write it")
            with screen.bar(_UNLOCKED_TASKS) as show:
                run.send(_UNLOCKED_TASKS, lambda: unlocked.delay(name=_UNLOCKED).id, lambda done: show(done, ""))
            value = run.counter(_UNLOCKED)
            screen.say(f"   {_UNLOCKED_TASKS} enqueued, counter {value}: {_UNLOCKED_TASKS - value} updates lost")

            screen.say(f"\n2. With the lock: the same body, {count} times increment.delay()")
            with screen.bar(count) as show, Freeze(cluster, client, redis, _LOCKED, 2 * lock_settings.ttl) as freeze:

                def on_progress(done: int) -> None:
                    show(done, _holder(client))
                    action = freeze.advance() if options.freeze and done else ""
                    if action:
                        screen.say(f"   {action}")

                run.send(count, lambda: increment.delay().id, on_progress)
            report = run.report(_LOCKED, settings.log_file, freeze.worker if options.freeze else None)
    finally:
        logging.shutdown()
        logging.disable()
    screen.rows(report.rows())
    screen.say(report.verdict)
    return 1 if report.faults else 0


def _holder(client: Redlock) -> str:
    """The current holder of the counter's lock, as short text."""
    try:
        holding = client.holder(f"counter:{_LOCKED}")
    except QuorumUnavailable:
        return "no quorum of nodes"
    if holding is None:
        return "not held"
    task, _, worker = holding.holder.partition("@")
    return f"held by {task[:8]}@{worker.partition('@')[0]}, {holding.nodes}/{NODES} nodes"


if __name__ == "__main__":
    sys.exit(main())
