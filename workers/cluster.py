"""The local cluster: six redis-servers, two Celery workers and Flower, on this machine, for demo and development.

Rules of this file:
1. Nothing outlives the process that started it. What it starts is stopped where the `with` block ends, however it
   ends; if the process itself is killed, the kernel kills its children (on Linux).
2. Everything writes below one directory, which is gone afterwards. That directory is removed by a process of its
   own, which waits for ours to end: so it goes even if ours is killed.
3. Ready means that it has answered; nobody waits for a fixed time.
4. The settings travel in environment variables, as they do in containers.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import http.client
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

from celery import Celery

from redlock.settings import SECRETS
from redlock.testing import redis_server

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

FIRST_PORT, FLOWER_PORT = 63790, 5555
"""The broker's port, before those of the lock nodes, and Flower's: what the default settings expect."""
NODES = 5
ROOT = Path(__file__).parents[1]
"""Where `workers` and `tasks` are found."""
FLOWER_CONF = Path(__file__).with_name("flowerconfig.py")

_START_SECONDS = 60.0
_STOP_SECONDS = 8.0
_LOOK_SECONDS = 0.05
_SHOWN_LINES = 12
_DURABLE = ("--appendonly", "yes", "--appendfsync", "always")

# Reads until the other end of its pipe is closed, by us or by our death. Servers may write until they are dead too.
_SWEEP = """
import os, shutil, sys, time
sys.stdin.read()
until = time.monotonic() + 10
while os.path.exists(sys.argv[1]) and time.monotonic() < until:
    shutil.rmtree(sys.argv[1], ignore_errors=True)
    time.sleep(0.02)
"""


class ClusterError(Exception):
    """A part of the local cluster could not start, or ended by itself; the message says which and why."""


@dataclasses.dataclass(frozen=True)
class Plan:
    """What the cluster is made of.

    Attributes:
        workers: How many Celery workers.
        children: How many processes each of them runs tasks in.
        think: Seconds that an increment thinks between its read and its write; None leaves it to the environment.
        ports: The broker's, and one for each lock node; None for unix sockets, which only this user can reach.
        flower_port: Flower's.
    """

    workers: int
    children: int
    think: float | None
    ports: tuple[int, ...] | None
    flower_port: int


def is_free(port: int) -> bool:
    """Whether a server could listen on this TCP port of loopback."""
    with socket.socket() as probe:
        # As servers do: a port on which only closed connections linger is free.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


class Program:
    """A `celery` command in a process of its own; what it says is kept back, for the case that it fails."""

    def __init__(self, name: str, arguments: Sequence[str], environment: Mapping[str, str]) -> None:
        self.name = name
        self._said: collections.deque[str] = collections.deque(maxlen=_SHOWN_LINES)
        self._process = subprocess.Popen(  # noqa: S603 - the program is ours
            [sys.executable, "-m", "celery", "-A", "workers.app", *arguments],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,
            preexec_fn=redis_server.die_with_parent,  # noqa: PLW1509 - one prctl, the same as for the servers
        )
        self._listener = threading.Thread(target=self._listen, name=f"output of {name}", daemon=True)

    def listen(self) -> None:
        """Begin to read what it says; not before all programs are started, for a fork wants no threads about."""
        self._listener.start()

    def _listen(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._said.append(line.rstrip())

    def check(self) -> None:
        """Raise if it has ended by itself.

        Raises:
            ClusterError: It has; the message holds the last lines that it said, unless it was killed.
        """
        status = self._process.poll()
        if status is not None:
            self._listener.join(1.0)
            if status < 0:
                raise ClusterError(f"{self.name} was killed by signal {-status}")
            lines = [f"{self.name} ended with status {status}; its last lines:", *(self._said or ["(none)"])]
            raise ClusterError("\n    ".join(lines))

    def signal(self, number: int) -> None:
        """Send a signal to all of its processes."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, number)

    def ask_to_stop(self) -> None:
        """SIGTERM: a worker finishes the tasks that it has begun."""
        self._process.terminate()

    def stop(self, until: float) -> None:
        """Wait until it has ended; kill it and its children if that takes too long."""
        try:
            self._process.wait(max(0.0, until - time.monotonic()))
        except subprocess.TimeoutExpired:
            self.signal(signal.SIGKILL)
            self._process.wait()
        if self._listener.is_alive():
            self._listener.join(1.0)


@dataclasses.dataclass(frozen=True)
class Running:
    """A cluster that takes tasks.

    Attributes:
        broker: The sixth Redis: broker, results and store.
        nodes: The lock nodes.
        flower: Flower's address.
        settings: The environment variables that lead a client to all of these.
        programs: The workers and Flower.
        check_caller: Raises if the caller wants no more of it.
    """

    broker: redis_server.Server
    nodes: redis_server.Cluster
    flower: str
    settings: dict[str, str]
    programs: tuple[Program, ...]
    check_caller: Callable[[], None]

    def check(self) -> None:
        """Raise if a worker or Flower has ended by itself, or the caller wants no more; to be called again and again.

        Raises:
            ClusterError: One has.
        """
        self.check_caller()
        for program in self.programs:
            program.check()


@contextlib.contextmanager
def running(plan: Plan, check_caller: Callable[[], None]) -> Iterator[Running]:
    """A cluster for as long as the `with` block lasts; use it from the main thread, children die with their thread.

    Args:
        plan: What it is made of.
        check_caller: Is called again and again, and raises if the caller wants no more of it.

    Raises:
        ClusterError: A part of it did not start.
        redlock.ConfigurationError: A redis-server did not start, or there is none.
    """
    if not is_free(plan.flower_port):
        raise ClusterError(f"port {plan.flower_port} is taken; stop the program that listens there, or choose another")
    with contextlib.ExitStack() as stack:
        directory = stack.enter_context(_scratch())
        broker = redis_server.Server(plan.ports[0] if plan.ports else None, _DURABLE)
        stack.callback(broker.stop)
        broker.start()
        nodes = stack.enter_context(redis_server.cluster(NODES, ports=plan.ports[1:] if plan.ports else None))
        settings = _settings(plan, broker, nodes)
        programs = stack.enter_context(_programs(plan, settings | {"TMPDIR": directory}))
        cluster = Running(broker, nodes, f"http://127.0.0.1:{plan.flower_port}", settings, programs, check_caller)
        _wait_until_ready(cluster, plan)
        yield cluster


def _settings(plan: Plan, broker: redis_server.Server, nodes: redis_server.Cluster) -> dict[str, str]:
    if broker.port is None:
        # Celery has a form of its own for unix sockets.
        celery = broker.url.replace("unix://", "redis+socket://") + "?virtual_host="
        broker_url, result_url, store_url = f"{celery}0", f"{celery}1", f"{broker.url}?db=2"
    else:
        broker_url, result_url, store_url = (f"{broker.url}/{database}" for database in range(3))
    settings = {
        **dict.fromkeys((*SECRETS, "REDLOCK_PREFIX", "REDLOCK_PREFIX_FILE"), ""),
        "REDLOCK_NODES": ",".join(nodes.urls),
        "COUNTER_BROKER_URL": broker_url,
        "COUNTER_RESULT_URL": result_url,
        "COUNTER_STORE_URL": store_url,
    }
    return settings if plan.think is None else settings | {"COUNTER_THINK": str(plan.think)}


@contextlib.contextmanager
def _scratch() -> Iterator[str]:
    """A directory for all temporary files of this process and its children."""
    directory = tempfile.mkdtemp(prefix="counter-")
    sweeper = subprocess.Popen(  # noqa: S603 - the program is ours
        [sys.executable, "-I", "-S", "-c", _SWEEP, directory], stdin=subprocess.PIPE, start_new_session=True
    )
    before, tempfile.tempdir = tempfile.tempdir, directory
    try:
        yield directory
    finally:
        tempfile.tempdir = before
        sweeper.communicate()


@contextlib.contextmanager
def _programs(plan: Plan, settings: Mapping[str, str]) -> Iterator[tuple[Program, ...]]:
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    environment = {**os.environ, **settings, "PYTHONPATH": path}
    commands = {
        f"worker{number}": ["worker", "-n", f"worker{number}@%h", "-c", str(plan.children), "--without-mingle"]
        for number in range(1, plan.workers + 1)
    }
    commands["flower"] = ["flower", f"--conf={FLOWER_CONF}", "--address=127.0.0.1", f"--port={plan.flower_port}"]
    programs: list[Program] = []
    try:
        for name, arguments in commands.items():
            programs.append(Program(name, arguments, environment))
        for program in programs:
            program.listen()
        yield tuple(programs)
    finally:
        for program in programs:
            program.ask_to_stop()
        until = time.monotonic() + _STOP_SECONDS
        for program in programs:
            program.stop(until)


def _wait_until_ready(cluster: Running, plan: Plan) -> None:
    until = time.monotonic() + _START_SECONDS
    with Celery("ping", broker=cluster.settings["COUNTER_BROKER_URL"], set_as_current=False) as app:
        answered: set[str] = set()
        while len(answered) < plan.workers or not _is_healthy(plan.flower_port):
            cluster.check()
            if time.monotonic() > until:
                raise ClusterError(
                    f"after {_START_SECONDS:g} s only {len(answered)} of {plan.workers} workers have answered, and "
                    f"Flower has {'' if _is_healthy(plan.flower_port) else 'not'}"
                )
            if len(answered) < plan.workers:
                answered = {name for reply in app.control.ping(timeout=0.5, limit=plan.workers) for name in reply}
            else:
                time.sleep(_LOOK_SECONDS)


def _is_healthy(port: int) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=2)
    try:
        connection.request("GET", "/healthcheck")
        return connection.getresponse().status == http.HTTPStatus.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
