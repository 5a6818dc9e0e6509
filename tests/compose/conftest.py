"""The worked example in real containers, under its own project name; nothing is left behind.

Invariants:
1. These tests see only the published ports and the docker program, as a user does.
2. A separate Python process sends the tasks.
"""

from __future__ import annotations

import shutil
import socket
import subprocess
from collections.abc import Iterator

import pytest

from tests.compose.counter import Counter
from tests.compose.project import Project, run

PORTS = (5555, *range(63790, 63796))
IMAGES = ("redis:8-alpine", "python:3.13-slim")
"""The source of the images."""


def last_line(said: str) -> str:
    """The last line of a program's output."""
    return (said.strip().splitlines() or ["it did not say why"])[-1]


def compose_program() -> tuple[str, ...]:
    """The compose tool of this machine, version 2 before version 1; skips without Docker."""
    if shutil.which("docker") is None:
        pytest.skip("no Docker engine: there is no docker program on this machine")
    try:
        engine = run("docker", "version", "--format", "{{.Server.Version}}", seconds=30, check=False)
    except subprocess.TimeoutExpired:
        pytest.skip("no Docker engine: it did not answer within 30 s")
    if engine.returncode != 0:
        pytest.skip(f"no Docker engine: {last_line(engine.stderr)}")
    for image in IMAGES:
        if run("docker", "image", "inspect", image, check=False).returncode != 0:
            pulled = run("docker", "pull", "--quiet", image, check=False)
            if pulled.returncode != 0:
                pytest.skip(f"no Docker image {image}, and none to be had: {last_line(pulled.stderr)}")
    for program in (("docker", "compose"), ("docker-compose",)):
        if shutil.which(program[0]) and run(*program, "version", check=False).returncode == 0:
            return program
    pytest.skip("neither `docker compose` nor `docker-compose` is on this machine")


def is_taken(port: int) -> bool:
    """Whether a server listens on this port of loopback."""
    with socket.socket() as sock:
        return sock.connect_ex(("127.0.0.1", port)) == 0


@pytest.fixture(scope="session")
def project() -> Iterator[Project]:
    """The whole example with four workers."""
    project = Project(compose_program())
    try:
        project.remove()  # left by an earlier run that was killed
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
    """A counter of this test only."""
    counter = Counter(request.node.name)
    yield counter
    counter.close()
