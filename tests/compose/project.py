"""The containers of the worked example, and the actions on them through the docker program and the compose tool.

Invariants:
1. The project has its own name, so no other container is touched.
2. Settings of this machine do not reach the containers.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
NAME = "redlock-compose-test"
LABEL = f"label=com.docker.compose.project={NAME}"
SETTINGS = {
    # The tasks of a killed worker must come back in seconds. On a slow machine a shorter limit would end a task, and
    # its increment would be lost.
    "COUNTER_TIME_LIMIT": "10",
    "COUNTER_VISIBILITY_TIMEOUT": "12",
    "COUNTER_THINK": "0.05",
    "DOCKER_BUILDKIT": "0",
}


def run(
    *command: str, environment: dict[str, str] | None = None, seconds: float = 900, check: bool = True
) -> subprocess.CompletedProcess[str]:
    """Run a program to its end; an error fails the test with the program's output."""
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=seconds, cwd=ROOT, env=environment, check=False
    )
    if check and done.returncode != 0:
        words = (done.stderr or done.stdout)[-3000:]
        pytest.fail(f"`{' '.join(command)}` failed with code {done.returncode}:\n{words}", pytrace=False)
    return done


def clean_environment() -> dict[str, str]:
    """This environment without the settings of the example."""
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
        command = (*self._program, "--project-name", NAME, *arguments)
        run(*command, environment=clean_environment() | SETTINGS)

    def containers(self, service: str | None = None) -> list[str]:
        """The ids of the running containers, of one service or of all."""
        which = [] if service is None else ["--filter", f"label=com.docker.compose.service={service}"]
        return run("docker", "ps", "--no-trunc", "--quiet", "--filter", LABEL, *which).stdout.split()

    def inspect(self, service: str | None = None) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = json.loads(run("docker", "inspect", *self.containers(service)).stdout)
        return found

    def is_healthy(self) -> bool:
        """Whether every container passes its health check; fails the test if a container has ended."""
        containers = self.inspect()
        for container in containers:
            if container["RestartCount"] > 2:
                logs = run("docker", "logs", "--tail", "15", container["Id"])
                pytest.fail(f"{container['Name']} ends again and again:\n{logs.stdout}{logs.stderr}", pytrace=False)
        return all(container["State"]["Health"]["Status"] == "healthy" for container in containers)

    def processes(self, container: str, field: str) -> set[str]:
        """This field of `/proc/PID/status` for each process of a container."""
        # A process may end meanwhile, so the exit status is not checked.
        status = run("docker", "exec", container, "sh", "-c", "cat /proc/[0-9]*/status", check=False).stdout
        return {word for line in status.splitlines() if line.startswith(f"{field}:") for word in line.split()[1:]}

    def events(self) -> str:
        """The text of the workers' log files."""
        command = ("sh", "-c", "cat /tmp/logger.log*")
        return "".join(run("docker", "exec", worker, *command).stdout for worker in self.containers("worker"))

    def console(self, *containers: str) -> str:
        """The output of these containers, by default of all workers."""
        said = [run("docker", "logs", container) for container in containers or self.containers("worker")]
        return "".join(stream for each in said for stream in (each.stdout, each.stderr))

    def shown(self) -> str:
        """The information that Docker gives every user: settings, mounts, processes, console."""
        containers = self.containers()
        shown = [json.dumps(self.inspect()), self.console(*containers)]
        return "\n".join(shown + [run("docker", "top", container).stdout for container in containers])

    def kill(self, container: str) -> None:
        """Kill a container. Docker does not restart a container that the user killed."""
        run("docker", "kill", container)

    @contextlib.contextmanager
    def paused(self, *containers: str) -> Iterator[None]:
        """Freeze these containers during the block, as a swapping host or a moved virtual machine does."""
        run("docker", "pause", *containers)
        try:
            yield
        finally:
            run("docker", "unpause", *containers)

    @contextlib.contextmanager
    def cut_off(self, **containers: str) -> Iterator[None]:
        """Take these containers off the network during the block. Afterwards their addresses may be new."""
        for container in containers.values():
            run("docker", "network", "disconnect", f"{NAME}_default", container)
        try:
            yield
        finally:
            for service, container in containers.items():
                run("docker", "network", "connect", "--alias", service, f"{NAME}_default", container)

    def restart(self, container: str) -> None:
        """Stop a container with the grace period of its service, then start the container."""
        run("docker", "restart", container)

    def stop(self, container: str) -> int:
        """Stop a container with the grace period of its service; return its exit code, 137 after a SIGKILL."""
        run("docker", "stop", container)
        return int(run("docker", "inspect", "--format", "{{.State.ExitCode}}", container).stdout)

    @contextlib.contextmanager
    def one_more(self, service: str, *command: str, **settings: str) -> Iterator[str]:
        """Run one more container of a service with these settings during the block."""
        name = f"{NAME}_one_more"
        options = [option for setting, value in settings.items() for option in ("-e", f"{setting}={value}")]
        self.compose("run", "--detach", "--no-deps", "--name", name, *options, service, *command)
        try:
            yield run("docker", "inspect", "--format", "{{.Id}}", name).stdout.strip()
        finally:
            run("docker", "rm", "--force", "--volumes", name)

    def left(self) -> str:
        """The containers, networks, volumes and images of the project on this machine."""
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
        """Remove all containers, volumes and images of the project."""
        self.compose("down", "--volumes", "--remove-orphans", "--timeout", "5")
        # Not `down --rmi`: version 2 knows only the images that BuildKit built.
        images = run("docker", "image", "ls", "--quiet", "--filter", f"reference={NAME}*").stdout.split()
        if images:
            run("docker", "image", "rm", "--force", *sorted(set(images)))
