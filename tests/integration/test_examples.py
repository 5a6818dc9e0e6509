"""Each example works when copied into an empty project with the built wheel and Celery, and nothing else of ours."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import shutil
import signal
import subprocess
import tarfile
import urllib.error
import urllib.request
import venv
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import IO

import pytest
from packaging.requirements import Requirement

from redlock import Redlock
from redlock.testing import redis_server
from redlock.testing.redis_server import die_with_parent
from tests.integration.pages import blocks
from tests.integration.processes import children
from tests.integration.shell import run_python
from tests.integration.tools import PATIENT, ROOT, eventually, kill_all
from tests.once import once

EXAMPLES = ROOT / "examples"
OURS = "celery-redlock"


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of an environment in which the wheel was installed as a user would."""
    return once(tmp_path_factory, "installed", install) / "venv" / "bin" / "python"


def install(place: Path) -> None:
    pip("wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(place), str(ROOT))
    (wheel,) = place.glob("*.whl")
    venv.create(place / "venv", with_pip=False)
    (packages,) = (place / "venv").glob("lib/python*/site-packages")
    wanted = ("[celery,django]", "pytest", "fastapi", "uvicorn")
    link([f"{OURS}{wanted[0]}", *wanted[1:]], packages)
    # For pip, a linked package is installed; pip checks its version.
    found = place / "venv" / "bin" / "python"
    pip("--python", str(found), "install", f"{wheel}{wanted[0]}", *wanted[1:])


def link(wanted: Sequence[str], folder: Path) -> None:
    """Link packages that this environment has, and all that they need: a download and a compilation take long."""
    waiting = {Requirement(text) for text in wanted}
    known: set[Requirement] = set()
    while waiting:
        known.add(requirement := waiting.pop())
        try:
            found = distribution(requirement.name)
        except PackageNotFoundError:
            continue
        needed = {Requirement(text) for text in found.requires or ()}
        extras = {"", *requirement.extras}
        waiting |= {
            one for one in needed if not one.marker or any(one.marker.evaluate({"extra": extra}) for extra in extras)
        } - known
        if requirement.name != OURS:
            for name in {file.parts[0] for file in found.files or ()} - {"..", "__pycache__"}:
                with contextlib.suppress(FileExistsError):
                    (folder / name).symlink_to(str(found.locate_file(name)))


def pip(*arguments: str) -> None:
    done = run_python("-m", "pip", "--disable-pip-version-check", *arguments, timeout=None)
    assert done.returncode == 0, done.stderr


class Project:
    """An empty project into which an example was copied."""

    def __init__(self, python: Path, directory: Path, environment: dict[str, str]) -> None:
        self.python = python
        self.directory = directory
        self.output = directory / "output"
        ours = {name: value for name, value in os.environ.items() if not name.startswith(("REDLOCK_", "PYTHON"))}
        # Its own environment has no redis-server; where the system has none either, ours is lent.
        path = f"{python.parent}:{Path(redis_server.executable()).parent}:{ours['PATH']}"
        # A killed worker leaves temporary files.
        temporary = {"TMPDIR": str(directory)}
        self.environment = ours | {"PATH": path, "REDLOCK_NODE_TIMEOUT": PATIENT} | temporary | environment

    def run(self, *arguments: str) -> str:
        """The output of this Python program, which must succeed."""
        with self._process(*arguments, output=subprocess.PIPE) as process:
            told, _ = process.communicate(timeout=200)
        assert process.returncode == 0, f"{told}\n{self.said}"
        return told

    @contextlib.contextmanager
    def running(self, *arguments: str) -> Iterator[subprocess.Popen[str]]:
        """This Python program in the background."""
        with self.output.open("a") as output, self._process(*arguments, output=output) as process:
            yield process

    @property
    def said(self) -> str:
        """The output of the programs in the background."""
        return self.output.read_text() if self.output.exists() else ""

    @contextlib.contextmanager
    def _process(self, *arguments: str, output: IO[str] | int) -> Iterator[subprocess.Popen[str]]:
        """A Python program, killed at the end with all of its children."""
        process = subprocess.Popen(
            [self.python, *arguments],
            cwd=self.directory,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
            preexec_fn=die_with_parent,  # noqa: PLW1509 - one prctl: a killed test run leaves nothing behind
        )
        with process:
            try:
                yield process
            finally:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)


def project(name: str, python: Path, directory: Path, **environment: str) -> Project:
    copied = directory / "project"
    shutil.copytree(EXAMPLES / name, copied, ignore=shutil.ignore_patterns("__pycache__"))
    return Project(python, copied, environment)


def of_its_readme(name: str) -> str:
    """The Python that an example's README shows."""
    (text,) = (block.text for block in blocks(EXAMPLES / name / "README.md") if block.kind == "python")
    return text


@pytest.fixture
def nodes_url(nodes: redis_server.Cluster) -> str:
    return ",".join(nodes.urls)


@pytest.fixture
def copied(python: Path, nodes_url: str, tmp_path: Path) -> Callable[..., Project]:
    """Copies an example that finds the nodes by the lock's own variable: `copied("bank", BANK_REDIS=url)`."""
    return functools.partial(project, python=python, directory=tmp_path, REDLOCK_NODES=nodes_url)


@pytest.fixture
def shop_servers(nodes_url: str, broker: redis_server.Server) -> dict[str, str]:
    """The environment of the two shops."""
    return {"SHOP_NODES": nodes_url, "SHOP_REDIS": broker.url, "REDLOCK_NODE_TIMEOUT": "2"}


@pytest.fixture
def bank(copied: Callable[..., Project], broker: redis_server.Server) -> Project:
    return copied("bank", REDLOCK_TTL="2", BANK_REDIS=broker.url)


@pytest.mark.long
def test_a_killed_worker_neither_makes_nor_loses_money(bank: Project) -> None:
    with bank.running("-m", "celery", "-A", "bank", "worker", "--concurrency", "3") as worker:
        sent = bank.run("-c", "from bank import *; [deposit.delay(a, 100).get(timeout=99) for a in ('ann', 'bob')]; "
            "pairs = [('ann', 'bob'), ('bob', 'cem'), ('cem', 'ann'), ('bob', 'ann')] * 10; "
            "print(*[transfer.delay(*pair, 10 + n).id for n, pair in enumerate(pairs)])")  # fmt: skip
        for child in children(worker.pid)[:2]:
            os.kill(child, signal.SIGKILL)
        told = bank.run("-c", "import json; from bank import *; "
            f"said = [app.AsyncResult(id).get(timeout=99) for id in {sent.split()}]; "
            "print(json.dumps([said, [balance(a) for a in ('ann', 'bob', 'cem')]]))")  # fmt: skip
        assert bank.run("-c", of_its_readme("bank"))
    said, balances = json.loads(told)
    assert sum(balances) == 200
    assert min(balances) >= 0
    assert set(said) == {"paid", "refused"}


@pytest.mark.long(ci=True)
def test_the_second_delivery_finishes_half_a_transfer(bank: Project) -> None:
    told = bank.run(
        "-c",
        """
import bank
bank.deposit.apply(("ann", 100))
def die(amount, state):
    raise SystemExit
credit, bank._credit = bank._credit, die
try:
    bank.transfer.apply(("ann", "bob", 70), task_id="first")
except SystemExit:
    pass
bank._credit = credit
print(bank.balance("ann"), bank.balance("bob"))
print(bank.transfer.apply(("ann", "cem", 30), task_id="second").get())
print(bank.transfer.apply(("ann", "cem", 30), task_id="third").get())
for _ in range(2):
    print(bank.transfer.apply(("ann", "bob", 70), task_id="first").get())
print(bank.balance("ann"), bank.balance("bob"), bank.balance("cem"))
""",
    )
    assert told.splitlines() == ["30 0", "paid", "refused", "paid", "paid", "0 70 30"]


def test_reports_never_overlap_and_those_that_would_are_skipped(
    copied: Callable[..., Project], broker: redis_server.Server
) -> None:
    report = copied("report", REPORT_REDIS=broker.url, REPORT_EVERY="0.4", REPORT_TAKES="1")
    file = report.directory / "report.txt"
    with report.running("-m", "celery", "-A", "report", "worker", "--beat", "--concurrency", "2", "-l", "INFO"):
        eventually(lambda: file.exists() and file.read_text().count("end") >= 3, "three reports")
        eventually(lambda: "'status': 'skipped'" in report.said, "a skip")
    lines = file.read_text().split()
    assert lines[:6] == ["begin", "end"] * 3


def test_a_foreign_api_gets_each_call_once_and_spaced(
    copied: Callable[..., Project], broker: redis_server.Server
) -> None:
    orders = copied("foreign_api", ORDERS_REDIS=broker.url, ORDERS_INTERVAL="0.05")
    with orders.running("foreign.py", "0", "0.05"):
        eventually(lambda: "\n" in orders.said, "its address")
        orders.environment["ORDERS_API"] = orders.said.strip()
        with orders.running("-m", "celery", "-A", "orders", "worker", "--concurrency", "3"):
            told = orders.run(
                "-c",
                """
import json, urllib.request
from orders import API, place_order, send_receipt, store
sent = [place_order.apply_async((f"item-{n}",), task_id=f"task-{n}") for n in range(8) for twice in range(2)]
numbers = {one.get(timeout=99) for one in sent}
receipts = [send_receipt.delay(number) for number in numbers for twice in range(2)]
said = sorted(one.get(timeout=99) for one in receipts)
kept = store()._redis
kept.delete(*kept.scan_iter("*done*"))  # as after a week
said.append(send_receipt.delay(numbers.pop()).get(timeout=99))
print(json.dumps([len(receipts) // 2, said, json.load(urllib.request.urlopen(API))]))
""",
            )
            assert orders.run("-c", of_its_readme("foreign_api")) == "order-9 sent\n"
    numbers, said, seen = json.loads(told)
    assert numbers == seen["orders"] == seen["receipts"] == 8
    assert said == ["known"] * 8 + ["sent"] * 8 + ["known"]
    assert seen["too soon"] == 0


def test_a_cron_job_runs_on_one_machine_at_a_time_and_once_a_day(python: Path, nodes_url: str, tmp_path: Path) -> None:
    cron = project("cron", python, tmp_path)
    data, backups = tmp_path / "data", tmp_path / "backups"
    for directory in data, backups:
        directory.mkdir()
    (data / "file").write_text("kept")
    text = (cron.directory / "crontab").read_text()
    for there, here in (
        ("/opt/redlock/bin", python.parent),
        ("/usr/local/bin/backup.sh", cron.directory / "backup.sh"),
        ("/srv/data", data),
        ("/srv/backups", backups),
    ):
        assert there in text
        text = text.replace(there, str(here))
    *settings, line = [line for line in text.splitlines() if not line.startswith("#")]
    # cron sets this PATH, and then the variables of the file.
    cron.environment = {"PATH": "/usr/bin:/bin"} | dict(setting.split("=", 1) for setting in settings)
    cron.environment |= {"REDLOCK_NODES": nodes_url, "REDLOCK_NODE_TIMEOUT": PATIENT, "TMPDIR": str(tmp_path)}
    line = line.split(maxsplit=5)[5]
    job = ("-c", f"import subprocess, sys; sys.exit(subprocess.call({line!r}, shell=True))")
    holding = "import pathlib, signal; pathlib.Path('begun').touch(); signal.pause()"
    with cron.running("-m", "redlock", "run", "nightly-backup", "--", str(python), "-c", holding) as other:
        eventually((cron.directory / "begun").exists, "another machine that is at it")
        assert "is not free: held by" in cron.run(*job)
        assert not [*backups.iterdir()]
        other.terminate()
        other.wait()
    assert cron.run(*job).startswith("made ")
    (made,) = backups.iterdir()
    with tarfile.open(made) as backup:
        assert backup.getnames() == [".", "./file"]
    (data / "file").write_text("changed")
    assert cron.run(*job).endswith("exists already\n")
    assert [*backups.iterdir()] == [made]


def answer(method: str, url: str) -> tuple[int, str]:
    """The status and the text of an answer; status 0 without an answer."""
    try:
        with urllib.request.urlopen(urllib.request.Request(url, method=method), timeout=150) as response:  # noqa: S310 - ours
            return response.status, response.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()
    except OSError:
        return 0, ""


@pytest.mark.long(ci=True)
def test_an_order_is_shipped_by_a_task_or_cancelled_by_a_view(
    python: Path, nodes: redis_server.Cluster, shop_servers: dict[str, str], tmp_path: Path
) -> None:
    port = str(redis_server.free_port())
    shop = project("django_shop", python, tmp_path, **shop_servers, SHOP_PACKING_SECONDS="0.05")

    def cancel(order: int) -> tuple[int, str]:
        return answer("POST", f"http://127.0.0.1:{port}/orders/{order}/cancel")

    commands = "call_command('check'); call_command('makemigrations', check_changes=True); call_command('migrate')"
    said = shop.run("manage.py", "shell", "-c", f"from django.core.management import call_command; {commands}")
    assert "System check identified no issues (0 silenced).\nNo changes detected\n" in said
    with (
        shop.running("-m", "celery", "-A", "shop", "worker", "--concurrency", "2"),
        shop.running("manage.py", "runserver", "--noreload", port),
    ):
        assert shop.run("manage.py", "shell", "-c", of_its_readme("django_shop")).splitlines()[-1] == "shipped"
        eventually(lambda: cancel(1)[0], "the web server", every=0.1)
        assert cancel(1) == (200, "shipped")
        assert cancel(99)[0] == 404
        made = "from orders.models import Order; from orders.tasks import ship; import json; "
        made += "orders = [Order.objects.create().pk for _ in range(12)]; "
        made += "print(json.dumps([ship.delay(order).id for order in orders]))"
        sent = json.loads(shop.run("manage.py", "shell", "-c", made).splitlines()[-1])
        with ThreadPoolExecutor(4) as pool:
            told = list(pool.map(cancel, range(2, 14)))
        ends = f"from celery import current_app; print(*[current_app.AsyncResult(id).get(timeout=99) for id in {sent}])"
        states = shop.run("manage.py", "shell", "-c", ends).split()[-12:]
        assert [state if status == 200 else "shipped" for status, state in told] == states
        assert [cancel(order) for order in range(2, 14)] == [(200, state) for state in states]
        with Redlock(nodes.urls, node_timeout=2.2) as client, client.lock("order:1"):
            assert cancel(1) == (409, "the order is being packed")
            status = shop.run("manage.py", "redlock", "status", "--timeout", "5")
        assert "5 of 5 nodes vote, 3 are needed" in status
        assert "order:1" in status
        kill_all(nodes.servers[:3])
        assert cancel(1) == (503, "try again later")
    shop.environment["SHOP_NODES"] = "http://lock1"
    with shop.running("manage.py", "check") as check:
        assert check.wait(200) == 1
    assert "(redlock.E001)" in shop.said


@pytest.mark.long(ci=True)
def test_an_account_is_charged_by_a_task_or_closed_by_a_request(
    python: Path, nodes: redis_server.Cluster, shop_servers: dict[str, str], tmp_path: Path
) -> None:
    port = str(redis_server.free_port())
    shop = project("fastapi_shop", python, tmp_path, **shop_servers, SHOP_CHARGE_SECONDS="0.02")

    def ask(method: str, path: str) -> tuple[int, dict[str, object]]:
        status, text = answer(method, f"http://127.0.0.1:{port}/accounts/{path}")
        return status, json.loads(text or "{}")

    with (
        shop.running("-m", "celery", "-A", "shop", "worker", "--concurrency", "3"),
        shop.running("-m", "uvicorn", "api:app", "--port", port),
    ):
        assert shop.run("-c", of_its_readme("fastapi_shop")) == "['10', '30']\n"
        eventually(lambda: ask("GET", "7")[0], "the web server", every=0.1)
        with ThreadPoolExecutor(4) as pool:
            sent = list(pool.map(lambda amount: ask("POST", f"7/charges?amount={amount}"), range(1, 21)))
        assert {status for status, _ in sent} == {202}
        eventually(lambda: ask("GET", "7") == (200, {"owes": "240"}), "all charges", every=0.1)
        with Redlock(nodes.urls, node_timeout=2.2) as client, client.lock("account:7"):
            assert ask("POST", "7/close") == (409, {"detail": "the account is being charged"})
        status, told = ask("POST", "7/close")
        assert status == 200
        assert int(str(told["token"])) > 20
        _, charge = ask("POST", "7/charges?amount=5")
        late = f"from shop import app; print(app.AsyncResult({charge['task']!r}).get(timeout=99))"
        assert shop.run("-c", late) == "closed\n"
        assert ask("GET", "7") == (200, {"owes": "closed"})
        kill_all(nodes.servers[:3])
        assert ask("POST", "8/close") == (503, {"detail": "try again later"})


def test_pytest_finds_the_plugin_of_an_installed_wheel(python: Path, tmp_path: Path) -> None:
    (tmp_path / "test_mine.py").write_text(
        "def test_it(redlock_client):\n    assert redlock_client.lock('x').acquire()\n"
    )
    assert "1 passed" in Project(python, tmp_path, {}).run("-m", "pytest", "-q")
