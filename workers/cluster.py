"""The local cluster for demo and development: lock nodes, store, broker, Celery workers and Flower on this machine.

Invariants:
1. No process outlives its starter. The end of the `with` block stops all of them. If the starter is killed, the
   kernel kills its children (on Linux).
2. All files are in the same directory. A separate process waits for the end of the starter, even by a kill, and
   removes the directory.
3. A part counts as ready after its first answer. No code waits for a fixed time.
4. Environment variables carry the settings, as in containers.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import http.client
import os
import secrets
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from celery import Celery

from redlock.settings import SECRETS
from redlock.testing import redis_server
from workers.program import ClusterError, Program
from workers.rabbitmq import RabbitMQ

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

FIRST_PORT, FLOWER_PORT = 63790, 5555
"""The ports in the default settings: the broker's, which precedes those of the lock nodes, and Flower's."""
NODES = 5
ROOT = Path(__file__).parents[1]
"""The folder of `workers` and `tasks`."""
FLOWER_CONF = Path(__file__).with_name("flowerconfig.py")

_START_SECONDS = 60.0
_STOP_SECONDS = 8.0
_POLL_SECONDS = 0.05
_DURABLE = ("--appendonly", "yes", "--appendfsync", "always")

# Reads until the end of the starter closes the pipe. Servers may write a little longer, so the removal is repeated.
_SWEEP = """
import os, shutil, sys, time
sys.stdin.read()
until = time.monotonic() + 10
while os.path.exists(sys.argv[1]) and time.monotonic() < until:
    shutil.rmtree(sys.argv[1], ignore_errors=True)
    time.sleep(0.02)
"""


@dataclasses.dataclass(frozen=True)
class Plan:
    """The parts of the cluster.

    Attributes:
        workers: The number of Celery workers.
        children: The number of processes in each worker.
        think: Seconds between the read and the write of an increment; None leaves the time to the environment.
        ports: The ports of the broker and the lock nodes; None for unix sockets, which only this user can reach.
        flower_port: The port of Flower.
        server: The program of all Redis servers, `redis-server` or `valkey-server`; empty for the first that is found.
        rabbitmq: Whether a RabbitMQ is the broker.
    """

    workers: int
    children: int
    think: float | None
    ports: tuple[int, ...] | None
    flower_port: int
    server: str = ""
    rabbitmq: bool = False


def is_free(port: int) -> bool:
    """Whether a server could listen on this TCP port of loopback."""
    with socket.socket() as probe:
        # Servers set this option too: a port with nothing but closed connections is free.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            # A port below 1024 may be free, and refused to this user: the server gives that reason.
            return error.errno != errno.EADDRINUSE
        return True


@dataclasses.dataclass(frozen=True)
class Running:
    """A cluster that takes tasks.

    Attributes:
        redis: The sixth Redis: results and store, and the broker unless that is RabbitMQ.
        nodes: The lock nodes.
        flower: The address of Flower.
        settings: The environment variables with all of these addresses, for a client.
        programs: The workers and Flower.
        check_caller: Raises if the caller no longer needs the cluster.
    """

    redis: redis_server.Server
    nodes: redis_server.Cluster
    flower: str
    settings: dict[str, str]
    programs: tuple[Program, ...]
    check_caller: Callable[[], None]

    def check(self) -> None:
        """Raise if a program has ended by itself or the caller no longer needs the cluster. To be called repeatedly.

        Raises:
            ClusterError: A worker or Flower has ended.
        """
        self.check_caller()
        for program in self.programs:
            program.check()


@contextlib.contextmanager
def running(plan: Plan, check_caller: Callable[[], None]) -> Iterator[Running]:
    """A cluster for the duration of the `with` block, in the main thread: the children die with their thread.

    Args:
        plan: The parts of the cluster.
        check_caller: Raises if the caller no longer needs the cluster. Called repeatedly.

    Raises:
        ClusterError: A part of the cluster did not start.
        redlock.ConfigurationError: A server did not start, or is not installed.
    """
    for port, option in [(plan.flower_port, "--flower-port"), *((port, "--ports") for port in plan.ports or ())]:
        if not is_free(port):
            remedy = f"stop the program that listens there, or choose others with {option}"
            raise ClusterError(f"port {port} is taken; {remedy}")
    with contextlib.ExitStack() as stack:
        directory = stack.enter_context(_scratch())
        program = redis_server.executable(plan.server)
        rabbitmq_url = stack.enter_context(_rabbitmq(directory, check_caller)) if plan.rabbitmq else ""
        first, ports = (plan.ports[0], plan.ports[1:]) if plan.ports else (None, None)
        options = (*_DURABLE, *redis_server.FOR_ANY_USER) if plan.ports else _DURABLE
        redis = redis_server.Server(first, options, program)
        stack.callback(redis.stop)
        redis.start()
        nodes = stack.enter_context(redis_server.cluster(NODES, ports=ports, program=program))
        settings = settings_of(plan, redis, nodes, rabbitmq_url)
        programs = stack.enter_context(_programs(plan, settings | {"TMPDIR": directory}))
        cluster = Running(redis, nodes, f"http://127.0.0.1:{plan.flower_port}", settings, programs, check_caller)
        _wait_until_ready(cluster, plan)
        yield cluster


@contextlib.contextmanager
def _rabbitmq(directory: str, check_caller: Callable[[], None]) -> Iterator[str]:
    """A RabbitMQ, and its address with a password of its own."""
    files = Path(directory) / "rabbitmq"
    files.mkdir(0o700)
    server = RabbitMQ(files, password=secrets.token_hex(16))
    try:
        server.start(check_caller)
        yield server.url
    finally:
        server.kill()


def settings_of(
    plan: Plan, redis: redis_server.Server, nodes: redis_server.Cluster, rabbitmq_url: str
) -> dict[str, str]:
    """The environment variables with the addresses of all servers."""
    if redis.port is None:
        # Celery has its own URL scheme for unix sockets.
        celery = redis.url.replace("unix://", "redis+socket://") + "?virtual_host="
        broker_url, result_url, store_url = f"{celery}0", f"{celery}1", f"{redis.url}?db=2"
    else:
        broker_url, result_url, store_url = (f"{redis.url}/{database}" for database in range(3))
    settings = {
        **dict.fromkeys((*SECRETS, "REDLOCK_PREFIX", "REDLOCK_PREFIX_FILE"), ""),
        "REDLOCK_NODES": ",".join(nodes.urls),
        "COUNTER_BROKER_URL": rabbitmq_url or broker_url,
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
            program.terminate()
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
                time.sleep(_POLL_SECONDS)


def _is_healthy(port: int) -> bool:
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", port, timeout=2)) as connection:
        try:
            connection.request("GET", "/healthcheck")
            return connection.getresponse().status == http.HTTPStatus.OK
        except (OSError, http.client.HTTPException):
            return False
