"""A new Django project that follows Celery's guide and our page word by word, and the finished example."""

from __future__ import annotations

import contextlib
import http
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from celery import Celery

from redlock.celery import client_for
from redlock.celery.conf import of_conf
from redlock.testing import redis_server
from redlock.testing.redis_server import Cluster, Server, die_with_parent
from tests.integration.pages import blocks
from tests.integration.test_examples import answer
from tests.integration.tools import CANARY, ROOT, eventually, raws, sixth_redis

functional = pytest.importorskip("django.utils.functional")

PAGE = ROOT / "docs" / "django.md"
EXAMPLE = ROOT / "examples" / "django_shop"
CELERYS_GUIDE = {
    "shop/celery.py": """
import os

from celery import Celery

# Set the default Django settings module for the 'celery' program.
os.environ.setdefault('DJANGO_SETTINGS_MODULE', 'shop.settings')

app = Celery('shop')

# Using a string here means the worker doesn't have to serialize
# the configuration object to child processes.
# - namespace='CELERY' means all celery-related configuration keys
#   should have a `CELERY_` prefix.
app.config_from_object('django.conf:settings', namespace='CELERY')

# Load task modules from all registered Django apps.
app.autodiscover_tasks()


@app.task(bind=True, ignore_result=True)
def debug_task(self):
    print(f'Request: {self.request!r}')
""",
    "shop/__init__.py": """
# This will make sure the app is always imported when
# Django starts so that shared_task will use this app.
from .celery import app as celery_app

__all__ = ('celery_app',)
""",
    "shop/settings.py": """
# Celery Configuration Options
CELERY_TIMEZONE = "Australia/Tasmania"
CELERY_TASK_TRACK_STARTED = True
CELERY_TASK_TIME_LIMIT = 30 * 60
""",
    "orders/tasks.py": """
# Create your tasks here

from celery import shared_task


@shared_task
def add(x, y):
    return x + y
""",
}
"""The files of "First steps with Django" in Celery's documentation, whose project is named `proj`."""


class Project:
    """A Django project in a directory, with the programs that its guide names."""

    def __init__(self, directory: Path, **environment: str) -> None:
        self.directory = directory
        self.port = redis_server.free_port()
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        ours = {name: value for name, value in os.environ.items() if not name.startswith(("REDLOCK_", "CELERY_"))}
        self._environment = ours | {"PATH": path, "REDLOCK_NODE_TIMEOUT": "1"} | environment

    def run(self, command: str) -> str:
        """The output of a command line."""
        done = subprocess.run(
            ["sh", "-ec", command], cwd=self.directory, env=self._environment, stdin=subprocess.DEVNULL,
            capture_output=True, text=True, timeout=100, check=False,
        )  # fmt: skip
        return f"{done.stdout}{done.stderr}"

    def set(self, line: str) -> None:
        """Add a line to the settings."""
        with (self.directory / "shop" / "settings.py").open("a") as file:
            file.write(f"{line}\n")

    @contextlib.contextmanager
    def running(self, command: str) -> Iterator[tuple[subprocess.Popen[bytes], Path]]:
        """A program in the background, and the file with its output."""
        output = self.directory / f"output of {command.split(maxsplit=1)[0]}"
        with output.open("wb") as file:
            process = subprocess.Popen(
                ["sh", "-ec", f"exec {command}"], cwd=self.directory, env=self._environment, stdin=subprocess.DEVNULL,
                stdout=file, stderr=file, start_new_session=True,
                preexec_fn=die_with_parent,  # noqa: PLW1509 - one prctl: a killed test run leaves nothing behind
            )  # fmt: skip
        try:
            yield process, output
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    @contextlib.contextmanager
    def serving(self, worker: str, server: str) -> Iterator[str]:
        """The project with a worker and a web server that answer; gives the output of the worker so far."""
        with self.running(f"{worker} -c 1 -n w@here") as (process, output), self.running(server) as (web, _):
            eventually(lambda: " ready." in output.read_text() or process.poll() is not None, "a worker that is ready")
            assert process.poll() is None, output.read_text()
            eventually(lambda: self.post(0) == 404 or web.poll() is not None, "a web server that answers")
            yield output.read_text()

    def post(self, order: int) -> int | str:
        """Cancel an order over HTTP: the text of the answer, or the status of an error; 0 without an answer."""
        status, text = answer("POST", f"http://127.0.0.1:{self.port}/orders/{order}/cancel")
        return text if status == http.HTTPStatus.OK else status


class Guide(Project):
    """The project of the page: its files written and its commands run, one after the other."""

    def __init__(self, directory: Path, nodes: Cluster, broker: Server) -> None:
        super().__init__(directory, SHOP_LOCK_PASSWORD=CANARY)
        self._replaced = {
            "redis://127.0.0.1:6379": broker.url,
            '[f"redis://127.0.0.1:{port}" for port in range(63791, 63796)]': repr(nodes.urls),
            "127.0.0.1:8000": f"127.0.0.1:{self.port}",
            "manage.py runserver": f"manage.py runserver --noreload {self.port}",
        }
        first, check, self.last = (self.commands(block.text) for block in blocks(PAGE) if block.kind == "console")
        *self.set_up, self.worker, self.server = check
        for command in first:
            if not command.startswith("pip "):
                assert self.run(command) == ""
        for name, text in CELERYS_GUIDE.items():
            self.append(name, text)
        for name, text in files().items():
            self.append(name, text)

    def here(self, text: str) -> str:
        """The text with the addresses of this test."""
        for usual, ours in self._replaced.items():
            text = text.replace(usual, ours)
        return text

    def commands(self, text: str) -> list[str]:
        """The commands of a console block."""
        return [self.here(line.removeprefix("$ ")) for line in text.splitlines()]

    def append(self, name: str, text: str) -> None:
        """Write to a file as the page says."""
        with (self.directory / name).open("a") as file:
            file.write(f"\n{self.here(text)}")


def files() -> dict[str, str]:
    """The files of the page, by name."""
    texts = [block.text for block in blocks(PAGE) if block.kind == "python"]
    return {text.partition("\n")[0].removeprefix("# "): text for text in texts}


@pytest.fixture
def servers() -> Iterator[tuple[Cluster, Server]]:
    with redis_server.cluster() as nodes, sixth_redis() as broker:
        yield nodes, broker


@pytest.fixture
def guide(tmp_path: Path, servers: tuple[Cluster, Server]) -> Guide:
    for redis in raws(servers[0].servers):
        redis.config_set("requirepass", CANARY)
    return Guide(tmp_path, *servers)


@pytest.mark.long
@pytest.mark.timeout(300)
def test_a_project_of_the_page_works_word_by_word(guide: Guide, servers: tuple[Cluster, Server]) -> None:
    check, make_migrations, migrate = map(guide.run, guide.set_up)
    assert check == "System check identified no issues (0 silenced).\n"
    assert "Create model Order" in make_migrations
    assert "Applying redlock_fencing" in migrate
    with guide.serving(guide.worker, guide.server) as said:
        assert "nodes: CELERY_REDLOCK_NODES in app.conf; password: CELERY_REDLOCK_PASSWORD in app.conf; " in said
        create, ship, cancel, status = guide.last
        assert "Traceback" not in guide.run(create)
        assert guide.run(ship).splitlines()[-1] == "shipped"
        assert guide.run(cancel) == "cancelled"
        assert [guide.post(order) for order in (1, 2, 3)] == ["shipped", "cancelled", 404]
        assert "5 of 5 nodes vote, 3 are needed" in guide.run(f"{status} --timeout 5")
        assert "- empty -" in guide.run("celery -A shop inspect locks -d w@here --timeout 60")
        doctor = guide.run("celery -A shop redlock doctor")
    assert "CELERY_REDLOCK_NODES in app.conf" in doctor
    assert f"broker 127.0.0.1:{servers[1].port}: " in doctor
    assert CANARY not in said + doctor + guide.run("celery -A shop report")


@pytest.mark.long
def test_a_typo_in_a_setting_of_the_page_is_refused(guide: Guide) -> None:
    told = next(block.text for block in blocks(PAGE) if block.kind == "text")
    guide.set("CELERY_REDLOCK_NODE = CELERY_REDLOCK_NODES")
    assert told in guide.run(guide.set_up[0])
    wrong = told.partition(") ")[2].strip()
    with guide.running(guide.worker) as (process, output):
        assert process.wait(60) != 0
        assert wrong in output.read_text()
        assert "Traceback" not in output.read_text()
    assert guide.run("celery -A shop redlock doctor") == f"redlock: {wrong}\n"


def test_a_wrong_value_in_the_settings_is_refused(guide: Guide) -> None:
    guide.set("CELERY_REDLOCK_TTL = -1")
    refused = guide.run(guide.set_up[0])
    assert "(redlock.E001)" in refused
    assert "ttl is -1" in refused


@pytest.mark.parametrize("name", ["shop/celery.py", "shop/__init__.py", "orders/models.py", "orders/views.py"])
def test_the_page_and_the_example_have_the_same_files(name: str) -> None:
    """The example has docstrings too."""
    example = (EXAMPLE / name).read_text().splitlines()
    assert [line for line in files()[name].splitlines()[1:] if line not in example] == []


def test_values_that_django_evaluates_late_are_read() -> None:
    text, late = functional.lazystr, functional.SimpleLazyObject
    for nodes in (text("a:1, b:1, c:1"), late(lambda: "a:1,b:1,c:1"), [text("a:1"), late(lambda: "b:1"), "c:1"],
                  late(lambda: ["a:1", "b:1", "c:1"])):  # fmt: skip
        app = Celery(set_as_current=False)
        app.conf.update(redlock_nodes=nodes, redlock_ttl=late(lambda: 2.0), redlock_max_ttl=text("9"))
        assert [node.label for node in client_for(app)._context.pool.nodes] == ["a:1", "b:1", "c:1"]
        assert (of_conf(app.conf).ttl, of_conf(app.conf).max_ttl) == (2.0, 9.0)
    assert of_conf({"redlock_heartbeat_file": Path("here")}).heartbeat_file == "here"
