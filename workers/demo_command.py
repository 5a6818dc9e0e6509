"""The demo: shows lost updates without the lock, and none with the lock.

With `--up` the same cluster runs on the ports of the default settings until Ctrl-C.

Invariants:
1. Everything runs on this machine and disappears at the end, except the log.
2. The exit status is 0 only for a correct counter. An error is one line on stderr and status 1, without a traceback.
3. Strings name the task modules, because imports point down.
"""

from __future__ import annotations

import contextlib
import importlib
import logging
import os
import secrets
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
from workers import demo_options, logs
from workers.cluster import FIRST_PORT, NODES, ROOT, running
from workers.freeze import Freeze
from workers.program import ClusterError
from workers.report import Run, Screen
from workers.settings import from_environment

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

    from redlock import Redlock
    from workers.cluster import Running

_LOCKED, _UNLOCKED = "hits", "unlocked"
_UNLOCKED_TASKS = 100
_POLL_SECONDS = 0.1
_TO_COPY = (
    "from tasks import increment; print(increment.delay().get(timeout=10))",
    "from tasks import increment; [increment.delay() for _ in range(1000)]",
    "from tasks.counter import store; print(store().read_unfenced('hits'))",
)

logger = logging.getLogger(__name__)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the demo, or the cluster, and return the exit status."""
    options = demo_options.parse(arguments)
    # For Celery these variables would override the settings of the cluster.
    for name in [name for name in os.environ if name.startswith("CELERY_")]:
        del os.environ[name]
    screen, stop = Screen(), Stop()
    try:
        stop.listen()
        # First, because without a log every worker would end with a traceback.
        _prepare_log(from_environment()[0].log_file)
        screen.say(_starting(options))
        with running(demo_options.plan(options), stop.check) as cluster:
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


def _prepare_log(name: str) -> None:
    try:
        logs.prepare(Path(name).absolute())
    except OSError as error:
        reason = error.strerror or error
        raise ClusterError(f"log file {name!r}: {reason}; name another with COUNTER_LOG_FILE") from None


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


def _starting(options: argparse.Namespace) -> str:
    broker = "RabbitMQ, a Redis with results and store" if options.broker == "rabbitmq" else "a broker"
    return (
        f"starting {NODES} lock nodes, {broker}, {options.workers} workers with {options.children} processes each, "
        "and Flower"
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
    mark = secrets.token_hex(8)
    logger.info("demo %s begins", mark)
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
            freeze = Freeze(cluster, client, redis, _LOCKED, 2 * lock_settings.ttl)
            with screen.bar(count) as show, contextlib.ExitStack() as stack:
                stack.callback(freeze.resume)

                def on_progress(done: int) -> None:
                    show(done, _holder(client))
                    action = freeze.advance() if options.freeze and done else ""
                    if action:
                        screen.say(f"   {action}")

                run.send(count, lambda: increment.delay().id, on_progress)
            report = run.report(_LOCKED, settings.log_file, mark, freeze.worker if options.freeze else None)
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
