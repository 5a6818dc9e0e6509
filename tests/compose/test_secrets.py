"""The example with users and with passwords in files, as in docs/operations.md: no password is visible."""

from __future__ import annotations

import base64
import contextlib
import http.client
import secrets
import socket
from pathlib import Path

import pytest
from redis import Redis
from redis.exceptions import AuthenticationError

from tests.compose.project import ROOT, Project, run
from tests.integration.pages import blocks
from tests.integration.tools import CANARY, eventually

pytestmark = pytest.mark.timeout(1200)

PAGE = ROOT / "docs" / "operations.md"
FILES = ("docker-compose.secrets.yml", "docker-compose.flower.yml")
SECRET = f"{CANARY}-{secrets.token_hex(8)}"
COUNT = """
from tasks import increment
print(increment.delay(name="behind closed doors").get(timeout=60)["value"])
"""


def write_secrets(folder: Path) -> None:
    """Write the files and the users of docs/operations.md."""
    folder.mkdir()
    for name, users in (("lock.acl", ("lock", "operator")), ("tasks.acl", ("tasks",))):
        starts = tuple(f"user {user} on " for user in users)
        lines = [line for line in PAGE.read_text().splitlines() if line.startswith(starts)]
        assert len(lines) == len(users)
        rules = "\n".join(lines).replace("SECRET", SECRET)
        (folder / name).write_text(f"{rules}\nuser default off\nuser health on >{SECRET} -@all +ping\n")
    for user in ("lock", "operator", "health"):
        (folder / user).write_text(f"{SECRET}\n")
    for database, name in enumerate(("broker", "results", "store")):
        (folder / name).write_text(f"redis://tasks:{SECRET}@broker:6379/{database}\n")
    (folder / "flower").write_text(f"ann:{SECRET}\n")


def status_of_flower(user: str) -> int:
    """The HTTP status with which Flower answers this user."""
    connection = http.client.HTTPConnection("127.0.0.1", 5555, timeout=30)
    try:
        headers = {"Authorization": f"Basic {base64.b64encode(user.encode()).decode()}"} if user else {}
        connection.request("GET", "/workers", headers=headers)
        return connection.getresponse().status
    finally:
        connection.close()


def send_long_commands(port: int) -> None:
    """Send 200 MB to a server without a password, and long names of clients, until the server ends the connections."""
    starts = (b"*2\r\n$4\r\nPING\r\n$400000000\r\n", b"*4\r\n$5\r\nHELLO\r\n$1\r\n3\r\n$7\r\nSETNAME\r\n$7000000\r\n")
    with contextlib.ExitStack() as stack:
        for start, megabytes in ((starts[0], 200), *((starts[1], 7),) * 20):
            client = stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=60))
            with contextlib.suppress(ConnectionError):
                client.sendall(start)
                for _ in range(megabytes):
                    client.sendall(b"x" * 1_000_000)
                client.sendall(b"\r\n")


def test_passwords_in_files_work_and_are_invisible(project: Project, tmp_path: Path) -> None:
    write_secrets(tmp_path / "secrets")
    files = ["-f", "docker-compose.yml"]
    for name in FILES:
        (block,) = [block for block in blocks(PAGE) if block.text.startswith(f"# {name}")]
        (tmp_path / name).write_text(block.text.replace("./secrets", str(tmp_path / "secrets")))
        files += ["-f", str(tmp_path / name)]

    project.compose(*files, "up", "--detach", "--scale", "worker=1")
    eventually(project.is_healthy, "every container to be healthy", within=300, every=0.2)
    (worker,) = project.containers("worker")
    assert run("docker", "exec", worker, "python", "-c", COUNT).stdout == "1\n"

    for port in range(63790, 63796):
        with Redis(port=port) as nobody, pytest.raises(AuthenticationError):
            nobody.ping()
        send_long_commands(port)
    servers = [project.inspect(service)[0] for service in ("broker", *(f"lock{place}" for place in range(1, 6)))]
    assert [server["RestartCount"] for server in servers] == [0] * 6, "the kernel killed a server for lack of memory"
    assert [status_of_flower(user) for user in ("", "ann:wrong", f"ann:{SECRET}")] == [401, 401, 200]
    for service in ("lock1", "broker", "worker", "flower"):
        (container,) = project.containers(service)
        mounted = run("docker", "exec", container, "sh", "-c", "cat /run/secrets/*").stdout
        assert SECRET in mounted, "the password is not where it should be"
    shown = project.shown()
    assert all(word in shown for word in ("REDLOCK_PASSWORD_FILE", "Ready to accept connections", "redis-server"))
    assert CANARY not in shown
    # A user with access to a container can read its files. Other processes must not see the passwords.
    assert CANARY not in run("docker", "exec", worker, "sh", "-c", "cat /proc/[0-9]*/cmdline /proc/1/environ").stdout
