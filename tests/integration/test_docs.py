"""The documentation is right: every code block runs, every event and error is listed, the reference is up to date.

Invariants:
1. A Python block is a file, named by its first line if that is `# name.py`. The blocks of a page run in order in one
   directory; pytest runs test files.
2. A Python block that begins with a decorator is an excerpt, and the test supplies its names.
3. A shell runs the commands of a console block. A `redis.conf` starts a server.
4. A comment before a block, `<!-- not run: why -->` or `<!-- in the background -->`, names an exception.
"""

from __future__ import annotations

import ast
import contextlib
import errno
import importlib
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from redlock import ConfigurationError, QuorumUnavailable, errors
from redlock._core.protocol import Outcome
from redlock._transport import decoder
from redlock.admin.bootstrap import declare_nodes
from redlock.admin.cluster_status import cluster_status
from redlock.testing import redis_server
from redlock.testing.redis_server import die_with_parent
from tests.integration import acl
from tests.integration.pages import Block, blocks
from tests.integration.tools import (
    PATIENT,
    ROOT,
    client_of,
    end_quarantine,
    eventually,
    new_server,
    raws,
    renew_now,
    renewed,
)

PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    *sorted((ROOT / "docs").glob("*.md")),
    *sorted((ROOT / "examples").glob("*/README.md")),
]
OPERATIONS = ROOT / "docs" / "operations.md"
TUTORIAL = ROOT / "docs" / "tutorial.md"
"""The other pages use the `shop.py` of this page."""

EXCERPT = """
from celery import Celery
from redlock.celery import current_lease, locked
app = Celery("shop")
"""
KINDS = ("python", "console", "conf", "yaml", "pycon", "text", "")
"""Examples of docstrings are `pycon`; `test_docstring_examples.py` runs them. The last two kinds are output."""


class Desk:
    """A directory in which the blocks of one page are run, on nodes and a broker of its own."""

    def __init__(self, directory: Path, ports: list[int], broker: redis_server.Server) -> None:
        self.directory = directory
        self.background: list[subprocess.Popen[str]] = []
        self._ports = ports
        self._broker = broker.url
        nodes = ",".join(f"redis://127.0.0.1:{port}" for port in ports)
        tools = f"{Path(sys.executable).parent}:{Path(redis_server.executable()).parent}"
        self._environment = os.environ | {
            "PATH": f"{tools}:{os.environ['PATH']}",
            "REDLOCK_NODES": nodes,
            "REDLOCK_NODE_TIMEOUT": PATIENT,
            "SIMULATE_DELAYS": "0,0.1",
            "SIMULATE_HOLD": "0.1",
            "BANK_REDIS": broker.url,
            "ORDERS_REDIS": broker.url,
            "REPORT_REDIS": broker.url,
            # The command names the one plugin that the pages need.
            "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
        }

    def here(self, text: str) -> str:
        """The text with the addresses of this desk in place of the usual addresses."""
        text = text.replace("range(63791, 63796)", str(self._ports)).replace(
            "redis://127.0.0.1:6379/", self._broker + "/"
        )
        return text.replace(".venv/bin/", "")

    def write(self, *python: Block) -> None:
        for block in python:
            text = EXCERPT + block.text if block.text.startswith("@") else block.text
            (self.directory / block.name).write_text(self.here(text), encoding="utf-8")

    def run(self, block: Block) -> None:
        """Run a block, which must succeed."""
        if block.kind == "python":
            self.write(block)
            if block.name.startswith(("test_", "conftest")):
                program = "" if block.name == "conftest.py" else f"pytest -q -p pytest_redlock {block.name}"
            else:
                program = f"python {block.name}"
        else:
            program = "\n".join(line.removeprefix("$ ") for line in block.text.splitlines() if line.startswith("$ "))
        if program:
            self._start(self.here(program), block)

    def _start(self, program: str, block: Block) -> None:
        process = subprocess.Popen(
            ["sh", "-ec", program],
            cwd=self.directory,
            env=self._environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
            preexec_fn=die_with_parent,  # noqa: PLW1509 - one prctl: a killed test run leaves nothing behind
        )
        self.background.append(process)
        if not block.in_the_background:
            said, _ = process.communicate("\n", timeout=200)
            assert process.returncode == 0, f"line {block.line}: {program}\n{said}"

    def clear(self) -> None:
        """End the programs in the background, as Ctrl-C does: a killed program leaves the folders of its servers."""
        for number in (signal.SIGINT, signal.SIGKILL):
            for process in self.background:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, number)
            for process in self.background:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.communicate(timeout=60)


@pytest.fixture
def ports() -> list[int]:
    return [redis_server.free_port() for _ in range(5)]


@pytest.fixture
def desk(tmp_path: Path, ports: list[int], broker: redis_server.Server) -> Iterator[Desk]:
    desk = Desk(tmp_path, ports, broker)
    try:
        yield desk
    finally:
        desk.clear()


def title(page: Path) -> str:
    return str(page.relative_to(ROOT))


def programs(page: Path) -> list[Block]:
    return [block for block in blocks(page) if block.runs and block.kind in {"python", "console"}]


@pytest.mark.parametrize(
    "page", [page for page in PAGES if page.parent.parent.name != "examples" and programs(page)], ids=title
)
def test_every_block_runs(page: Path, desk: Desk, ports: list[int]) -> None:
    found = programs(page)
    desk.write(*(block for block in blocks(TUTORIAL) if block.name == "shop.py"))
    with contextlib.ExitStack() as stack:
        if not any("cluster(ports=" in block.text for block in found):
            stack.enter_context(redis_server.cluster(ports=ports))
        for block in found:
            desk.run(block)


def test_the_configuration_and_the_user_of_the_page_suffice(tmp_path: Path) -> None:
    (conf,) = [block.text for block in blocks(OPERATIONS) if block.kind == "conf"]
    file = tmp_path / "redis.conf"
    file.write_text(re.sub(r"^(bind|port) .*$", "", conf, flags=re.MULTILINE))
    with contextlib.ExitStack() as stack:
        running = [new_server("--include", str(file), port=redis_server.free_port()) for _ in range(3)]
        servers = [stack.enter_context(server) for server in running]
        urls = [server.url.replace("//", "//lock:SECRET@") for server in servers]
        as_operator = [server.url.replace("//", "//operator:SECRET@") for server in servers]
        declare_nodes(as_operator)
        client, other = (stack.enter_context(client_of(urls)) for _ in range(2))
        lock = client.lock("x")
        assert lock.acquire()
        lock.extend(0.5)
        assert client.holder("x")
        waiter = stack.enter_context(ThreadPoolExecutor(1)).submit(other.lock("x").acquire, blocking_timeout=100)
        eventually(lambda: any(node.blocked for node in cluster_status(as_operator, timeout=5.0).nodes), "a waiter")
        lock.release()
        assert waiter.result()
        seen = cluster_status(as_operator, timeout=5.0)
        assert cluster_status(urls, timeout=5.0, resources=0).voting == 3
        assert [(node.reason, node.missing, node.unlisted, node.rdb) for node in seen.nodes] == [("", (), "", "")] * 3
        with pytest.raises(ConfigurationError, match="wants a password"):
            declare_nodes([server.url for server in servers])


@pytest.mark.parametrize("options", [(), ("--appendonly", "yes", "--appendfsync", "always")], ids=["empty", "kept"])
def test_the_fingerprint_of_nodes_changes_as_the_page_says(options: tuple[str, ...]) -> None:
    with redis_server.cluster(3, options=options) as nodes:
        with client_of(nodes.urls, max_ttl=9_000.0) as before:
            assert before.lock("x").acquire(blocking=False)
        with client_of(nodes.urls, max_ttl=600.0) as early, pytest.raises(ConfigurationError, match="must agree"):
            early.lock("x").acquire(blocking=False)
        for node in nodes.servers:
            node.kill()
            node.start()
        if not options:
            declare_nodes(nodes.urls)
            with client_of(nodes.urls, max_ttl=600.0) as after:
                assert after.lock("x").acquire(blocking=False)
        else:
            with pytest.raises(ConfigurationError, match="it has a record already"):
                declare_nodes(nodes.urls)
            with client_of(nodes.urls, max_ttl=600.0) as after:
                # The first reply has the client's own quarantine, the second that of the node's record.
                for _ in range(2):
                    with pytest.raises(QuorumUnavailable, match=r"abstains for another \d{3}\.\d s"):
                        after.lock("y").acquire(blocking=False)
                for node in nodes.servers:
                    end_quarantine(node)
                assert after.lock("y").acquire(blocking=False)


def test_a_password_of_the_nodes_changes_as_the_page_says() -> None:
    with redis_server.cluster(3) as nodes, contextlib.ExitStack() as stack:
        acl.let_in(nodes.servers, "lock", "OLD")
        old, unused, new = (
            stack.enter_context(client_of([f"{url}?username=lock&password={password}" for url in nodes.urls]))
            for password in ("OLD", "OLD", "NEW")
        )
        with old.lock("old") as lease:
            for redis in raws(nodes.servers):
                redis.execute_command("ACL", "SETUSER", "lock", ">NEW")
            with new.lock("new") as other:
                assert not new.lock("old").acquire(blocking=False)
                for redis in raws(nodes.servers):
                    redis.execute_command("ACL", "SETUSER", "lock", "<OLD")
                lease.extend(9.0)
                for redis in raws(nodes.servers):
                    redis.execute_command("CLIENT", "KILL", "USER", "lock")
                renew_now(new, other)
                renewed(other)
                with pytest.raises(QuorumUnavailable, match="wrong user name or password"):
                    unused.lock("x").acquire(blocking=False)


@pytest.mark.parametrize("page", PAGES, ids=title)
def test_every_block_has_a_language_and_a_reason_if_not_run(page: Path) -> None:
    for block in blocks(page):
        assert block.kind in KINDS, f"{title(page)}:{block.line} is {block.kind or 'nothing'}"
        assert not block.mark or re.fullmatch("not run: .+|in the background", block.mark), block.mark


@pytest.mark.parametrize("page", PAGES, ids=title)
def test_every_link_into_the_project_leads_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        path, _, anchor = link.partition("#")
        if "://" in link:
            continue
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), link
        if anchor:
            headings = re.findall(r"^#+ (.+)$", target.read_text(encoding="utf-8"), re.MULTILINE)
            assert anchor in [re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings], link


PUBLIC = (
    "redlock",
    "redlock.asyncio",
    "redlock.celery",
    "redlock.celery.flower",
    "redlock.fencing",
    "redlock.fencing.conformance",
    "redlock.fencing.django",
    "redlock.fencing.sql",
    "redlock.testing",
)


@pytest.mark.parametrize("module", PUBLIC)
def test_the_reference_has_every_public_name(module: str) -> None:
    page = (ROOT / "docs" / "reference.md").read_text(encoding="utf-8")
    listed = set(re.findall(r"^\.\. (?:auto\w+|py:data):: ([\w.]+)$", page, re.MULTILINE))
    assert {f"{module}.{name}" for name in importlib.import_module(module).__all__} - listed == set()


def table(page: Path, heading: str) -> set[str]:
    """The names in the first column of the table under a heading."""
    _, _, section = page.read_text(encoding="utf-8").partition(f"\n## {heading}\n")
    rows = [line.split("|")[1] for line in section.partition("\n## ")[0].splitlines() if line.startswith("| `")]
    return {name for row in rows for name in re.findall(r"`([\w-]+)`", row)}


def test_every_error_is_explained_and_no_other() -> None:
    classes = {
        name for name, kind in vars(errors).items() if isinstance(kind, type) and kind.__module__ == errors.__name__
    }
    assert table(OPERATIONS, "Errors") == classes


NO_EVENTS = {Outcome.STILL_HELD.value, Outcome.PENDING.value}


def test_every_event_of_the_log_is_explained_and_no_other() -> None:
    assert table(OPERATIONS, "Log") == {*_events()} | ({one.value for one in Outcome} - NO_EVENTS)


def test_every_metric_is_explained_and_no_other() -> None:
    source = (ROOT / "redlock" / "celery" / "metrics.py").read_text(encoding="utf-8")
    assert table(OPERATIONS, "Metrics") == {*re.findall(r"\b(redlock_\w+_(?:total|seconds)|redlock_waiters)\b", source)}


def test_every_reason_for_a_missing_vote_is_explained() -> None:
    _, _, section = OPERATIONS.read_text(encoding="utf-8").partition("The reasons that a node can give for no vote:")
    rows = [line.split("|")[1] for line in section.partition("\n## ")[0].splitlines() if line.startswith("| `")]
    reasons = {reason for row in rows for reason in re.findall("`([^`]+)`", row)}
    source = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "redlock").rglob("*.py"))
    for reason in reasons - {os.strerror(errno.ECONNREFUSED).lower()}:
        assert all(part in source for part in re.split(r"\.\.\.", reason)), reason
    for said in decoder._EXPLAINED.values():
        assert said.startswith(tuple(reasons)), said


def _events() -> Iterator[str]:
    """The event names in the log calls of the package."""
    for path in (ROOT / "redlock").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            match node:
                case ast.Call(
                    func=ast.Attribute(value=ast.Name(id="_log"), attr="debug" | "info" | "warning" | "failure"),
                    args=[ast.Constant(value=str(event)), *_],
                ):
                    yield event
                # A line that is written in some cases only.
                case ast.Call(func=ast.Name(id="emit"), args=[ast.Constant(value=str(event)), *_]):
                    yield event
