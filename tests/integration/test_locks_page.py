"""The page `Locks` in a running Flower, asked as a program and seen in a real browser."""

from __future__ import annotations

import http.client
import json
import logging
import re
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from redlock import Redlock
from redlock.testing.redis_server import Server
from tests.integration.browser import Browser, needs_browser
from tests.integration.flowers import Flower
from tests.integration.shell import run_python
from tests.integration.tools import CANARY, client_of, eventually, frozen, holders, label, raw, raws
from tests.integration.worker_fixture import UNLIMITED, WorkerFixture, fresh_fixture

logger = logging.getLogger(__name__)

MARKUP = "<img src=x onerror=\"document.title='run'\">&amp;'"


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("locks-page")


@pytest.fixture(scope="module")
def fixture(directory: Path) -> Iterator[WorkerFixture]:
    """A set of servers for all tests here, and a worker."""
    with fresh_fixture(directory) as fixture:
        # The holder of a counter's lock keeps the lock until the test revokes the task.
        fixture.start_worker(concurrency=3, COUNTER_THINK="600", **UNLIMITED)
        yield fixture


@pytest.fixture(scope="module")
def flower(fixture: WorkerFixture, directory: Path) -> Iterator[Flower]:
    """A Flower without a password."""
    with Flower(directory / "flower", fixture.environment, "--conf=workers/flowerconfig.py") as flower:
        yield flower


@pytest.fixture(scope="module")
def client(fixture: WorkerFixture) -> Iterator[Redlock]:
    """A client of the same lock nodes."""
    with client_of(fixture.nodes.urls) as redlock:
        yield redlock


@contextmanager
def held(client: Redlock, name: str, owner_label: str) -> Iterator[None]:
    """A lock of a holder with this label."""
    lease = client.lease(name, owner_label=owner_label, renew=True)
    lease.acquire(30_000)
    try:
        yield
    finally:
        lease.release()


def test_flowers_own_pages_lead_to_it_and_it_says_where_we_are(flower: Flower) -> None:
    for path in ("/workers", "/tasks", "/broker", "/locks"):
        status, page = flower.get(path)
        assert status == http.HTTPStatus.OK
        link = re.search(r'<a class="nav-link( active)?" href="/locks"', page)
        assert link is not None, path
        assert bool(link[1]) == (path == "/locks")
        assert page.count('<a class="nav-link') >= 4, "Flower's own links are there too"


def test_the_data_have_holder_votes_token_and_time_left(
    fixture: WorkerFixture, flower: Flower, client: Redlock
) -> None:
    task = fixture.increment("told")[0]
    (lock,) = eventually(
        lambda: [one for one in flower.locks("counter:told") if all(one["votes"])],
        "the task inside its section, and the renewal to mend what was late",
        every=0.05,
    )
    assert lock["task"] == task
    assert lock["worker"].startswith("w0@")
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", lock["since"])
    assert 0 < lock["remaining"] <= 5
    assert lock["held"]
    holding = client.holder("counter:told")
    assert holding is not None
    assert lock["fence"] == holding.fence
    assert lock["waiters"] == 0
    waiting = fixture.increment("told")[0]

    def queue() -> list[dict[str, Any]]:
        """The waiters and the lock, of one look: a task that has waited for a second goes back to the queue."""
        data = flower.data()
        found = [one for kind in ("waiters", "locks") for one in data[kind] if one["resource"] == "counter:told"]
        return found if len(found) > 1 else []

    waiter, lock = eventually(queue, "the second task to wait", every=0.05)
    assert (waiter["task"], waiter["position"]) == (waiting, 1)
    assert waiter["holder"].startswith(f"{task}@")
    assert lock["waiters"] == 1
    (told,) = eventually(lambda: fixture.task_locks(waiting), "the answer of the worker")
    assert (told["state"], told["position"]) == ("waits", 1)
    assert told["holder"].startswith(f"{task}@")
    fixture.sender.control.revoke([waiting, task], terminate=True)
    eventually(lambda: not flower.locks("counter:told"), "the end of both", every=0.05)


@pytest.mark.parametrize("owner_label", ["somebody", "report[7]@somewhere since 2026-11-24T12:00:00Z"])
def test_a_holder_that_is_no_task_is_shown_without_a_link_to_one(
    flower: Flower, client: Redlock, owner_label: str
) -> None:
    with held(client, f"held by {owner_label}", owner_label):
        (lock,) = eventually(lambda: flower.locks(f"held by {owner_label}"), "the lock", every=0.05)
    assert lock["holder"] == owner_label.partition(" since ")[0]
    assert (lock["task"], lock["worker"]) == ("", "")


def test_a_task_id_forges_no_worker(flower: Flower, client: Redlock) -> None:
    forged = "task-1@celery@w9 since 2020-01-01T00:00:00Z"
    with held(client, "forged", f"{forged}@celery@w1 since 2026-11-28T04:00:00Z"):
        (lock,) = eventually(lambda: flower.locks("forged"), "the lock")
    assert (lock["task"], lock["worker"]) == (forged, "celery@w1")


def test_no_secret_is_told(flower: Flower, client: Redlock, fixture: WorkerFixture) -> None:
    with client.lock("secret") as lease:
        eventually(lambda: flower.locks("secret"), "the lock", every=0.05)
        (owner,) = {one for one in holders(fixture.nodes.servers, "secret") if one}
        assert owner[:32] == lease.owner[:32]
        assert owner[:32] not in flower.get("/locks/data")[1]


def test_frozen_nodes_are_silent_and_empty_nodes_abstain(fixture: WorkerFixture, flower: Flower) -> None:
    silent, emptied = fixture.nodes[3], fixture.nodes[4]

    def shows(server: Server, health: str) -> str:
        """The words about a node, as soon as the page shows this health."""
        found = eventually(
            lambda: one if (one := flower.node(label(server)))["health"] == health else {}, health, every=0.05
        )
        return str(found["says"])

    for server in fixture.nodes.servers:
        shows(server, "votes")
    with frozen(silent):
        assert "no answer" in shows(silent, "silent")
    shows(silent, "votes")
    with raw(emptied) as redis:
        redis.flushall()
    assert "abstains for another" in shows(emptied, "abstains")


def test_all_who_look_at_the_same_time_share_one_survey(fixture: WorkerFixture, flower: Flower) -> None:
    def surveys() -> int:
        with raw(fixture.nodes[0]) as redis:
            return int(redis.info("commandstats").get("cmdstat_scan", {}).get("calls", 0))

    before, began = surveys(), time.monotonic()
    with ThreadPoolExecutor(10) as viewers:
        answers = list(viewers.map(lambda _: flower.get("/locks/data")[0], range(100)))
    assert answers == [http.HTTPStatus.OK] * 100
    # One query at a time, each valid for half a second, and a query that had begun before.
    assert surveys() - before <= (time.monotonic() - began) / 0.5 + 2


@needs_browser
@pytest.mark.parametrize("count", [0, 1])
def test_when_the_holder_changes_the_page_shows_the_new_one(
    fixture: WorkerFixture, flower: Flower, browser: Browser, count: int
) -> None:
    def shown() -> list[str]:
        return next((row for row in browser.rows("locks-table") if row[0] == "counter:shown"), [])

    with frozen(*fixture.nodes.servers[:count]):
        browser.open(flower.address("/locks"))
        (first,) = fixture.increment("shown")
        eventually(lambda: first[:8] in shown(), "the first holder on the page", every=0.02)
        (second,) = fixture.increment("shown")
        fixture.sender.control.revoke(first, terminate=True)
        awake = fixture.nodes.servers[count:]
        eventually(lambda: votes(awake, "counter:shown", second) >= 3, "the second task inside its section")
        began = time.monotonic()
        eventually(lambda: second[:8] in shown(), "the second holder on the page", every=0.02)
        # Shown with --log-cli-level=INFO.
        logger.info("%d frozen: the page showed the new holder after %.2f s", count, time.monotonic() - began)
        assert first[:8] not in shown()
        path = f"[...document.querySelectorAll('#locks-table a')].filter(a => a.title == '{second}')[0].pathname"
        assert browser.value(path) == f"/task/{second}"
        fixture.sender.control.revoke(second, terminate=True)
        eventually(lambda: not shown(), "the page to show that nobody holds it", every=0.02)


def votes(servers: Sequence[Server], resource: str, task: str) -> int:
    """How many of these nodes name this task as the holder."""
    return sum(bool(holder and f":{task}@" in holder) for holder in holders(servers, resource))


@needs_browser
def test_names_that_look_like_markup_are_text(flower: Flower, client: Redlock, browser: Browser) -> None:
    with held(client, MARKUP, f"{MARKUP}\u202e@../{MARKUP}@h since 2026-11-24T12:00:00Z"):
        browser.open(flower.address("/locks"))

        def row() -> list[str]:
            return next((row for row in browser.rows("locks-table") if row[0] == MARKUP), [])

        eventually(row, "the lock on the page", every=0.02)
        assert row()[1:3] == [f"{MARKUP}\\u202e", f"../{MARKUP}@h"]
        assert browser.value("document.querySelectorAll('#locks-page img').length") == 0
        paths = browser.value("[...document.querySelectorAll('#locks-table a')].map(a => a.pathname)")
        assert {path.rpartition("/")[0] for path in paths} == {"/task", "/worker"}
        assert "Locks" in browser.value("document.title")


@needs_browser
def test_no_name_pushes_the_other_columns_away(flower: Flower, client: Redlock, browser: Browser) -> None:
    # A browser breaks no line within a letter and its marks.
    names = [letter + "\u20dd" * 300 for letter in "rt"]
    with held(client, names[0], f"{names[1]}@w@h since 2026-11-24T12:00:00Z"):
        browser.open(flower.address("/locks"))
        eventually(lambda: [row for row in browser.rows("locks-table") if row[0] == names[0]], "the lock", every=0.02)
        width = browser.value("document.querySelector('#locks-table').offsetWidth")
        assert width < 2 * browser.value("innerWidth")


@needs_browser
def test_a_password_protects_the_page_also_under_a_prefix(
    fixture: WorkerFixture, directory: Path, client: Redlock, browser: Browser
) -> None:
    options = ("--conf=workers/flowerconfig.py", f"--basic_auth=ann:{CANARY}", "--url_prefix=deep/down")
    with Flower(directory / "guarded", fixture.environment, *options) as guarded, client.lock("guarded"):
        for path in ("/locks", "/locks/data"):
            for credentials in ("", "ann:wrong"):
                status, text = guarded.get(path, credentials)
                assert status == http.HTTPStatus.UNAUTHORIZED
                assert text == "Access denied"
            assert guarded.get(path, f"ann:{CANARY}")[0] == http.HTTPStatus.OK
        # A browser refuses relative requests from an address that contains a password.
        browser.open(guarded.address("/locks", f"ann:{CANARY}"))
        eventually(lambda: ["guarded"] in [row[:1] for row in browser.rows("locks-table")], "the page", every=0.02)
        assert browser.value("document.querySelector('.app-nav a.active').pathname") == "/deep/down/locks"


def test_an_external_sign_in_redirects_unknown_viewers(fixture: WorkerFixture, directory: Path) -> None:
    options = ("--conf=workers/flowerconfig.py", "--auth=ann@example.com", "--oauth2_key=key", "--oauth2_secret=secret")
    with Flower(directory / "signed-in", fixture.environment, *options) as flower:
        assert [flower.get(path)[0] for path in ("/locks", "/locks/data")] == [http.HTTPStatus.FOUND] * 2


@needs_browser
def test_the_page_says_that_flower_has_gone(fixture: WorkerFixture, directory: Path, browser: Browser) -> None:
    def said() -> str:
        return str(browser.value("document.getElementById('locks-status')?.innerText"))

    with Flower(directory / "short", fixture.environment, "--conf=workers/flowerconfig.py") as flower:
        browser.open(flower.address("/locks"))
        eventually(lambda: said().startswith("Live"), "the page", every=0.02)
    eventually(lambda: said() == "Flower does not answer", "the page to see it", every=0.02)


def test_two_lines_add_the_page_and_a_wrong_setting_is_named(fixture: WorkerFixture, directory: Path) -> None:
    shop = directory / "shop"
    shop.mkdir()
    broker = fixture.environment["COUNTER_BROKER_URL"]
    (shop / "shop.py").write_text(
        f"from celery import Celery\napp = Celery('shop', broker={broker!r})\napp.conf.redlock_max_tll = 5.0\n"
    )
    (shop / "flowerconfig.py").write_text("import redlock.celery.flower\nredlock.celery.flower.add_page()\n")
    environment = fixture.environment | {"PYTHONPATH": str(shop)}
    with Flower(directory / "shop-flower", environment, f"--conf={shop}/flowerconfig.py", app="shop") as flower:
        assert flower.get("/locks")[0] == http.HTTPStatus.OK
        status, text = flower.get("/locks/data")
        assert status == http.HTTPStatus.INTERNAL_SERVER_ERROR
        assert json.loads(text) == {"error": "redlock_max_tll is no setting; did you mean redlock_max_ttl?"}


def test_the_lock_itself_needs_no_flower() -> None:
    modules = "redlock, redlock.celery, redlock.admin.cluster_status, redlock.cli.main"
    code = f"import sys, {modules}; print([name for name in sys.modules if name.partition('.')[0] == 'flower'])"
    assert run_python("-c", code, check=True).stdout == "[]\n"


@pytest.mark.parametrize("path", ["/locks", "/locks/data", "/", "/worker/w0@here", "/tasks", "/broker", "/api/workers"])
def test_no_other_site_may_show_a_page_in_a_frame(flower: Flower, path: str) -> None:
    """A click in a frame on the page of a worker can end that worker."""
    headers = flower.headers(path)
    assert headers["X-Frame-Options"] == "DENY"
    assert headers["Content-Security-Policy"] == "frame-ancestors 'none'"


def test_no_other_site_may_read_the_page(fixture: WorkerFixture, directory: Path) -> None:
    environment = fixture.environment | {"FLOWER_UNAUTHENTICATED_API": "true"}
    with Flower(directory / "open", environment, "--conf=workers/flowerconfig.py") as flower:
        assert flower.headers("/api/task/types")["Access-Control-Allow-Origin"] == "*"
        for path in ("/locks", "/locks/data"):
            assert "Access-Control-Allow-Origin" not in flower.headers(path)


@needs_browser
def test_names_of_others_are_no_proof_of_no_lock(fixture: WorkerFixture, flower: Flower, browser: Browser) -> None:
    for redis in raws(fixture.nodes.servers):
        redis.eval("for i = 1, 300 do redis.call('SET', '!' .. i, '') end", 0)
    try:
        browser.open(flower.address("/locks"))
        among = [["No lock is held among the names that were read"]]
        eventually(lambda: browser.rows("locks-table") == among, "the page", every=0.02)
    finally:
        for redis in raws(fixture.nodes.servers):
            redis.eval("for i = 1, 300 do redis.call('DEL', '!' .. i) end", 0)


@needs_browser
def test_without_a_quorum_the_page_says_so_in_red(fixture: WorkerFixture, flower: Flower, browser: Browser) -> None:
    def said() -> str:
        box = "document.getElementById('locks-problem')"
        return str(browser.value(f"{box} && !{box}.hidden ? {box}.innerText : ''"))

    def nothing() -> str:
        return "".join(cell for row in browser.rows("locks-table") for cell in row)

    browser.open(flower.address("/locks"))
    status = "document.getElementById('locks-status').innerText"
    # On a busy machine a node can be late for a moment, here and below.
    eventually(lambda: "No lock is held" in nothing() and not said(), "the page", every=0.02)
    silent = fixture.nodes.servers[:3]
    with frozen(*silent):
        problem = "The state of the locks is unknown: 2 of 5 nodes report it, 3 are needed."
        text = eventually(lambda: shown if (shown := said()).startswith(problem) else "", "the problem", every=0.02)
        assert [label(server) in text for server in silent] == [True] * 3
        assert "No lock is held" not in nothing()
        assert str(browser.value(status)).startswith("No quorum")
        colour = browser.value("getComputedStyle(document.getElementById('locks-problem')).backgroundColor")
        red, green, blue = (int(part) for part in re.findall(r"\d+", str(colour))[:3])
        assert red > 2 * max(green, blue)
    eventually(lambda: not said(), "the end of the problem", every=0.02)
    assert str(browser.value(status)).startswith("Live")
