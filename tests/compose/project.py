"""The containers of the worked example, and what can be done to them, with the docker program and the compose tool.

Rules: the project has a name of its own, so that nothing of anybody else's is touched; settings of this machine do not
reach it.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

ROOT = Path(__file__).parents[2]
NAME = "redlock-compose-test"
LABEL = f"label=com.docker.compose.project={NAME}"
SETTINGS = {
    # What a killed worker had in hand is to come back in seconds. Still long enough for a slow machine: a task that
    # meets its time limit fails, and an increment that failed is lost.
    "COUNTER_TIME_LIMIT": "10",
    "COUNTER_VISIBILITY_TIMEOUT": "12",
    "COUNTER_THINK": "0.05",
    "DOCKER_BUILDKIT": "0",
}


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

    def processes(self, container: str, field: str) -> set[str]:
        """What the kernel says under this name of the processes in it."""
        # Which go and come meanwhile, hence no check of the code.
        status = run("docker", "exec", container, "sh", "-c", "cat /proc/[0-9]*/status", check=False).stdout
        return {word for line in status.splitlines() if line.startswith(f"{field}:") for word in line.split()[1:]}

    def events(self) -> str:
        """What the workers' own log files hold."""
        command = ("sh", "-c", "cat /tmp/logger.log*")
        return "".join(run("docker", "exec", worker, *command).stdout for worker in self.containers("worker"))

    def console(self, *containers: str) -> str:
        """What these containers, by default all workers, said to the console."""
        said = [run("docker", "logs", container) for container in containers or self.containers("worker")]
        return "".join(stream for each in said for stream in (each.stdout, each.stderr))

    def shown(self) -> str:
        """What Docker shows of all containers to whoever may use it: settings, mounts, processes, console."""
        containers = self.containers()
        shown = [json.dumps(self.inspect()), self.console(*containers)]
        return "\n".join(shown + [run("docker", "top", container).stdout for container in containers])

    def kill(self, container: str) -> None:
        """SIGKILL to everything in it. It is not started again: Docker takes it for the user's wish."""
        run("docker", "kill", container)

    @contextlib.contextmanager
    def paused(self, *containers: str) -> Iterator[None]:
        """All processes in these stand still, as where a host swaps or a virtual machine is moved."""
        run("docker", "pause", *containers)
        try:
            yield
        finally:
            run("docker", "unpause", *containers)

    @contextlib.contextmanager
    def cut_off(self, **containers: str) -> Iterator[None]:
        """These, by their service's name, have no network; afterwards they have it again, maybe at new addresses."""
        for container in containers.values():
            run("docker", "network", "disconnect", f"{NAME}_default", container)
        try:
            yield
        finally:
            for service, container in containers.items():
                run("docker", "network", "connect", "--alias", service, f"{NAME}_default", container)

    def restart(self, container: str) -> None:
        """SIGTERM, the grace that its service has, and a start."""
        run("docker", "restart", container)

    def stop(self, container: str) -> int:
        """SIGTERM, and the grace that its service has; its exit code, 137 if that was not enough."""
        run("docker", "stop", container)
        return int(run("docker", "inspect", "--format", "{{.State.ExitCode}}", container).stdout)

    @contextlib.contextmanager
    def one_more(self, service: str, *command: str, **settings: str) -> Iterator[str]:
        """A container of a service with settings of its own; removed in the end."""
        name = f"{NAME}_one_more"
        options = [option for setting, value in settings.items() for option in ("-e", f"{setting}={value}")]
        self.compose("run", "--detach", "--no-deps", "--name", name, *options, service, *command)
        try:
            yield run("docker", "inspect", "--format", "{{.Id}}", name).stdout.strip()
        finally:
            run("docker", "rm", "--force", "--volumes", name)

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
