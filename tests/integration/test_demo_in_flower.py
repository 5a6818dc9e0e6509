"""Tests of the demo in Flower: the pages of tasks and of locks during a run, in a real browser."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from redlock import Redlock
from tests.integration.browser import Browser, needs_browser
from tests.integration.flowers import tasks_shown
from tests.integration.test_demo import Demo
from tests.integration.tools import eventually

pytestmark = needs_browser

RESOURCE = "counter:hits"
STATES = ["LOCK-WAITING", "LOCK-ACQUIRED", "SUCCESS"]
# A look at a page takes a good part of a second on a busy machine; each state must last for longer.
SLOW = ("--tasks", "600", "--think", "0.5", "--children", "4")


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Demo]:
    """A demo that is busy with the locked part."""
    demo = Demo(tmp_path_factory.mktemp("watched"), *SLOW)
    try:
        demo.until_it_counts(1)
        yield demo
        assert demo.process.poll() is None, demo.said
    finally:
        demo.kill()
        demo.until_nothing_is_left()


@pytest.fixture
def flower(demo: Demo) -> str:
    """The address that the demo tells its reader."""
    return demo.until_it_says(r"Flower +(http://\S+)")[1]


@pytest.fixture
def client(demo: Demo) -> Iterator[Redlock]:
    """A client of the demo's lock nodes, patient with them: a browser and eight processes are busy beside them."""
    nodes = demo.until_it_says(r"lock nodes +(\S.*\S)")[1].split()
    with Redlock([f"unix://{node}" for node in nodes], node_timeout=2.0) as redlock:
        yield redlock


@pytest.mark.long
def test_its_tasks_are_shown_waiting_with_the_lock_and_done(flower: str, browser: Browser) -> None:
    seen: dict[str, list[str]] = {}

    def followed() -> bool:
        """Whether one task was seen in all states in turn, and tasks in all of them at one time."""
        # Set a filter of the page, as a click does.
        browser.value("void $('#tasks-table').DataTable().draw(false)")
        tasks = tasks_shown(browser)
        for task, state in tasks.items():
            states = seen.setdefault(task, [])
            if state in STATES and state not in states:
                states.append(state)
        return STATES in seen.values() and set(STATES) <= set(tasks.values())

    browser.open(f"{flower}/tasks?name=tasks.counter.increment")
    eventually(lambda: tasks_shown(browser), "tasks on the page", every=0.05)
    eventually(followed, "a task in all of its states", within=60, every=0.1)


@pytest.mark.long(ci=True)
def test_the_page_of_locks_names_the_task_that_the_nodes_name(flower: str, client: Redlock, browser: Browser) -> None:
    def held() -> list[str]:
        """The task, its worker and its token, as a quorum of the nodes has them."""
        holding = client.holder(RESOURCE)
        if holding is None:
            return []
        task, _, worker = holding.holder.partition(" ")[0].partition("@")
        return [task, worker, str(holding.fence)]

    def shown() -> list[str]:
        """The same from the page."""
        row = next((row for row in browser.rows("locks-table") if row[0] == RESOURCE), [])
        titles = "[...document.querySelectorAll('#locks-table a')].map(link => link.title)"
        return [*browser.value(titles), row[6]] if row else []

    def agreed() -> str:
        """The task that the page names, and the nodes before and after; none if they differ."""
        before, page, after = held(), shown(), held()
        return page[0] if page and before == page == after else ""

    browser.open(f"{flower}/locks")
    first = eventually(agreed, "page and nodes to name the same task", within=60, every=0.02)
    # The page follows: later tasks appear too.
    eventually(lambda: agreed() not in {"", first}, "both to name another task", within=60, every=0.02)
