"""The worked example in real containers, under a project name of its own; nothing of it is left behind.

Rules: these tests see what a user sees, the published ports and the docker program; tasks are sent by a Python of
their own, as from any shell.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from redis import Redis

from redlock.store import FencedStore

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

ROOT = Path(__file__).parents[2]
NAME = "redlock-compose-test"
LABEL = f"label=com.docker.compose.project={NAME}"
PORTS = (5555, *range(63790, 63796))
SETTINGS = {
    # What a killed worker had in hand is to come back in seconds. Still long enough for a slow machine: a task that
    # meets its time limit fails, and an increment that failed is lost.
    "COUNTER_TIME_LIMIT": "10",
    "COUNTER_VISIBILITY_TIMEOUT": "12",
    "COUNTER_THINK": "0.05",
    "DOCKER_BUILDKIT": "0",
}
SEND = """
import sys
from tasks import increment
for _ in range(int(sys.argv[1])):
    print(increment.delay(name=sys.argv[2]).id)
"""


def run(
    *command: str, environment: dict[str, str] | None = None, seconds: float = 900, check: bool = True
) -> subprocess.CompletedProcess[str]:
    """Run it to its end; where it fails, so does the test, with the program's own words."""
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=seconds, cwd=ROOT, env=environment, check=False
    )
    if check and done.returncode != 0:
        words = (done.stderr or done.stdout)[-3000:]
        pytest.fail(f"`{' '.join(command)}` failed with code {done.returncode}:\n{words}", pytrace=False)
    return done


def clean_environment() -> dict[str, str]:
    """This environment without what would make the example another one."""
    ours = ("COUNTER_", "REDLOCK_", "COMPOSE_")
    return {name: value for name, value in os.environ.items() if not name.startswith(ours)}


class Project:
    """The containers of one project.

    Args:
        program: The compose tool, such as `("docker", "compose")`.
    """

    def __init__(self, program: Sequence[str]) -> None:
        self._program = program

    def compose(self, *arguments: str) -> None:
        """A command of the compose tool."""
        command = (*self._program, "--project-name", NAME, *arguments)
        run(*command, environment=clean_environment() | SETTINGS)

    def containers(self, service: str | None = None) -> list[str]:
        """The ids of the containers that run: of one service, or all."""
        which = [] if service is None else ["--filter", f"label=com.docker.compose.service={service}"]
        return run("docker", "ps", "--no-trunc", "--quiet", "--filter", LABEL, *which).stdout.split()

    def inspect(self, service: str | None = None) -> list[dict[str, Any]]:
        """What Docker knows about each of them."""
        found: list[dict[str, Any]] = json.loads(run("docker", "inspect", *self.containers(service)).stdout)
        return found

    def is_healthy(self) -> bool:
        """Whether every container passes its own health check; fails the test where one will not stay up."""
        containers = self.inspect()
        for container in containers:
            if container["RestartCount"] > 2:
                logs = run("docker", "logs", "--tail", "15", container["Id"])
                pytest.fail(f"{container['Name']} ends again and again:\n{logs.stdout}{logs.stderr}", pytrace=False)
        return all(container["State"]["Health"]["Status"] == "healthy" for container in containers)

    def users(self, container: str) -> set[str]:
        """Whom the processes in it run as."""
        # Which go and come meanwhile, hence no check of the code.
        status = run("docker", "exec", container, "sh", "-c", "cat /proc/[0-9]*/status", check=False).stdout
        return {user for line in status.splitlines() if line.startswith("Uid:") for user in line.split()[1:]}

    def events(self) -> str:
        """What the workers' own log files hold."""
        command = ("sh", "-c", "cat /tmp/logger.log*")
        return "".join(run("docker", "exec", worker, *command).stdout for worker in self.containers("worker"))

    def console(self) -> str:
        """What the workers said to the console."""
        said = [run("docker", "logs", worker) for worker in self.containers("worker")]
        return "".join(stream for worker in said for stream in (worker.stdout, worker.stderr))

    def kill(self, container: str) -> None:
        """SIGKILL to everything in it. It is not started again: Docker takes it for the user's wish."""
        run("docker", "kill", container)

    def left(self) -> str:
        """What of the project there is on this machine, running or not."""
        return "".join(
            run("docker", *command).stdout
            for command in (
                ("ps", "--all", "--filter", LABEL, "--format", "container {{.Names}}"),
                ("volume", "ls", "--filter", LABEL, "--format", "volume {{.Name}}"),
                ("network", "ls", "--filter", LABEL, "--format", "network {{.Name}}"),
                ("image", "ls", "--filter", f"reference={NAME}*", "--format", "image {{.Repository}}"),
            )
        )

    def remove(self) -> None:
        """Take everything down, with what it stored and the images that were built for it."""
        self.compose("down", "--volumes", "--remove-orphans", "--timeout", "5")
        # Not `down --rmi`: version 2 knows only the images that BuildKit built.
        images = run("docker", "image", "ls", "--quiet", "--filter", f"reference={NAME}*").stdout.split()
        if images:
            run("docker", "image", "rm", "--force", *sorted(set(images)))


class Counter:
    """One counter, seen from the host: sent to with `increment.delay()`, looked at in the sixth Redis."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.ids: list[str] = []
        self._results = Redis(port=63790, db=1, decode_responses=True)
        self._store = Redis(port=63790, db=2)

    def close(self) -> None:
        """Hang up."""
        self._results.close()
        self._store.close()

    def send(self, increments: int) -> None:
        """Enqueue so many, as from any shell."""
        sent = run(sys.executable, "-c", SEND, str(increments), self.name, environment=clean_environment())
        self.ids += sent.stdout.split()

    def value(self) -> int:
        """Where it stands."""
        return int(FencedStore(self._store).peek(self.name) or 0)

    def tasks(self) -> list[dict[str, Any]]:
        """What became of each task that was sent, in that order."""
        stored = self._results.mget([f"celery-task-meta-{task_id}" for task_id in self.ids])
        return [{"status": "PENDING", "result": None} if meta is None else json.loads(meta) for meta in stored]

    def in_hand_of(self, container: str) -> list[str]:
        """The tasks that a container's worker has begun and not ended."""
        return [
            task_id
            for task_id, task in zip(self.ids, self.tasks(), strict=True)
            if task["status"] == "STARTED" and task["result"]["hostname"] == f"worker@{container[:12]}"
        ]

    def is_done(self) -> bool:
        """Whether every task has ended, well or not."""
        return all(task["status"] in {"SUCCESS", "FAILURE", "REVOKED"} for task in self.tasks())

    def outcomes(self) -> list[object]:
        """The numbers that the tasks counted, in order; errors at the end."""
        tasks = self.tasks()
        numbers = sorted(task["result"]["value"] for task in tasks if task["status"] == "SUCCESS")
        return numbers + [task for task in tasks if task["status"] != "SUCCESS"]


def compose_program() -> tuple[str, ...]:
    """The compose tool of this machine, version 2 before version 1; skips where there is no Docker to use."""
    if shutil.which("docker") is None:
        pytest.skip("no Docker engine: there is no docker program on this machine")
    try:
        engine = run("docker", "version", "--format", "{{.Server.Version}}", seconds=30, check=False)
    except subprocess.TimeoutExpired:
        pytest.skip("no Docker engine: it did not answer within 30 s")
    if engine.returncode != 0:
        reason = (engine.stderr.strip().splitlines() or ["it did not answer"])[-1]
        pytest.skip(f"no Docker engine: {reason}")
    for program in (("docker", "compose"), ("docker-compose",)):
        if shutil.which(program[0]) and run(*program, "version", check=False).returncode == 0:
            return program
    pytest.skip("neither `docker compose` nor `docker-compose` is on this machine")


def is_taken(port: int) -> bool:
    """Whether somebody listens on this port of loopback."""
    with socket.socket() as sock:
        return sock.connect_ex(("127.0.0.1", port)) == 0


@pytest.fixture(scope="module")
def project() -> Iterator[Project]:
    """The whole example with four workers."""
    project = Project(compose_program())
    try:
        project.remove()  # what an earlier run left that was killed
        taken = [str(port) for port in PORTS if is_taken(port)]
        if taken:
            pytest.fail(f"the example publishes ports that somebody listens on: {', '.join(taken)}", pytrace=False)
        project.compose("up", "--detach", "--build", "--scale", "worker=4")
        yield project
    finally:
        project.remove()
        assert not project.left(), f"left behind: {project.left()}"


@pytest.fixture
def counter(request: pytest.FixtureRequest) -> Iterator[Counter]:
    """A counter of the test's own."""
    counter = Counter(request.node.name)
    yield counter
    counter.close()
