"""A Django project that follows Celery's guide and ours word by word."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from celery import Celery

from redlock.celery import client_for
from redlock.celery.conf import of_conf
from redlock.testing import redis_server
from tests.integration.pages import blocks
from tests.integration.tools import CANARY, ROOT, eventually, raw, sixth_redis

if TYPE_CHECKING:
    from collections.abc import Iterator

    from redlock.testing.redis_server import Cluster, Server

functional = pytest.importorskip("django.utils.functional")


class Project:
    """A project that `django-admin` made, with the files of the guide."""

    def __init__(self, directory: Path, nodes: Cluster, broker: Server) -> None:
        self.directory = directory
        self._environment = {
            name: value for name, value in os.environ.items() if not name.startswith(("REDLOCK_", "CELERY_"))
        } | {"SHOP_LOCK_PASSWORD": CANARY}
        assert self.run("django", "startproject", "shop", str(directory)) == ""
        assert self.run("django", "startapp", "orders") == ""
        for name, text in guide().items():
            text = text.replace("redis://127.0.0.1:6379", broker.url)  # noqa: PLW2901 - as the page has it
            text = text.replace('[f"redis://127.0.0.1:{port}" for port in range(63791, 63796)]', repr(nodes.urls))  # noqa: PLW2901 - as above
            with (directory / name).open("a") as file:
                file.write(f"\n{text}")

    def set(self, line: str) -> None:
        """Add a line to the settings."""
        with (self.directory / "shop" / "settings.py").open("a") as file:
            file.write(f"{line}\n")

    def run(self, module: str, *arguments: str) -> str:
        """The output of a program of the project."""
        done = subprocess.run(
            [sys.executable, "-m", module, *arguments],
            cwd=self.directory, env=self._environment, capture_output=True, text=True, timeout=100, check=False,
        )  # fmt: skip
        return f"{done.stdout}{done.stderr}"

    @contextlib.contextmanager
    def worker(self) -> Iterator[tuple[subprocess.Popen[bytes], Path]]:
        """A worker, and the file with its output."""
        output = self.directory / "output"
        with output.open("wb") as file:
            process = subprocess.Popen(
                [sys.executable, "-m", "celery", "-A", "shop", "worker", "-c", "1", "-l", "INFO", "-n", "w@here"],
                cwd=self.directory, env=self._environment, stdin=subprocess.DEVNULL, stdout=file, stderr=file,
                start_new_session=True,
            )  # fmt: skip
        try:
            yield process, output
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def guide() -> dict[str, str]:
    """The files of the guide's section on Django, by name."""
    text = (ROOT / "docs" / "guide.md").read_text()
    start = text[: text.index("## Django")].count("\n")
    found = [block.text for block in blocks(ROOT / "docs" / "guide.md") if block.line > start]
    named = {text.partition("\n")[0].removeprefix("# "): text for text in found}
    return {name: text for name, text in named.items() if name.startswith(("shop/", "orders/"))}


@pytest.fixture
def project(tmp_path: Path) -> Iterator[tuple[Project, Server]]:
    with redis_server.cluster() as nodes, sixth_redis() as broker:
        for server in nodes.servers:
            with raw(server) as redis:
                redis.config_set("requirepass", CANARY)
        yield Project(tmp_path, nodes, broker), broker


def test_the_guide_names_all_files_of_the_project() -> None:
    assert set(guide()) == {
        *("shop/celery.py", "shop/__init__.py", "shop/settings.py", "shop/urls.py"),
        *("orders/tasks.py", "orders/views.py"),
    }


def test_a_project_of_the_guide_works(project: tuple[Project, Server]) -> None:
    shop, broker = project
    with shop.worker() as (process, output):
        eventually(lambda: " ready." in output.read_text() or process.poll() is not None, "a worker that is ready")
        said = output.read_text()
        assert process.poll() is None, said
        assert "nodes: CELERY_REDLOCK_NODES in app.conf; password: CELERY_REDLOCK_PASSWORD in app.conf; " in said
        sender = Celery("sender", broker=f"{broker.url}/0", backend=f"{broker.url}/1", set_as_current=False)
        with sender:
            assert sender.send_task("orders.tasks.ship", (7,)).get(timeout=60) > 0
        assert "- empty -" in shop.run("celery", "-A", "shop", "inspect", "locks", "-d", "w@here", "--timeout", "60")
    doctor = shop.run("redlock", "doctor", "-A", "shop")
    assert "CELERY_REDLOCK_NODES in app.conf" in doctor
    assert f"broker 127.0.0.1:{broker.port}: {'Valkey' if 'Valkey' in doctor else 'Redis'} " in doctor
    assert CANARY not in said + doctor + shop.run("celery", "-A", "shop", "report")


def test_a_view_and_a_task_share_a_lock(project: tuple[Project, Server]) -> None:
    shop, _ = project
    told = shop.run("django", "shell", "--settings", "shop.settings", "-c", SHARED)
    lines = [line for line in told.splitlines() if line.startswith(("200", "409", "shipped"))]
    assert lines == ["200 cancelled", "409 the order", "200 cancelled", "shipped"], told


SHARED = """
from celery import current_app
from django.conf import settings
from django.test import Client
from orders.tasks import ship
from redlock.celery import client_for

settings.ALLOWED_HOSTS = ["testserver"]

def told():
    answer = Client().get("/orders/7/cancel")
    print(answer.status_code, " ".join(answer.content.decode().split()[:2]).removesuffix(" with"))

told()
with client_for(current_app).lock("order:7"):
    told()
told()
assert ship.apply((7,)).get() > 0
print("shipped")
"""
"""As the view and a task of the guide use the lock, one after the other."""


def test_manage_py_checks_the_settings_and_shows_the_status(project: tuple[Project, Server]) -> None:
    shop, _ = project
    assert (
        shop.run("django", "check", "--settings", "shop.settings")
        == "System check identified no issues (0 silenced).\n"
    )
    status = shop.run("django", "redlock", "--settings", "shop.settings", "status", "--timeout", "5")
    assert "5 of 5 nodes vote, 3 are needed" in status
    shop.set("CELERY_REDLOCK_TTL = -1")
    refused = shop.run("django", "check", "--settings", "shop.settings")
    assert "(redlock.E001)" in refused
    assert "ttl is -1" in refused


def test_a_typo_in_the_settings_of_a_project_is_refused(project: tuple[Project, Server]) -> None:
    shop, _ = project
    shop.set("CELERY_REDLOCK_NODE = CELERY_REDLOCK_NODES")
    wrong = "CELERY_REDLOCK_NODE is no setting; did you mean CELERY_REDLOCK_NODES?"
    with shop.worker() as (process, output):
        assert process.wait(60) != 0
        assert wrong in output.read_text()
        assert "Traceback" not in output.read_text()
    assert shop.run("celery", "-A", "shop", "redlock", "doctor") == f"redlock: {wrong}\n"


def test_values_that_django_evaluates_late_are_read() -> None:
    text, late = functional.lazystr, functional.SimpleLazyObject
    for nodes in (text("a:1, b:1, c:1"), late(lambda: "a:1,b:1,c:1"), [text("a:1"), late(lambda: "b:1"), "c:1"],
                  late(lambda: ["a:1", "b:1", "c:1"])):  # fmt: skip
        app = Celery(set_as_current=False)
        app.conf.update(redlock_nodes=nodes, redlock_ttl=late(lambda: 2.0), redlock_max_ttl=text("9"))
        assert [node.label for node in client_for(app)._context.pool.nodes] == ["a:1", "b:1", "c:1"]
        assert (of_conf(app.conf).ttl, of_conf(app.conf).max_ttl) == (2.0, 9.0)
    assert of_conf({"redlock_heartbeat_file": Path("here")}).heartbeat_file == "here"
